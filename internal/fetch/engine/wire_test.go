package engine

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// writes notes what is written to it, each time.
type writes struct {
	net.Conn
	list [][]byte
}

func (w *writes) Write(p []byte) (int, error) {
	w.list = append(w.list, bytes.Clone(p))
	return len(p), nil
}

func TestWhatIsHeldLeavesAtOneTimeAndInOrder(t *testing.T) {
	below := &writes{}
	w := newWire(below)
	put := func(p []byte) {
		if n, err := w.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	put([]byte("a"))
	w.hold()
	put([]byte("b"))
	put([]byte("c"))
	if len(below.list) != 1 {
		t.Fatalf("%q left while it was held", below.list[1:])
	}
	if err := w.release(); err != nil {
		t.Fatal(err)
	}
	put([]byte("d"))
	if got := bytes.Join(below.list, []byte{'|'}); string(got) != "a|bc|d" {
		t.Errorf("%q", got)
	}
	w.hold()
	big := bytes.Repeat([]byte("0123456789abcdef"), wireWrite/16)
	below.list = nil
	put(big[:10])
	put(big)
	put(append(bytes.Clone(big), 'x'))
	if err := w.release(); err != nil {
		t.Fatal(err)
	}
	want := append(append(append(bytes.Clone(big[:10]), big...), big...), 'x')
	if got := bytes.Join(below.list, nil); !bytes.Equal(got, want) {
		t.Errorf("%d bytes in other order or number, want %d", len(got), len(want))
	}
}

// overTCP returns both ends of a connection, one of them a wire.
func overTCP(t *testing.T) (*wire, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := Wires(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	w := wireOf(near)
	w.wait()
	return w, far
}

func TestAReaderThatWaitsForMuchGetsLittleToo(t *testing.T) {
	w, far := overTCP(t)
	for i := range 3 {
		w.expect(wireRead)
		if _, err := far.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(w, b); err != nil || string(b) != "hello" {
			t.Fatalf("round %d: %q, %v", i, b, err)
		}
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	go func() { _, _ = far.Write(sent); _ = far.Close() }()
	w.expect(wireRead)
	got, err := io.ReadAll(w)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes, %v", len(got), len(sent), err)
	}
}

func TestDeadlinesHoldForAReaderThatWaitsForMuch(t *testing.T) {
	w, _ := overTCP(t)
	for _, low := range []int{1, wireRead} {
		w.expect(low)
		if err := w.SetReadDeadline(time.Now().Add(3 * wireLimit)); err != nil {
			t.Fatal(err)
		}
		if n, err := w.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
	}
	w.expect(wireRead)
	if err := w.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := w.Read(make([]byte, 1)); done <- err }()
	_ = w.SetReadDeadline(time.Unix(1, 0)) // ends the read, whether it has begun or not
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	w.expect(wireRead)
	go func() { _, err := w.Read(make([]byte, 1)); done <- err }()
	_ = w.Close()
	if err := <-done; err == nil {
		t.Error("a closed connection was read")
	}
}
