package fetch_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
	"boxd/internal/lan"
)

// Pieces of a day are 16 KiB, and its line brings one of them each second.
const dayPiece = 16 << 10

// shut publishes an asset of so many pieces whose window opens in the evening.
func (d *day) shut(name string, pieces int) asset.ID {
	id := d.publish(name, pieces*dayPiece)
	d.campaign(name[:1], catalog.Campaign{Windows: []catalog.Window{hm("22:00", "23:00", -1)}}, id)
	return id
}

func (d *day) here(id asset.ID) (list []int) {
	k := d.kept(id)
	for i := range k.have {
		if k.Have(i) {
			list = append(list, i)
		}
	}
	return list
}

// Outside of its windows an asset that is played opens the access line for what is played, and for nothing else.
func TestPlayingBringsOnlyWhatIsPlayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		a := d.shut("film", 64)
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		if n := d.origin.sent.Load(); n != 0 {
			t.Fatalf("%d bytes came before anybody played", n)
		}
		d.kept(a).play(10, 14)
		d.wait(2 * time.Second)
		d.why(a, "Someone is watching it")
		d.wait(time.Minute)
		if got := d.here(a); !slices.Equal(got, []int{10, 11, 12, 13}) || d.origin.sent.Load() != 4*dayPiece {
			t.Errorf("pieces %v came, %d bytes", got, d.origin.sent.Load())
		}
		d.why(a, "window")
		d.stop()
		if d.Status().MonthWAN < 4*dayPiece {
			t.Errorf("%d bytes count against the budget", d.Status().MonthWAN)
		}
	})
}

// Where the box's owner does not want it, playing opens the access line no sooner than its window does.
func TestPlayingWaitsForTheWindowWhereItMustNotOpenTheLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 21:30")
		a := d.shut("film", 64)
		d.start(fetch.Limits{PlaybackOff: true})
		d.kept(a).play(10, 14)
		d.wait(20 * time.Minute)
		if n := d.origin.sent.Load(); n != 0 {
			t.Errorf("%d bytes came outside of the window", n)
		}
		d.why(a, "window")
		d.wait(11 * time.Minute)
		if !d.kept(a).Have(13) {
			t.Errorf("in its window %v came", d.here(a))
		}
		d.stop()
	})
}

// What a player waits for gets the whole line, piece after piece; a seek ends what it made useless.
func TestAPlayerGetsTheLineAndSeeks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		a := d.shut("film", 200)
		d.start(fetch.Limits{})
		k := d.kept(a)
		for _, at := range []int{0, 150, 100, 20} {
			k.play(at, at+40)
			for i := range 5 {
				begin := time.Now()
				for !k.Have(at + i) {
					d.wait(50 * time.Millisecond)
					if took := time.Since(begin); took > 1900*time.Millisecond {
						t.Fatalf("piece %d after a seek to %d: not here after %v", i, at, took)
					}
				}
			}
			if got := d.here(a); slices.Max(got[len(got)-5:]) > max(154, at+6) {
				t.Errorf("after a seek to %d: %v", at, got)
			}
		}
		if n := len(d.here(a)); n < 20 || n > 26 {
			t.Errorf("%d pieces for 20 that were played", n)
		}
		d.stop()
	})
}

// What a player lacks comes in its order, over one request at a time, also where it is scattered as the segments of a package
// are; what is only wanted later, such as what followed before a seek, gives way.
func TestWhatAPlayerWaitsForDoesNotShareTheLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		a := d.shut("film", 400)
		d.start(fetch.Limits{})
		k := d.kept(a)
		segment := func(first int, soon, now bool) fetch.Span {
			return fetch.Span{First: first, End: first + 10, Soon: soon, Now: now}
		}
		k.need(segment(0, true, true), segment(100, true, false), segment(20, false, false))
		d.wait(12 * time.Second)
		if got := d.here(a); len(got) < 8 || slices.Max(got) > 9 && len(got) < 10 {
			t.Errorf("in 12 s of the first segment came %v", got)
		}
		d.wait(12 * time.Second)
		if got := d.here(a); len(got) < 18 || got[len(got)-1] > 109 {
			t.Errorf("in 24 s of the first two segments came %v", got)
		}
		k.need(segment(200, true, true), segment(20, false, false), segment(120, false, false))
		d.wait(13 * time.Second)
		for i := range 10 {
			if !k.Have(200 + i) {
				t.Errorf("in 13 s after a seek came %v", d.here(a))
				break
			}
		}
		// Two players that lack something each both get some.
		k.need(segment(300, true, true), segment(310, true, false), segment(350, true, true), segment(360, true, false))
		d.wait(12 * time.Second)
		if !k.Have(302) || !k.Have(352) || k.Have(309) && k.Have(359) {
			t.Errorf("in 12 s for two players came %v", d.here(a))
		}
		d.stop()
	})
}

// While somebody waits for one asset, another, in its window, gets a small part of the line; afterwards all of it.
func TestOthersYieldToAPlayer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		a := d.shut("film", 200)
		b := d.publish("nightly", 600*dayPiece)
		d.campaign("b", catalog.Campaign{}, b)
		d.start(fetch.Limits{})
		d.wait(20 * time.Second)
		before := d.kept(b).HaveCount()
		d.kept(a).play(0, 30)
		d.wait(30 * time.Second)
		if n := d.kept(a).HaveCount(); n < 22 {
			t.Errorf("%d pieces came in 30 s for a player", n)
		}
		d.wait(10 * time.Second)
		if n := d.kept(a).HaveCount(); n != 30 {
			t.Errorf("%d pieces came in 40 s for a player that needed 30", n)
		}
		mid := d.kept(b).HaveCount()
		d.wait(20 * time.Second)
		if n := d.kept(b).HaveCount() - mid; n < 15 || before < 15 {
			t.Errorf("the other got %d pieces in 20 s before, and %d afterwards", before, n)
		}
		d.stop()
	})
}

