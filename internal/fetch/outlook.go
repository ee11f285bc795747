package fetch

import (
	"slices"
	"time"

	"boxd/internal/asset"
	"boxd/internal/lan"
	"boxd/internal/schedule"
)

// Outlook is whether an asset that is not here would come if a player asked for it.
type Outlook int

// The outlooks.
const (
	Comes   Outlook = iota // over the access line, or from the home
	MayCome                // if another box of the home can give it or may carry it, which asking shows
	Stays                  // where it is: the reason says why
)

// homeKnown is how long after its start a box may not know yet who else is at home, and after it heard of an asset whether
// the others want it, too.
const homeKnown = 5 * time.Second

// outlook tells whether a player should wait for what is not here.
func (f *Fetcher) outlook(it *item) Outlook {
	switch {
	case it.complete():
		return Comes
	case !it.want.Fetch:
		return Stays
	case f.mayPlay(it), it.courier != "", it.store != nil && it.store.Unknown() > 0:
		return Comes
	case f.o.LAN == nil:
		return Stays
	case f.neighbourHolds(it.id):
		return Comes
	case time.Since(f.begun) < homeKnown, time.Since(it.made) < homeKnown:
		return MayCome
	}
	for _, n := range f.o.LAN.Neighbours() {
		if slices.ContainsFunc(n.Wants, func(w lan.Want) bool { return w.ID == it.id && (n.WAN || w.Have > 0) }) {
			return MayCome
		}
	}
	return Stays
}

// mayPlay says that the access line may be used for an asset if somebody plays it.
func (f *Fetcher) mayPlay(it *item) bool {
	limits, _, _ := f.wishes()
	switch it.alone.Reason.Code {
	case schedule.CodeClock, schedule.CodeLimitZero, schedule.CodeBudget:
		return false
	case schedule.CodeWindow:
		return !limits.PlaybackOff
	}
	return true
}

// carriedByNobody says that no box of the home holds an asset or offers to carry it.
func (f *Fetcher) carriedByNobody(it *item) bool {
	return f.o.LAN != nil && it.courier == "" && !f.neighbourHolds(it.id)
}

// ownReasons gives the assets that nobody carries the reasons for which this box does not, instead of naming another.
func (f *Fetcher) ownReasons() {
	for _, it := range f.items {
		if it.want.Reason.Code == schedule.CodeFollower && !it.alone.WAN && f.carriedByNobody(it) {
			it.want.Reason = it.alone.Reason
		}
	}
}

// forDay is what the schedule is played forward from: for what nobody carries now this box may.
func (f *Fetcher) forDay() schedule.Input {
	in := f.sched
	in.Assets = slices.Clone(in.Assets)
	for i := range in.Assets {
		a := &in.Assets[i]
		if id, err := asset.ParseID(a.ID); err == nil && a.Follower && f.items[id] != nil {
			a.Follower = !f.carriedByNobody(f.items[id])
		}
	}
	return in
}
