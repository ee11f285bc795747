package fetch_test

import (
	"net/http"
	"testing"

	"boxd/internal/fetch"
)

// A limit of zero stops what other homes get, at once and in the middle, and leaves the household alone.
func TestAnUploadLimitOfZeroStopsTheWANOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 24<<20, 256<<10)
	here, there := newHousehold(1), newHousehold(2)
	giver := w.box(here, "box-a", 1, "", nil)
	giver.ready(info.ID)

	// The origin is gone, so that the other home gets what it gets from the giver.
	w.origin.misbehave(func(rw http.ResponseWriter, _ *http.Request) bool {
		http.Error(rw, "gone", http.StatusServiceUnavailable)
		return true
	})
	giver.SetLimits(fetch.Limits{WANUp: limit(2 << 20)})
	taker := w.box(there, "box-b", 1, "", nil)
	taker.await(info.ID, "on its way", func(a fetch.AssetStatus) bool { return a.Bytes.Peer > 0 })
	giver.SetLimits(fetch.Limits{WANUp: limit(0)})
	taker.await(info.ID, "cut off", func(a fetch.AssetStatus) bool { return a.Peers == 0 })
	giver.look()
	before := giver.Status().Sent.Peer
	got, _ := taker.asset(info.ID)
	if got.Verified == info.Length {
		t.Fatal("the other home had everything before the limit was set")
	}

	// The household has it nevertheless; by then the other home would have had time to get more.
	near := w.box(here, "box-c", 2, "", nil)
	if a := near.ready(info.ID); a.Bytes.LAN < info.Length || a.Bytes.WAN() != 0 {
		t.Errorf("the box beside it took %+v", a.Bytes)
	}
	giver.look()
	if after := giver.Status().Sent.Peer; after != before {
		t.Errorf("%d bytes went to the WAN after the limit was zero", after-before)
	}

	giver.SetLimits(fetch.Limits{})
	taker.ready(info.ID)
}

// look returns when everything was looked at once more: one call may come before that, and one while changes settle.
func (b *box) look() {
	for range 3 {
		b.Alive(b.w.t.Context())
	}
}
