package cache

import (
	"fmt"
	"sort"
	"time"

	"boxd/internal/asset"
)

// Candidate is an asset as eviction sees it.
type Candidate struct {
	ID             asset.ID
	Bytes          int64 // that removing it would free
	Prefix         int64 // bytes that would stay when only its tail goes; 0: it goes whole or not at all
	Priority       int
	Deadline       time.Time
	KeepUntil      time.Time
	LastUse        time.Time
	NeighbourHolds bool
	Pinned         bool
	Open           bool // being read
	Damaged        bool // nobody can be given it as it is
}

// Incoming is what space is wanted for. Nil in PlanEviction means that others filled the disk.
type Incoming struct {
	ID       asset.ID
	Priority int
	Deadline time.Time
}

// Step is one eviction: of the whole asset (Keep 0), or of what lies behind the first Keep bytes.
type Step struct {
	ID     asset.ID
	Keep   int64
	Frees  int64
	Reason string // why this one, for people
}

// Spared is an asset that may not go, and why.
type Spared struct {
	ID     asset.ID
	Reason string
}

// EvictionPlan is what PlanEviction decided.
type EvictionPlan struct {
	Steps  []Step
	Frees  int64
	Enough bool // Frees >= need. When it is not, nothing should be evicted for an Incoming.
	Spared []Spared
}

// The tiers, first to go first.
const (
	tierDamaged  = iota // it is of no use
	tierExpired         // its time is over
	tierFree            // nobody promised to keep it
	tierPromised        // a campaign wants it kept, but something else counts for more
	tierDue             // a deadline is still ahead of it
)

type ranked struct {
	Candidate
	tier   int
	reason string
}

// PlanEviction chooses what to evict so that need bytes come free: damaged and expired first, then by promise, priority, how cheaply
// it can be had again, last use and size; tails before whole assets; no step that is not needed. Never what is
// pinned or being read, nor, for an Incoming, what is wanted by a nearer deadline or counts for at least as much. The
// clock is believed only when trusted: until then nothing has expired and every promise holds.
func PlanEviction(now time.Time, trusted bool, need int64, in *Incoming, cands []Candidate) EvictionPlan {
	var p EvictionPlan
	var list []ranked
	for _, c := range cands {
		tier, reason, ok := judge(now, trusted, in, c)
		if !ok {
			p.Spared = append(p.Spared, Spared{c.ID, reason})
			continue
		}
		if c.Bytes > 0 {
			list = append(list, ranked{c, tier, reason})
		}
	}
	sort.SliceStable(list, func(i, j int) bool { return goesBefore(&list[i], &list[j]) })
	p.Steps = choose(list, need)
	for _, s := range p.Steps {
		p.Frees += s.Frees
	}
	p.Enough = p.Frees >= need
	return p
}

func judge(now time.Time, trusted bool, in *Incoming, c Candidate) (tier int, reason string, ok bool) {
	expired := trusted && !c.KeepUntil.IsZero() && now.After(c.KeepUntil)
	promised := !c.KeepUntil.IsZero() && !expired
	due := !c.Deadline.IsZero() && (!trusted || now.Before(c.Deadline))
	switch {
	case in != nil && c.ID == in.ID:
		return 0, "is the asset that needs the space", false
	case c.Pinned:
		return 0, "pinned", false
	case c.Open:
		return 0, "being played", false
	case c.Damaged:
		return tierDamaged, "its metainfo is damaged", true
	case expired:
		return tierExpired, fmt.Sprintf("was to be kept until %s", c.KeepUntil.UTC().Format(time.RFC3339)), true
	case in == nil && due:
		return tierDue, "the disk is running full", true
	case in == nil && promised:
		return tierPromised, "the disk is running full", true
	case in == nil:
		return tierFree, "the disk is running full", true
	}
	inDue := !in.Deadline.IsZero() && trusted && now.Before(in.Deadline)
	switch {
	case due && (!inDue || !in.Deadline.Before(c.Deadline)):
		return 0, "wanted by a nearer deadline", false
	case c.Priority > in.Priority:
		return 0, fmt.Sprintf("priority %d is above %d", c.Priority, in.Priority), false
	case c.Priority == in.Priority && promised && !inDue:
		return 0, "kept for a campaign of the same priority", false
	case promised && c.Priority < in.Priority:
		return tierPromised, fmt.Sprintf("priority %d gives way to %d", c.Priority, in.Priority), true
	case promised:
		return tierPromised, "gives way to a nearer deadline", true
	case c.Priority < in.Priority:
		return tierFree, fmt.Sprintf("priority %d gives way to %d", c.Priority, in.Priority), true
	default:
		return tierFree, "least recently used of its priority", true
	}
}

func goesBefore(a, b *ranked) bool {
	switch {
	case a.tier != b.tier:
		return a.tier < b.tier
	case a.tier == tierExpired && !a.KeepUntil.Equal(b.KeepUntil):
		return a.KeepUntil.Before(b.KeepUntil)
	case a.Priority != b.Priority:
		return a.Priority < b.Priority
	case a.NeighbourHolds != b.NeighbourHolds:
		return a.NeighbourHolds
	case !a.LastUse.Equal(b.LastUse):
		return a.LastUse.Before(b.LastUse)
	case a.Bytes != b.Bytes:
		return a.Bytes > b.Bytes
	default:
		return string(a.ID[:]) < string(b.ID[:])
	}
}

// choose takes from the front until it is enough: tier by tier, in each the tails first, then what they left.
func choose(list []ranked, need int64) []Step {
	var steps []Step
	var got int64
	for begin := 0; begin < len(list) && got < need; {
		end := begin
		for end < len(list) && list[end].tier == list[begin].tier {
			end++
		}
		for _, tails := range []bool{true, false} {
			for i := begin; i < end && got < need; i++ {
				c := &list[i]
				hasTail := c.tier > tierExpired && c.Prefix > 0 && c.Prefix < c.Bytes
				switch {
				case tails && hasTail:
					steps = append(steps, Step{c.ID, c.Prefix, c.Bytes - c.Prefix, c.reason})
					got += c.Bytes - c.Prefix
				case !tails && hasTail:
					got += widen(steps, c)
				case !tails:
					steps = append(steps, Step{c.ID, 0, c.Bytes, c.reason})
					got += c.Bytes
				}
			}
		}
		begin = end
	}
	return prune(steps, got-need)
}

// widen makes the step that took a tail take the whole asset.
func widen(steps []Step, c *ranked) int64 {
	for i := range steps {
		if steps[i].ID == c.ID {
			more := steps[i].Keep
			steps[i].Keep, steps[i].Frees = 0, c.Bytes
			return more
		}
	}
	return 0
}

// prune drops steps that are not needed, the last to go first.
func prune(steps []Step, spare int64) []Step {
	for i := len(steps) - 1; i >= 0 && spare > 0; i-- {
		if steps[i].Frees <= spare {
			spare -= steps[i].Frees
			steps = append(steps[:i], steps[i+1:]...)
		}
	}
	return steps
}
