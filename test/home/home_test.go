//go:build linux

package home

import (
	"fmt"
	"testing"
	"time"

	"boxd/internal/netlab"
)

const mib = 1 << 20

// copies prints and returns how often an asset crossed the line, divided by what curl needed for it.
func copies(t *testing.T, what string, got, base load, bytes int64) float64 {
	t.Helper()
	raw := float64(got.down) / float64(bytes)
	ratio := float64(got.down) / float64(base.down)
	t.Logf("%s: %.3f copies (raw %.3f; curl raw %.3f), time %.2f of curl's (%.1f s, curl %.1f s), up %d KiB", what, ratio, raw,
		float64(base.down)/float64(bytes), got.took.Seconds()/base.took.Seconds(), got.took.Seconds(), base.took.Seconds(), got.up>>10)
	t.Logf("packets of %d bytes (curl %d), %d dropped (curl %d), %d sent again (curl %d)", got.down/max(got.packets, 1),
		base.down/max(base.packets, 1), got.dropped, base.dropped, got.resent, base.resent)
	return ratio
}

// TestHome is the short form, with room for a busy machine (the benches hold the aims): four boxes behind NAT get one film over a counted line, the courier is killed on the way of
// a second one, and a fifth box that comes later, and may not use the line at all, gets both.
func TestHome(t *testing.T) {
	s := newSetup(t, netlab.HomeConfig{Boxes: 5, Line: line})
	four := s.boxes[:4]
	for _, b := range four {
		b.start()
	}
	atHome(t, four)
	film := s.publish("film.bin", 32*mib)
	base := s.curl(film)
	got := s.measure(func() {
		s.campaign("film", film)
		ready(t, 2*time.Minute, four, film)
	})
	if c := copies(t, "4 boxes", got, base, film.size); c > 1.1 {
		t.Errorf("%.3f copies crossed the line", c)
	}
	for _, b := range four {
		b.played(film)
	}

	second := s.publish("second.bin", 32*mib)
	var rest []*box
	got = s.measure(func() {
		s.campaign("second", second)
		rest = killCourier(t, four, second)
		ready(t, 2*time.Minute, rest, second)
	})
	if c := copies(t, "4 boxes, courier killed half-way", got, base, second.size); c > 1.25 {
		t.Errorf("%.3f copies crossed the line", c)
	}

	late := s.boxes[4]
	late.configure("[limits]\nwan_down = \"0\"\nwan_up = \"0\"\nmonthly_wan = \"0\"\n") // of the access line only
	got = s.measure(func() {
		late.start()
		ready(t, 2*time.Minute, []*box{late}, film, second)
	})
	copies(t, "late box, two films", got, base, film.size)
	late.played(film)
	if a := late.asset(film.id); a.Bytes.WAN() != 0 {
		t.Errorf("late box: %+v", a.Bytes)
	}
	if got.down > mib {
		t.Errorf("the late box took %d bytes over the line", got.down)
	}
	s.stranger(t, late, film)
}

// courierOf waits until the courier of an asset has this share of it.
func courierOf(t *testing.T, boxes []*box, m media, share float64) *box {
	t.Helper()
	var found *box
	eventually(t, "a courier on its way", 2*time.Minute, func() error {
		for _, b := range boxes {
			a := b.asset(m.id)
			if (a.Role == "courier" || a.Role == "alone") && float64(a.Verified) >= share*float64(m.size) {
				found = b
				return nil
			}
		}
		return fmt.Errorf("nobody has %.2f of it", share)
	})
	return found
}

// killCourier kills the courier half-way and returns the others.
func killCourier(t *testing.T, boxes []*box, m media) (rest []*box) {
	t.Helper()
	dead := courierOf(t, boxes, m, 0.5)
	dead.kill()
	for _, b := range boxes {
		if b != dead {
			rest = append(rest, b)
		}
	}
	return rest
}
