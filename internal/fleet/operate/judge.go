package operate

import (
	"context"
	"fmt"
	"math"
	"time"

	"boxd/internal/fleet/registry"
)

// Counts is how a campaign stands.
type Counts struct {
	Boxes    int `json:"boxes"`    // of the group
	Included int `json:"included"` // in the rollout's present stage
	Ready    int `json:"ready"`    // of those: hold every asset
	Failed   int `json:"failed"`   // of those: failed or rejected an asset
	AtRisk   int `json:"at_risk"`  // of those: a deadline is in danger
	Offline  int `json:"offline"`  // of those that are not ready
	Working  int `json:"working"`  // the rest

	// Of a staged rollout: what went silent since its stage began and has not come back for goneAfter. New firmware that takes
	// boxes off the network fails on none of them: they are just gone.
	Gone       int `json:"gone,omitempty"`        // of Included, and not failed
	Others     int `json:"others,omitempty"`      // of the group, not included, and there when the stage began
	OthersGone int `json:"others_gone,omitempty"` // of those

	goneReady int // of Gone: hold every asset
	away      int // of Offline: they were offline before the stage began
	longGone  int // of Gone: for longer than a night
	longOff   int // of Offline: for longer than a night
}

const (
	// goneAfter is how long a box may be silent before it is missed: it may start anew.
	goneAfter = 15 * time.Minute
	// goneLeast is how many boxes must be missed before a rollout is stopped for them: fewer only keep it from going on.
	goneLeast = 3
	// othersLeast is how many other boxes tell what share goes anyway: compared with fewer, missed ones stop no rollout.
	othersLeast = 50
)

// The verdicts of judge.
const (
	verdictWait    = "wait"
	verdictAdvance = "advance"
	verdictStop    = "stop"
)

const allOpen = "all stages are open"

// reachable is how many boxes of the stage say something about the campaign: not those that were off before it began, and not
// those of the missed ones that would have gone anyway, as so many of the group's other boxes have: it is night.
func (n Counts) reachable() (boxes, missed int) {
	there := n.Included - n.away
	missed = max(0, n.Gone-int(math.Round(share(n.OthersGone, n.Others)*float64(there))))
	return there - (n.Gone - missed), missed
}

// lost is how many of the missed boxes stop a rollout: those that chance does not account for.
func (n Counts) lost() int {
	if _, missed := n.reachable(); missed < goneLeast || n.Others < othersLeast {
		return 0
	}
	return max(0, n.Gone-byChance(n.Included-n.away, n.OthersGone, n.Others, stopChance))
}

// judge decides the next step of a rollout from its counts. It is pure.
func (s *Staged) judge(now time.Time, n Counts) (verdict, why string) {
	reachable, missed := n.reachable()
	ready := n.Ready - n.goneReady
	judged := ready + n.Failed + missed
	failed := max(0, n.Failed-s.Forgiven)
	lost := n.lost()
	if bad := failed + lost; bad > 0 && judged >= s.MinBoxes && share(bad, reachable) > *s.MaxErrors {
		what := fmt.Sprintf("%d of %d boxes failed", failed, reachable)
		if lost > 0 {
			what = fmt.Sprintf("%d of %d boxes failed, %d more went silent than of the others", failed, reachable, lost)
		}
		return verdictStop, fmt.Sprintf("%s (%.1f %%, at most %.1f %% may)", what, 100*share(bad, reachable), 100**s.MaxErrors)
	}
	if s.Done || s.Stage+1 >= len(s.Stages) {
		return verdictWait, allOpen
	}
	if hold := time.Duration(s.Stages[s.Stage].Hold); now.Sub(s.Since) < hold {
		return verdictWait, fmt.Sprintf("held for %s", hold)
	}
	if judged < s.MinBoxes || reachable <= 0 || share(ready, reachable) < *s.Success {
		why = fmt.Sprintf("%d of %d reachable boxes are ready, %.1f %% are needed", ready, reachable, 100**s.Success)
		if missed > 0 {
			why += fmt.Sprintf("; %d went silent since the stage began", missed)
		}
		return verdictWait, why
	}
	return verdictAdvance, ""
}

