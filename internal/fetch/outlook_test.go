package fetch_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
	"boxd/internal/lan"
)

// lonely is a home in which there is no other box: this one is courier of what it offers to carry.
type lonely struct{ told }

func (h *lonely) Neighbours() []lan.Neighbour { return nil }
func (h *lonely) Courier(id asset.ID) (box string, me bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told.told.WAN && slices.ContainsFunc(h.told.told.Wants, func(w lan.Want) bool { return w.ID == id && !w.NoWAN }) {
		return "box-a", true
	}
	return "", false
}

// A box that is alone at home says why it does not fetch, and when it will; it names no other box.
func TestABoxAloneNamesNoOtherBox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		d.home = &lonely{}
		a := d.publish("film", 64*dayPiece)
		d.campaign("night", catalog.Campaign{Windows: []catalog.Window{hm("18:00", "19:00", -1)}}, a)
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		d.why(a, "Its next window opens today at 18:00.")
		if s := d.asset(a); s.Role != fetch.RoleAlone || s.Code != "window" {
			t.Errorf("role %q, code %q", s.Role, s.Code)
		}
		if next := d.Status().Next; !next.Equal(d.at("2026-06-05 18:00")) {
			t.Errorf("it thinks again %v", next)
		}
		slots := d.Schedule(d.now(), 24*time.Hour)
		if len(slots) < 2 || slots[0].Reason != "Its next window opens today at 18:00." || !slots[0].To.Equal(d.at("2026-06-05 18:00")) ||
			len(slots[1].Active) != 1 {
			t.Errorf("the coming day: %+v", slots)
		}
		d.until("2026-06-05 18:01")
		if n := d.kept(a).HaveCount(); n < 32 {
			t.Errorf("%d pieces a minute after the window opened: %s", n, d.asset(a).Why)
		}
		d.stop()
	})
}

// Where others are at home and nobody may fetch, each says why itself does not.
func TestWhereNobodyMayFetchTheReasonIsTheWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		h := &told{self: "box-a", other: lan.Neighbour{ID: "box-b", WAN: true}}
		d.home = h
		a := d.publish("film", 64*dayPiece)
		d.campaign("night", catalog.Campaign{Windows: []catalog.Window{hm("18:00", "19:00", -1)}}, a)
		h.other.Wants = []lan.Want{{ID: a, NoWAN: true}}
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		d.why(a, "Its next window opens today at 18:00.")
		set := func(change func()) { h.mu.Lock(); change(); h.mu.Unlock(); d.wait(12 * time.Second) }
		set(func() { h.other.Holds = []asset.ID{a} })
		d.why(a, "It comes from the other boxes of the home")
		set(func() { h.other.Holds, h.courier = nil, "box-b" })
		d.why(a, "It comes from box-b")
		d.stop()
	})
}

// A player is told at once when nothing can bring what is not here, and not when something can.
func TestOutlookForAPlayer(t *testing.T) {
	t.Parallel()
	shut := catalog.Campaign{Windows: []catalog.Window{hm("18:00", "19:00", -1)}}
	for _, c := range []struct {
		name   string
		limits fetch.Limits
		change func(*day)
		other  func(asset.ID) lan.Neighbour // nil: there is none
		want   fetch.Outlook
		code   string
	}{
		{name: "play opens the line", want: fetch.Comes, code: "window"},
		{name: "play does not", limits: fetch.Limits{PlaybackOff: true}, want: fetch.Stays, code: "window"},
		{name: "the window is open", limits: fetch.Limits{PlaybackOff: true}, want: fetch.Comes, change: func(d *day) {
			d.clock.set(d.at("2026-06-05 18:10"))
		}},
		{name: "the line is off", limits: fetch.Limits{WANDown: limit(0)}, want: fetch.Stays, code: "limit-zero"},
		{name: "the budget is spent", limits: fetch.Limits{Budget: limit(0)}, want: fetch.Stays, code: "budget"},
		{name: "no clock", want: fetch.Stays, code: "clock", change: func(d *day) { d.clock.trusted.Store(false) }},
		{name: "a neighbour holds it", limits: fetch.Limits{PlaybackOff: true}, want: fetch.Comes, other: func(a asset.ID) lan.Neighbour {
			return lan.Neighbour{ID: "box-b", Holds: []asset.ID{a}}
		}},
		{name: "a neighbour may carry it", limits: fetch.Limits{PlaybackOff: true}, want: fetch.MayCome, other: func(a asset.ID) lan.Neighbour {
			return lan.Neighbour{ID: "box-b", WAN: true, Wants: []lan.Want{{ID: a, NoWAN: true}}}
		}},
		{name: "a neighbour has some", limits: fetch.Limits{PlaybackOff: true}, want: fetch.MayCome, other: func(a asset.ID) lan.Neighbour {
			return lan.Neighbour{ID: "box-b", Wants: []lan.Want{{ID: a, NoWAN: true, Have: 3}}}
		}},
		{name: "a neighbour is no help", limits: fetch.Limits{PlaybackOff: true}, want: fetch.Stays, other: func(a asset.ID) lan.Neighbour {
			return lan.Neighbour{ID: "box-b", Wants: []lan.Want{{ID: a, NoWAN: true}}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDay(t, "2026-06-05 12:00")
				a := d.publish("film", 4000*dayPiece)
				d.campaign("night", shut, a)
				h := &told{self: "box-a"}
				if c.other != nil {
					h.other = c.other(a)
					d.home = h
				} else {
					d.home = &lonely{}
				}
				if c.change != nil {
					c.change(d)
				}
				d.start(c.limits)
				d.wait(20 * time.Second)
				if s := d.asset(a); s.Outlook != c.want || c.code != "" && s.Code != c.code {
					t.Errorf("outlook %v, code %q, want %v, %q: %s", s.Outlook, s.Code, c.want, c.code, s.Why)
				}
				d.stop()
			})
		})
	}
}

// In a window with a rate a player has the whole line, as outside of it, and what nobody plays keeps to the rate.
func TestAPlayerInAWindowWithARateHasTheLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 22:10")
		a := d.publish("film", 400*dayPiece)
		d.campaign("f", catalog.Campaign{Windows: []catalog.Window{hm("22:00", "23:00", 1<<10)}}, a)
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		if n := d.kept(a).HaveCount(); n > 8 {
			t.Errorf("nobody plays: %d pieces in a minute", n)
		}
		d.kept(a).play(100, 130)
		d.wait(time.Minute)
		if n := d.kept(a).HaveCount(); n < 25 || n > 60 {
			t.Errorf("somebody plays: %d pieces after another minute, 30 of them needed", n)
		}
		d.stop()
	})
}