// told is a home whose courier is fixed, and whose other box tells what a test says.
type told struct {
	courier string
	self    string
	mu      sync.Mutex // guards the fields below
	other   lan.Neighbour
	told    lan.Self
}

func (h *told) SetSelf(s lan.Self) { h.mu.Lock(); defer h.mu.Unlock(); h.told = s }
func (h *told) Neighbours() []lan.Neighbour {
	h.mu.Lock()
	defer h.mu.Unlock()
	return []lan.Neighbour{h.other}
}

func (h *told) Courier(asset.ID) (box string, me bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.courier, h.courier == h.self
}
func (h *told) IsLAN(netip.Addr) bool    { return false }
func (h *told) Changed() <-chan struct{} { return nil }

func (h *told) demand(d ...lan.Demand) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.other.Demand = d
}

// A follower tells the courier what its player needs, and fetches it itself when it does not come.
func TestAFollowerHelpsItselfWhenTheCourierDoesNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		h := &told{courier: "box-b", self: "box-a", other: lan.Neighbour{ID: "box-b", WAN: true}}
		d.home = h
		a := d.publish("film", 200*dayPiece)
		d.campaign("c", catalog.Campaign{}, a)
		h.other.Wants = []lan.Want{{ID: a, InFlight: true}}
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		d.kept(a).play(50, 60)
		d.wait(2 * time.Second)
		h.mu.Lock()
		demand := h.told.Demand
		h.mu.Unlock()
		if len(demand) != 10 || demand[0] != (lan.Demand{ID: a, First: 50, Last: 50, Soon: true}) {
			t.Errorf("the courier is told %+v", demand)
		}
		if n := d.origin.sent.Load(); n != 0 {
			t.Errorf("%d bytes came over the access line at once", n)
		}
		d.wait(4 * time.Second)
		if !d.kept(a).Have(50) {
			t.Errorf("the player still waits after 6 s: %s", d.asset(a).Why)
		}
		d.why(a, "fetches it itself")
		d.wait(2 * time.Minute)
		if got := d.here(a); len(got) != 10 || got[0] != 50 {
			t.Errorf("pieces %v came", got)
		}
		d.kept(a).play(80, 82)
		d.wait(2 * time.Second)
		if d.kept(a).Have(80) {
			t.Error("long after that it did not ask the courier first")
		}
		d.wait(10 * time.Second)
		d.kept(a).play(90, 92)
		d.wait(2 * time.Second)
		if !d.kept(a).Have(90) {
			t.Error("it asked a courier first that had just been too slow")
		}
		d.stop()
	})
}

// Outside of its windows a box offers to carry what a player elsewhere in the home needs whose box may not use the access
// line, and nothing else.
func TestABoxCarriesForAPlayerWhoseBoxMayNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		h := &told{self: "box-a", other: lan.Neighbour{ID: "box-b", WAN: true}}
		d.home = h
		a := d.shut("film", 64)
		d.start(fetch.Limits{})
		offers := func(when string, noWAN bool, want bool, demand ...lan.Demand) {
			t.Helper()
			h.mu.Lock()
			h.other.Wants, h.other.Demand = []lan.Want{{ID: a, NoWAN: noWAN}}, demand
			h.mu.Unlock()
			d.wait(12 * time.Second)
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.told.Wants) != 1 || h.told.Wants[0].NoWAN == want {
				t.Errorf("%s: it tells %+v", when, h.told.Wants)
			}
		}
		needs := lan.Demand{ID: a, First: 7, Last: 9, Soon: true}
		offers("nobody plays", true, false)
		offers("a player whose box may", false, false, needs)
		offers("a player whose box may not", true, true, needs)
		h.mu.Lock()
		h.courier = "box-a"
		h.mu.Unlock()
		d.wait(30 * time.Second)
		if got := d.here(a); !slices.Equal(got, []int{7, 8, 9}) {
			t.Errorf("for that player came %v", got)
		}
		offers("it has ended", true, false)
		d.stop()
	})
}

// gap is where the longest run of missing pieces begins.
func gap(k *memAsset) (best int) {
	length, n := 0, 0
	for i := range k.have {
		if n++; k.Have(i) {
			n = 0
		}
		if n > length {
			best, length = i+1-n, n
		}
	}
	return best
}

// A courier brings first what a player elsewhere in the home waits for, and ends what is not needed now.
func TestACourierPutsTheHomesPlayersFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		h := &told{courier: "box-a", self: "box-a", other: lan.Neighbour{ID: "box-b", WAN: true}}
		d.home = h
		a := d.publish("film", 400*dayPiece)
		d.campaign("c", catalog.Campaign{}, a)
		h.other.Wants = []lan.Want{{ID: a}}
		d.start(fetch.Limits{})
		d.wait(20 * time.Second)
		k := d.kept(a)
		for range 2 {
			at := gap(k) + 20 // far from what comes now
			if k.HaveCount() == 0 || k.Have(at) {
				t.Fatalf("before: %v", d.here(a))
			}
			h.demand(lan.Demand{ID: a, First: at, Last: at + 1, Soon: true}, lan.Demand{ID: a, First: at + 2, Last: at + 5})
			d.wait(5 * time.Second)
			if !k.Have(at) || !k.Have(at+1) {
				t.Errorf("the player at %d still waits: %v", at, d.here(a))
			}
		}
		h.demand()
		before := d.kept(a).HaveCount()
		d.wait(20 * time.Second)
		if n := d.kept(a).HaveCount() - before; n < 15 {
			t.Errorf("%d pieces in 20 s after the player left", n)
		}
		d.stop()
	})
}
