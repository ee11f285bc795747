package schedule

import (
	"testing"
	"time"
)

// What is watched takes no place from a want whose deadline is in danger.
func TestWhatIsWatchedHoldsNoOtherBack(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := Input{BoxID: "b", ClockTrusted: true, CatalogFresh: true, LineRate: 1 << 20, PlayOpensWAN: true}
	add := func(id string, c Campaign, a Asset) {
		a.ID, a.Length, a.Missing, c.ID, c.Assets = id, 1<<30, 1<<30, id, []Ref{{ID: id}}
		in.Campaigns, in.Assets = append(in.Campaigns, c), append(in.Assets, a)
	}
	add("film1", Campaign{}, Asset{Playing: true})
	add("film2", Campaign{}, Asset{Playing: true})
	add("danger", Campaign{Deadline: now.Add(25 * time.Minute)}, Asset{})
	add("other", Campaign{Priority: 1}, Asset{})
	add("last", Campaign{}, Asset{})
	for _, w := range Decide(now, in).Wants {
		if w.WAN != (w.ID != "last") {
			t.Errorf("%s: wan %v, %s", w.ID, w.WAN, w.Reason.Text)
		}
	}
}

func TestAStarvedFollowerMayUseItsOpenWindow(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.PlayOpensWAN = false
	in.Campaigns[0].Windows = []Window{{From: 11 * 60, To: 13 * 60, Rate: LimitTo(1 << 20)}}
	a := &in.Assets[0]
	a.Follower, a.Playing = true, true
	if w := only(t, Decide(now, in)); w.WAN || w.Reason.Code != CodeFollower {
		t.Errorf("one that is not starved: wan %v, %s", w.WAN, w.Reason.Text)
	}
	a.Starved = true
	if w := only(t, Decide(now, in)); !w.WAN || !w.PlayOnly || w.Rate != LimitTo(1<<20) {
		t.Errorf("in its window: wan %v, play only %v, rate %v, %s", w.WAN, w.PlayOnly, w.Rate, w.Reason.Text)
	}
	if w := only(t, Decide(now.Add(2*time.Hour), in)); w.WAN {
		t.Errorf("outside of it: wan %v, %s", w.WAN, w.Reason.Text)
	}
	in.PlayOpensWAN = true
	if w := only(t, Decide(now.Add(2*time.Hour), in)); !w.WAN || w.Rate.Set {
		t.Errorf("outside of it, where play opens the line: wan %v, rate %v", w.WAN, w.Rate)
	}
}

// A player is not slower off in an open window than outside of it, and gets no more than it needs beyond the window's rate.
func TestAPlayerHasTheLineInAWindowWithARateToo(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		rate     int64
		opens    bool
		playOnly bool
	}{{1 << 20, true, true}, {1 << 20, false, false}, {20 << 20, true, false}} {
		in := base() // the line gives 10 MiB/s
		in.PlayOpensWAN = c.opens
		in.Campaigns[0].Windows = []Window{{From: 11 * 60, To: 13 * 60, Rate: LimitTo(c.rate)}}
		if w := only(t, Decide(now, in)); !w.WAN || w.Rate != LimitTo(c.rate) || w.PlayOnly {
			t.Errorf("%+v, nobody plays: rate %v, play only %v", c, w.Rate, w.PlayOnly)
		}
		in.Assets[0].Playing = true
		if w := only(t, Decide(now, in)); !w.WAN || w.PlayOnly != c.playOnly || w.Rate.Set == c.playOnly {
			t.Errorf("%+v, somebody plays: rate %v, play only %v", c, w.Rate, w.PlayOnly)
		}
	}
}