const (
	// emptyFor is how long a stage may be without a box that could be reached before somebody is told: an hour without power in
	// a small one is no reason.
	emptyFor = 6 * time.Hour
	// aNight is how long boxes may be off because nobody watches.
	aNight = 14 * time.Hour
)

// waitsForNobody says why a stage will stay as it is if nothing changes; empty when it need not.
func (s *Staged) waitsForNobody(now time.Time, n Counts) string {
	since := now.Sub(s.Since)
	reachable, missed := n.reachable()
	mayCome := n.Included - n.longOff
	switch {
	case s.Done || since < time.Duration(s.Stages[s.Stage].Hold):
		return ""
	case n.Included == 0:
		return fmt.Sprintf("none of the group's %d boxes is in it, so none can show that it is safe to go on. "+
			"Create the campaign anew with a larger first stage, or with cohorts", n.Boxes)
	case since <= emptyFor:
		return ""
	case mayCome == 0:
		return fmt.Sprintf("all %d boxes in it are offline", n.Included)
	case mayCome < s.MinBoxes:
		return fmt.Sprintf("%d boxes must have settled, and only %d can be reached", s.MinBoxes, mayCome)
	case share(missed, reachable) > 1-*s.Success && !s.comeBack(n):
		return fmt.Sprintf("%d of %d boxes in it went silent since it began, and more of them than of the others. "+
			"Look after them; if they were just unplugged, resume the campaign (fleetd campaign resume): it goes on without them", missed, reachable)
	}
	return ""
}

// comeBack reports whether those that are missed may just be off for the night: they have not been gone for longer, and not
// strikingly more of them than of the others.
func (s *Staged) comeBack(n Counts) bool {
	reachable, missed := n.reachable()
	return share(min(missed, n.longGone), reachable) <= 1-*s.Success &&
		n.Gone <= byChance(n.Included-n.away, n.OthersGone, n.Others, tellChance)
}

// explain says of a running campaign why it does not go on, if it does not.
func (c *Campaign) explain(now time.Time, n Counts) {
	if c.State != CampaignRunning {
		return
	}
	switch {
	case n.Boxes == 0:
		c.Why = fmt.Sprintf("there is no box in group %s", c.Group)
	case c.Staged != nil:
		_, c.Why = c.Staged.judge(now, n)
		if waits := c.Staged.waitsForNobody(now, n); waits != "" {
			c.Why = waits
		} else if c.Staged.Done && c.Why == allOpen {
			c.Why = ""
		}
	}
}

func share(n, of int) float64 {
	if of <= 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// count goes through the group's boxes: who is included is the same sum that each box does for itself.
func (f *Fleet) count(ctx context.Context, c *Campaign) (Counts, error) {
	var ids []string
	for _, a := range c.Assets {
		ids = append(ids, a.ID.String())
	}
	now := f.now()
	var n Counts
	err := f.o.Registry.EachStanding(ctx, c.Group, ids, func(s registry.Standing) {
		n.Boxes++
		in := c.Includes(s.Box, []string{c.Group})
		gone := c.Staged != nil && !s.Online && s.Since.After(c.Staged.Since) && now.Sub(s.Since) > goneAfter
		long := !s.Online && now.Sub(s.Since) > aNight
		if !in {
			if c.Staged != nil && (s.Online || s.Since.After(c.Staged.Since)) {
				n.Others++
				n.OthersGone += one(gone)
			}
			return
		}
		n.Included++
		switch {
		case s.Held >= len(ids):
			n.Ready++
			n.Gone += one(gone)
			n.goneReady += one(gone)
			n.longGone += one(gone && long)
		case s.Failed > 0:
			n.Failed++
		case !s.Online:
			n.Offline++
			n.longOff += one(long)
			n.Gone += one(gone)
			n.longGone += one(gone && long)
			n.away += one(c.Staged == nil || !s.Since.After(c.Staged.Since))
		default:
			n.Working++
		}
		if s.AtRisk > 0 && s.Held < len(ids) {
			n.AtRisk++
		}
	})
	return n, err
}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}
