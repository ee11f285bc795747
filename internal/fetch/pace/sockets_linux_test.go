package pace

import (
	"net"
	"testing"
	"time"
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
