//go:build linux

package home

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"boxd/internal/netlab"
)

// TestHomesOverIPv6: two homes with public IPv6 prefixes behind routers that let nobody in unasked, and no IPv4 between
// them. The boxes have the first one's router open its firewall by PCP, find each other by the tracker, and what one home has
// the other takes from there.
func TestHomesOverIPv6(t *testing.T) {
	home := netlab.HomeConfig{
		Boxes: 1, Net6: true, Maps: netlab.NATPMP, Line: netlab.LineConfig{Down: 40e6, Up: 20e6, Delay: 10 * time.Millisecond},
	}
	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{home, home}})
	for _, h := range lab.Homes {
		must(t, h.Router.Nft("table ip closed { chain forward { type filter hook forward priority -1; policy drop; }\n}"))
	}
	s := newSetupIn(t, lab, lab.FleetIP6)
	film := s.publish("film.bin", 12*mib)
	s.campaign("film", film)
	first, second := s.boxes[0], s.boxes[1]
	first.start()
	ready(t, time.Minute, []*box{first}, film)
	inside := netip.AddrPortFrom(lab.Homes[0].Boxes[0].IP6, 6880).String()
	eventually(t, "the router lets others in", time.Minute, func() error {
		c, err := lab.WAN.Dial(t.Context(), "tcp", inside)
		if err != nil {
			return err
		}
		return c.Close()
	})
	before := lab.Homes[0].Line.Counters()
	second.start()
	at := ""
	eventually(t, "the film is ready in the other home", 2*time.Minute, func() error {
		st, err := second.status()
		if err != nil {
			return err
		}
		for _, p := range st.Peers {
			at = p.Address
		}
		if a, _ := st.Asset(film.id); a.Verified < film.size {
			return errors.New(a.Why)
		}
		return nil
	})
	second.played(film)
	a, sent := second.asset(film.id), lab.Homes[0].Line.Counters().Sub(before).Up.Bytes
	t.Logf("RESULT over IPv6 between homes: %+v, from %s; the other home sent %d KiB", a.Bytes, at, sent>>10)
	if a.Bytes.Peer < film.size*9/10 || sent < film.size*9/10 || !strings.HasPrefix(at, "[2001:db8:1:") {
		t.Errorf("bytes %+v, from %s; the other home sent %d", a.Bytes, at, sent)
	}
}
