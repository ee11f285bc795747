package engine

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"boxd/internal/asset"
)

// TestWhatIsKnownOfPeersIsBounded lets a torrent see new boxes for days: what is kept of those that went is dropped.
func TestWhatIsKnownOfPeersIsBounded(t *testing.T) {
	e := New(Options{IsLAN: func(netip.Addr) bool { return false }})
	s := &swarm{id: asset.ID{1}, slot: 1, policy: Policy{WANDown: true}, peers: map[string]*contact{}}
	e.torrents[s.id] = s
	now := time.Now()
	addr := netip.MustParseAddrPort("198.51.100.7:6881")
	const perHour, hours = 50, 120
	for hour := range hours {
		for i := range perHour {
			name := fmt.Sprintf("box-%d-%d", hour, i)
			s.peers[name] = &contact{peer: Peer{Box: name, Addr: addr}, wait: firstRedial, named: now}
		}
		if n := len(e.dueLocked(s, now)); n != perHour {
			t.Fatalf("hour %d: %d of %d new boxes are dialled", hour, n, perHour)
		}
		now = now.Add(contactLife + time.Minute)
	}
	if len(s.peers) > perHour || len(e.targets) > perHour {
		t.Errorf("%d contacts and %d targets are kept", len(s.peers), len(e.targets))
	}
	if len(e.pseudo) > maxNames {
		t.Errorf("%d names are kept", len(e.pseudo))
	}
	// A box whose made-up address changes has one target, and it can be dialled.
	c := &contact{peer: Peer{Box: "bad", Addr: addr}}
	before := len(e.targets)
	for range 100 {
		e.bans.renew("bad")
		if r := e.targetLocked(s, c); e.targets[r.key] != r {
			t.Fatal("the target cannot be dialled")
		}
	}
	if n := len(e.targets) - before; n != 1 {
		t.Errorf("one box has %d targets", n)
	}
}
