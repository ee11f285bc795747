package lan

import (
	"net"
	"net/netip"
	"testing"
)

// connFrom is a connection of which only its other end's address is asked.
type connFrom struct {
	net.Conn
	from string
}

func (c connFrom) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}

// TestWhoMayEnter: who is not in this home is sent away before a byte is read, and who is there cannot take all places.
func TestWhoMayEnter(t *testing.T) {
	l := &LAN{onlink: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}}
	for _, from := range []string{"203.0.113.9:4000", "192.168.2.9:4000", "[2001:db8::9]:4000"} {
		if l.mayEnter(connFrom{from: from}) {
			t.Errorf("%s may enter", from)
		}
	}
	if n := l.stats.offLink.Load(); n != 3 {
		t.Errorf("%d of 3 were counted", n)
	}
	for i := range maxPending + 5 {
		if l.mayEnter(connFrom{from: "192.168.1.9:4000"}) != (i < maxPending) {
			t.Errorf("connection %d that says nothing yet: %v", i, i >= maxPending)
		}
	}
	if n := l.stats.refused.Load(); n != 5 {
		t.Errorf("%d of 5 were counted", n)
	}
}
