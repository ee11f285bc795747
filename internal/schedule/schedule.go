// Package schedule is the box's policy: given the time and what the box knows, Decide returns the plan of what to fetch
// now, in which order, over which links and how fast, and the one moment at which to think again.
//
// Invariants: the package has no goroutine, does no I/O and never reads the clock; the same input gives the same plan.
// Every asset of the input has exactly one Want in the plan, with a reason in words. A want that may not use the WAN
// never names the origin. While the clock is not trusted no window is open. A Limit of zero means stopped, never
// unlimited.
package schedule

import (
	"sort"
	"time"
)

// Limit is an optional upper bound. The zero value is no limit; LimitTo(0) stops.
type Limit struct {
	Set   bool
	Value int64 // bytes per second, or bytes
}

// LimitTo returns a limit of n.
func LimitTo(n int64) Limit { return Limit{Set: true, Value: max(n, 0)} }

// Min returns the tighter of two limits.
func (l Limit) Min(m Limit) Limit {
	if !l.Set || (m.Set && m.Value < l.Value) {
		return m
	}
	return l
}

// Stopped reports whether the limit lets nothing through.
func (l Limit) Stopped() bool { return l.Set && l.Value <= 0 }

// Input is everything that Decide looks at.
type Input struct {
	BoxID        string         // spreads starts and danger points over the fleet
	ClockTrusted bool           // false: no window is open
	CatalogFresh bool           // false: nothing new is started; what is here keeps being served
	Paused       bool           // the operator or the viewer stopped fetching
	Location     *time.Location // of windows and months; nil means UTC
	Campaigns    []Campaign
	Assets       []Asset
	WANDown      Limit   // bytes per second for this box, all campaigns together
	Budget       Limit   // bytes over the WAN in a calendar month
	BudgetUsed   int64   // bytes of it spent in the month of now
	LineRate     float64 // bytes per second that the WAN gave when it was asked for all it had; 0: not known yet
	Habit        *Habit  // when this box tends to be on; nil means always
	PlayOpensWAN bool    // an asset that a viewer is playing may use the WAN outside its windows
	MaxActive    int     // assets that use the WAN at one time; 0 means DefaultMaxActive
}

// DefaultMaxActive is how many assets use the WAN at one time: one after the other finishes each of them sooner, and a
// second one fills the line while the first waits for its last blocks.
const DefaultMaxActive = 2

// DefaultLineRate, in bytes per second, is assumed of a line that has not been measured yet.
const DefaultLineRate = 1 << 20

// Campaign is the operator's wish, as far as the schedule needs it.
type Campaign struct {
	ID        string
	Assets    []Ref
	NotBefore time.Time // zero: at once
	Deadline  time.Time // zero: none
	KeepUntil time.Time // zero: for ever
	Priority  int       // higher is more important
	Windows   []Window  // empty: any time
	Spread    time.Duration
	Origin    OriginPolicy
	// MissedStops ends the fetch of an asset whose deadline has passed; otherwise a late asset still completes.
	MissedStops bool
}

// Ref names an asset of a campaign.
type Ref struct {
	ID          string
	PrefixBytes int64 // fetched before the rest of any asset
}

// OriginPolicy says when the origin may join.
type OriginPolicy struct {
	Never bool
	Delay time.Duration // peers alone are tried for so long
	Floor float64       // bytes per second; below it, the origin also sends what peers have
}

// Asset is what the box has of an asset, and what its swarm gives.
type Asset struct {
	ID            string
	Length        int64 // bytes
	Missing       int64 // bytes not verified yet
	PrefixMissing int64 // bytes of the campaign's prefix not verified yet
	Playing       bool  // a player here, or one that this box carries it for, needs what is missing
	Starved       bool  // the home does not bring in time what a player here needs
	Started       time.Time
	Since         time.Time // when this box was first allowed the WAN for it; zero: never yet
	Swarm         int       // boxes that fetch or hold it, this one included, as far as is known
	PeerRate      float64   // bytes per second from WAN peers now
	PeersKnown    bool      // the tracker has answered
	Peers         int       // WAN peers that can be reached
	Follower      bool      // another box of the household is its courier
	CourierETA    time.Time // when that box will have it; zero: not known
	CourierStuck  bool      // that box has it no further than long ago
	Rejected      string    // why the cache refused it; empty when it did not
}

// OriginMode says what may be asked of the origin.
type OriginMode int

// The modes, each allowing what the one before it does and more.
const (
	OriginOff    OriginMode = iota
	OriginSpare             // this box's share of the pieces that nobody in the swarm has
	OriginAssist            // also pieces that peers have, because they are too slow
	OriginUrgent            // whatever is missing, as fast as the line goes
)

// String names the mode as status and logs show it.
func (m OriginMode) String() string {
	return [...]string{"off", "spare", "assist", "urgent"}[m]
}

// Plan is what the box should do from now on.
type Plan struct {
	Wants []Want    // one for each asset, most urgent first
	Next  time.Time // decide again then, even if nothing has changed; zero: only when something changes
	WAN   Limit     // bytes per second over the WAN for all wants together
}

