package fetch_test

import (
	"testing"
	"time"

	"boxd/internal/fetch"
)

func TestThreeBoxesOfAHomeTakeOneCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 24<<20+123, 256<<10)
	home := newHousehold(1)
	boxes := []*box{
		w.box(home, "box-a", 1, "", nil), w.box(home, "box-b", 2, "", nil), w.box(home, "box-c", 3, "", nil),
	}
	began := time.Now()
	var wan, lan int64
	for _, b := range boxes {
		a := b.ready(info.ID)
		t.Logf("%s after %v: %+v", b.name, time.Since(began).Round(time.Millisecond), a.Bytes)
		if a.Bytes.Total() < info.Length || a.Bytes.Total()-a.Wasted != info.Length {
			t.Errorf("%s counted %+v with %d wasted for %d bytes", b.name, a.Bytes, a.Wasted, info.Length)
		}
		wan, lan = wan+a.Bytes.WAN(), lan+a.Bytes.LAN
	}
	for _, b := range boxes {
		b.kill()
	}
	gave := map[[2]string][2]int64{} // as the giver and as the taker counts it
	for _, b := range boxes {
		var in int64
		for _, x := range b.Status().Boxes {
			out, inn := gave[[2]string{b.name, x.Box}], gave[[2]string{x.Box, b.name}]
			out[0], inn[1] = out[0]+x.Out, inn[1]+x.In
			gave[[2]string{b.name, x.Box}], gave[[2]string{x.Box, b.name}] = out, inn
			in += x.In
			if !x.LAN {
				t.Errorf("%s counts %+v as outside", b.name, x)
			}
		}
		if got := b.Status().Bytes.LAN; in != got {
			t.Errorf("%s: %d bytes by box, %d over the LAN", b.name, in, got)
		}
	}
	for pair, n := range gave {
		if n[0] < n[1] || n[0] > n[1]+2<<20 { // blocks may be under way to a box that is stopped
			t.Errorf("%s says that it gave %s %d bytes, which took %d", pair[0], pair[1], n[0], n[1])
		}
	}
	if sent := w.origin.sent.Load(); float64(sent) > 1.02*float64(info.Length) || wan != sent {
		t.Errorf("the origin sent %d bytes, the boxes counted %d, for an asset of %d", sent, wan, info.Length)
	}
	if lan < 2*info.Length {
		t.Errorf("only %d bytes came over the LAN", lan)
	}
}

func TestTheNextTakesOverFromWhatIsInTheHome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 32<<20, 256<<10)
	home := newHousehold(1)
	slow := func(o *fetch.Options, _ *cacheOptions) { o.Limits.WANDown = limit(8 << 20) }
	a := w.box(home, "box-a", 1, "", slow)
	b := w.box(home, "box-b", 2, "", slow)
	b.await(info.ID, "half way", func(s fetch.AssetStatus) bool { return s.Verified > info.Length/3 })
	a.kill()
	s := b.ready(info.ID)
	was, _ := a.asset(info.ID)
	t.Logf("box-a took %+v, box-b took %+v of %d", was.Bytes, s.Bytes, info.Length)
	// What box-a had not given yet is lost; how much that is depends on the machine.
	if float64(s.Bytes.Total()) > 1.1*float64(info.Length) || s.Bytes.LAN < info.Length/4 {
		t.Errorf("box-b did not go on from what was in the home: %+v of %d", s.Bytes, info.Length)
	}
	// The first comes back and has the rest from the home.
	again := w.box(home, "box-a", 1, a.dir, slow)
	s = again.ready(info.ID)
	if s.Bytes.LAN == 0 {
		t.Errorf("the box that came back took %+v", s.Bytes)
	}
}

func TestHomesTradeOverTheWAN(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 16<<20, 256<<10)
	w.camp.Deadline = time.Now().Add(time.Hour)
	var boxes []*box
	for i := range 4 {
		home := newHousehold(i + 1)
		boxes = append(boxes, w.box(home, "box-"+string(rune('a'+i)), 1, "", func(o *fetch.Options, _ *cacheOptions) {
			o.Limits.WANDown, o.Limits.WANUp = limit(6<<20), limit(6<<20)
		}))
	}
	for _, b := range boxes {
		s := b.ready(info.ID)
		t.Logf("%s: %+v wasted %d", b.name, s.Bytes, s.Wasted)
	}
	copies := float64(w.origin.sent.Load()) / float64(info.Length)
	t.Logf("the origin sent %.2f copies to 4 homes", copies)
	if copies > 2 {
		t.Errorf("the origin sent %.2f copies", copies)
	}
}
