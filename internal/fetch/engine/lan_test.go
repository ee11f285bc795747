package engine

import (
	"net"
	"testing"
	"time"

	"boxd/internal/fetch/pace"
)

// TestTheHomesCapHoldsBothWays: bytes between boxes of the home pay into a bucket of their own, those of the access line
// do not touch it.
func TestTheHomesCapHoldsBothWays(t *testing.T) {
	e := New(Options{})
	e.Down().SetRate(0)
	e.Up().SetRate(0) // the access line's limits are not the home's
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ca := e.newConn(a, &remote{class: LAN}, true)
	cb := e.newConn(b, &remote{class: LAN}, false)
	e.LAN().SetRate(4 << 20)
	const size = 2 << 20
	done := make(chan error, 1)
	start := time.Now()
	go func() {
		_, err := ca.Write(make([]byte, size))
		done <- err
	}()
	buf := make([]byte, 64<<10)
	for got := 0; got < size; {
		n, err := cb.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// One byte is paid for by each of its two ends, and both are in this engine.
	if took := time.Since(start); took < 900*time.Millisecond {
		t.Errorf("%d bytes passed in %v at 4 MiB/s for both ways", size, took)
	}
	e.LAN().SetRate(pace.Unlimited)
	if e.Down().Passed() != 0 || e.Up().Passed() != 0 {
		t.Errorf("the access line was charged %d and %d bytes", e.Down().Passed(), e.Up().Passed())
	}
}
