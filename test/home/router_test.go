//go:build linux

package home

import (
	"errors"
	"testing"
	"time"

	"boxd/internal/netlab"
)

// TestRouterFails: the home's router dies in the middle of a fetch and comes back without its memory of connections, and
// later forwards nothing for a while. The boxes wait, keep what they have, and go on; no byte crosses the line for nothing.
func TestRouterFails(t *testing.T) {
	s := newSetup(t, netlab.HomeConfig{Boxes: 2, Line: netlab.LineConfig{Down: 10e6, Up: 5e6, Delay: 10 * time.Millisecond}})
	for _, b := range s.boxes {
		b.start()
	}
	atHome(t, s.boxes)
	film := s.publish("film.bin", 12*mib)
	router := s.home.Router
	arrived := func(part int64) {
		eventually(t, "a part of the film", 2*time.Minute, func() error {
			if s.boxes[0].asset(film.id).Verified < film.size*part/4 {
				return errors.New("not yet")
			}
			return nil
		})
	}
	const away = 8 * time.Second
	got := s.measure(func() {
		s.campaign("film", film)
		arrived(1)
		must(t, router.IP("link set wan down"))
		must(t, router.Nft("table ip home\ndelete table ip home\n"))
		<-time.After(away)
		if _, err := s.boxes[0].status(); err != nil {
			t.Error("without a router: ", err)
		}
		must(t, router.IP("link set wan up", "route add default via 100.64.0.1"))
		must(t, router.Nft(`table ip home {
	chain masq { type nat hook postrouting priority 100; oifname "wan" masquerade; }
}`))

		arrived(2)
		must(t, router.Nft(`table ip frozen {
	chain stop { type filter hook forward priority -1; policy drop; }
}`))
		<-time.After(away)
		must(t, router.Nft("delete table ip frozen"))
		ready(t, 2*time.Minute, s.boxes, film)
	})
	for _, b := range s.boxes {
		b.played(film)
	}
	raw := float64(got.down) / float64(film.size)
	t.Logf("RESULT the router dies and freezes for %v each: complete after %.1f s, %.3f raw copies over the line", away,
		got.took.Seconds(), raw)
	if raw > 1.2 { // 1.04 is what headers take
		t.Errorf("%.3f copies crossed the line", raw)
	}
}
