package pace

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A window smaller than a packet lets nothing through but probes, four a second: loopback's packets are of 64 KiB, and some
// lines have packets of 9,000 bytes.
func TestWindowsHoldPackets(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := NewSockets()
	k := s.Add(a)
	k.Expect(1 << 20)
	s.Look(time.Now(), initialRate, time.Millisecond)
	if k.packet <= leastWindow {
		t.Fatalf("loopback has packets of %d bytes: this shows nothing", k.packet)
	}
	if k.clamp < leastAhead*k.packet || k.buffer < k.clamp {
		t.Errorf("a window of %d and a buffer of %d bytes for packets of %d", k.clamp, k.buffer, k.packet)
	}
}

// Where the kernel never takes a bound back, none is set, or a fast line would stay slow for good.
func TestBuffersAreBoundedOnlyWhereThatCanEnd(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	raw := rawConn(c)
	size := func() (n int) {
		if err := raw.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	free := size()
	buffers{most: usualBuffer}.bound(raw, leastBuffer)
	if got := size(); got != free {
		t.Errorf("%d bytes, %d before: an old kernel's buffer was bounded for good", got, free)
	}
	buffers{most: ampleBuffer}.bound(raw, leastBuffer)
	if got := size(); got != 2*leastBuffer {
		t.Errorf("%d bytes where the bound can be widened enough", got)
	}
	k := kernelBuffers()
	k.bound(raw, k.most)
	if got := size(); k.unlock && got != 2*k.most {
		t.Errorf("%d bytes of a buffer; %d may be asked for", got, k.most)
	}
}