// Want is the decision about one asset.
type Want struct {
	ID       string
	Campaign string // the one that decided the order; empty when no campaign wants the asset any more
	Fetch    bool   // bytes are wanted, from the household at least
	Prefix   bool   // only the prefix, for now
	WAN      bool   // WAN peers may be used
	PlayOnly bool   // and only for what players need
	Origin   OriginMode
	Rate     Limit // bytes per second over the WAN for this asset
	// OriginRate is what the origin is asked for at most, in bytes per second, so that peers send what they can in time.
	OriginRate Limit
	// Pace is the time over which the swarm's boxes together ask the origin for its pieces in OriginSpare, and Elapsed how
	// much of it has passed; see ShareInput. Zero: there is nobody to share with, or no time to lose.
	Pace, Elapsed time.Duration
	Priority      int
	Deadline      time.Time
	// KeepUntil is the latest of all campaigns that name the asset; zero means for ever.
	KeepUntil time.Time
	Danger    bool      // the deadline needs more than peers can be trusted to give
	Late      bool      // the deadline will be missed at the rate seen
	ETA       time.Time // when it would be complete at the rate seen, counting only usable time; zero: cannot be told
	Reason    Reason

	missed bool // a campaign wanted it until its deadline only
	stops  bool // all campaigns that want it do so until their deadlines only
}

// Reason says why a want is as it is.
type Reason struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// Decide makes the plan for the moment now.
func Decide(now time.Time, in Input) Plan {
	d := decider{now: now, in: in, loc: in.Location}
	if d.loc == nil {
		d.loc = time.UTC
	}
	plan := Plan{WAN: in.WANDown}
	var ahead int64
	for _, c := range d.candidates() {
		w := d.want(c, ahead)
		plan.Wants = append(plan.Wants, w)
		if c.carried() && !w.Late { // what is late does not make others late
			ahead += c.asset.Missing
		}
	}
	sortWants(plan.Wants, in.Assets)
	d.limitActive(plan.Wants)
	plan.Next = d.next
	return plan
}

type decider struct {
	now    time.Time
	in     Input
	loc    *time.Location
	next   time.Time
	usable map[string]openings // by the windows that were merged, for this one decision
}

// candidate is an asset with the campaigns that want it now.
type candidate struct {
	asset Asset
	live  []Campaign
	want  Want
}

// carried reports whether the asset is this box's to bring over the access line.
func (c candidate) carried() bool {
	return len(c.live) > 0 && c.asset.Missing > 0 && !c.asset.Follower && c.asset.Rejected == ""
}

// candidates lists the assets by deadline, and those with the same deadline by priority.
func (d *decider) candidates() []candidate {
	list := make([]candidate, len(d.in.Assets))
	for i, a := range d.in.Assets {
		c := &list[i]
		c.asset, c.want.ID = a, a.ID
		c.live = d.campaignsOf(a, &c.want)
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i].want, list[j].want
		if !a.Deadline.Equal(b.Deadline) {
			return earlier(a.Deadline, b.Deadline)
		}
		return a.Priority > b.Priority
	})
	return list
}

// at notes a moment at which the plan may change.
func (d *decider) at(t time.Time) {
	if t.After(d.now) && (d.next.IsZero() || t.Before(d.next)) {
		d.next = t
	}
}

// limitActive lets only the first MaxActive assets use the WAN, beside what viewers play: that is never held back, and holds
// nothing else back, as it takes what it needs first in any case.
func (d *decider) limitActive(wants []Want) {
	active := d.in.MaxActive
	if active <= 0 {
		active = DefaultMaxActive
	}
	for i := range wants {
		w := &wants[i]
		if !w.WAN || w.Reason.Code == codePlaying {
			continue
		}
		if active <= 0 {
			w.WAN, w.Origin = false, OriginOff
			w.Reason = Reason{"queued", "Waiting for more urgent assets to finish first."}
			continue
		}
		active--
	}
}

func sortWants(wants []Want, assets []Asset) {
	playing := map[string]bool{}
	for _, a := range assets {
		playing[a.ID] = a.Playing
	}
	class := func(w Want) int {
		switch {
		case !w.Fetch:
			return 5
		case playing[w.ID]:
			return 0
		case w.Late && w.stops: // it is given up at the deadline: nothing that can be had in time waits for it
			return 4
		case w.Danger && !w.Late: // what cannot be met takes nothing from what can
			return 1
		case w.Prefix:
			return 2
		}
		return 3
	}
	sort.SliceStable(wants, func(i, j int) bool {
		a, b := wants[i], wants[j]
		ca, cb := class(a), class(b)
		switch {
		case ca != cb:
			return ca < cb
		case ca == 1 && a.Priority != b.Priority: // not all can be met: the important ones first
			return a.Priority > b.Priority
		case !a.Deadline.Equal(b.Deadline):
			return earlier(a.Deadline, b.Deadline)
		case a.Priority != b.Priority:
			return a.Priority > b.Priority
		}
		return a.ID < b.ID
	})
}

// earlier orders deadlines; none is the latest of all.
func earlier(a, b time.Time) bool {
	if a.IsZero() || b.IsZero() {
		return !a.IsZero()
	}
	return a.Before(b)
}
