package schedule

import (
	"fmt"
	"hash/fnv"
	"math"
	"time"
)

// Codes of reasons that others than people read.
const (
	CodeClock     = "clock"
	CodeLimitZero = "limit-zero"
	CodeBudget    = "budget"
	CodeWindow    = "window"
	CodeFollower  = "follower"

	codePlaying = "playing"
)

// want decides about one asset; ahead is how many bytes of assets with an earlier deadline this box has to carry first.
func (d *decider) want(c candidate, ahead int64) Want {
	a, w, live := c.asset, c.want, c.live
	switch {
	case len(live) == 0:
		w.Reason = Reason{"not-wanted", "No campaign asks for it now."}
		if w.Campaign != "" {
			w.Reason = Reason{"not-before", "Its campaign has not begun yet."}
		}
		if w.missed {
			w.Reason = Reason{"missed", "Its deadline has passed, and its campaign does not want it late."}
		}
		return w
	case a.Missing <= 0:
		w.Reason = Reason{"complete", "It is here, whole and verified."}
		return w
	case a.Rejected != "":
		w.Reason = Reason{"rejected", "The cache refused it: " + a.Rejected + "."}
		return w
	case !d.in.CatalogFresh:
		w.Reason = Reason{"catalog-expired", "The signed catalog has expired; nothing new is fetched until a fresh one arrives."}
		return w
	case d.in.Paused:
		w.Reason = Reason{"paused", "Fetching is paused on this box."}
		return w
	}
	w.Fetch = true
	w.Prefix = a.PrefixMissing > 0
	d.foresee(a, live, ahead, &w)
	d.allowWAN(a, live, &w)
	if w.WAN && w.Origin == OriginSpare {
		d.pace(a, live, &w)
	}
	if w.WAN && w.Origin == OriginUrgent {
		w.OriginRate = d.rescueRate(a, live, &w)
		if w.OriginRate.Set && float64(w.OriginRate.Value) < d.lineRate()/rescueNone {
			w.Origin, w.OriginRate = OriginSpare, Limit{} // peers will do, but for what they do not have
		}
	}
	if w.Late {
		w.Reason.Text = d.lateness(w) + " " + w.Reason.Text
	}
	return w
}

// lateness says that a deadline will be missed, or was, and when the asset is expected.
func (d *decider) lateness(w Want) string {
	eta := "it is not expected within weeks"
	if !w.ETA.IsZero() {
		eta = "it is expected " + when(w.ETA, d.now, d.loc)
	}
	if !d.now.Before(w.Deadline) {
		return "It missed its deadline; " + eta + "."
	}
	return "It will miss its deadline " + when(w.Deadline, d.now, d.loc) + "; at the rate seen so far " + eta + "."
}

// campaignsOf gathers the campaigns that want a now, and what they say together: the earliest deadline to come, the
// highest priority, the longest keeping time.
func (d *decider) campaignsOf(a Asset, w *Want) (live []Campaign) {
	forever := false
	for _, c := range d.in.Campaigns {
		if !names(c, a.ID) || (!c.KeepUntil.IsZero() && d.in.ClockTrusted && !d.now.Before(c.KeepUntil)) {
			continue
		}
		forever = forever || c.KeepUntil.IsZero()
		if c.KeepUntil.After(w.KeepUntil) {
			w.KeepUntil = c.KeepUntil
		}
		d.at(c.KeepUntil)
		if d.now.Before(c.NotBefore) {
			w.Campaign = c.ID
			d.at(c.NotBefore)
			continue
		}
		missed := !c.Deadline.IsZero() && !d.now.Before(c.Deadline)
		if missed && c.MissedStops && a.Missing > 0 {
			w.missed = true
			continue
		}
		w.stops = (len(live) == 0 || w.stops) && c.MissedStops
		if len(live) == 0 || beats(c, w) {
			w.Campaign, w.Deadline = c.ID, c.Deadline
		}
		w.Priority = max(w.Priority, c.Priority)
		d.at(c.Deadline)
		live = append(live, c)
	}
	if forever {
		w.KeepUntil = time.Time{}
	}
	return live
}

func beats(c Campaign, w *Want) bool {
	if c.Deadline.Equal(w.Deadline) {
		return c.Priority > w.Priority
	}
	return earlier(c.Deadline, w.Deadline)
}

func names(c Campaign, id string) bool {
	for _, r := range c.Assets {
		if r.ID == id {
			return true
		}
	}
	return false
}

// allowWAN decides whether and how the access line may be used for a.
func (d *decider) allowWAN(a Asset, live []Campaign, w *Want) {
	switch {
	case !d.in.ClockTrusted:
		w.Reason = Reason{CodeClock, "The clock is not trusted yet, so no window is open; the household still shares."}
		return
	case d.in.WANDown.Stopped():
		w.Reason = Reason{CodeLimitZero, "The access line limit of this box is zero."}
		return
	case d.in.Budget.Set && d.in.BudgetUsed >= d.in.Budget.Value:
		d.at(nextMonth(d.now, d.loc))
		w.Reason = Reason{CodeBudget, "The monthly budget of the access line is spent."}
		return
	}
	open, c, rate, until, start := d.open(a, live)
	if a.Follower && !d.courierTooLate(a, w) {
		if !a.Playing || !a.Starved || !d.in.PlayOpensWAN && !open {
			w.Reason = Reason{CodeFollower, "Another box of the home carries it over the access line; it comes from there."}
			return
		}
		d.play(live, w, "Someone is watching it and the home does not bring it in time, so this box fetches it itself.")
		if !d.in.PlayOpensWAN {
			d.at(until)
			w.Rate = rate
		}
		return
	}
	if !open {
		if a.Playing && d.in.PlayOpensWAN {
			d.play(live, w, "Someone is watching it, so what is needed for that is fetched outside its window.")
			return
		}
		w.Reason = Reason{CodeWindow, "Its next window opens " + when(start, d.now, d.loc) + "."}
		if start.IsZero() {
			w.Reason = Reason{CodeWindow, "None of its windows opens within the coming week."}
		}
		return
	}
	d.at(until)
	if a.Playing && d.in.PlayOpensWAN && rate.Set && float64(rate.Value) < d.lineRate() { // it would be slower than in no window
		d.play(live, w, "Someone is watching it, so what is needed for that comes faster than its window allows.")
		return
	}
	w.WAN, w.Rate = true, rate
	w.Origin, w.Reason = d.originFor(a, c, w)
	if c.Origin.Never {
		w.Origin = OriginOff
	}
}

// play opens the access line for what players need, and no more.
func (d *decider) play(live []Campaign, w *Want, why string) {
	w.WAN, w.PlayOnly, w.Origin = true, true, OriginUrgent
	if neverOrigin(live) {
		w.Origin = OriginOff
	}
	w.Reason = Reason{codePlaying, why}
}

// neverOrigin reports whether every campaign keeps the origin out, which holds for a viewer, too.
func neverOrigin(live []Campaign) bool {
	for _, c := range live {
		if !c.Origin.Never {
			return false
		}
	}
	return true
}

// courierTooLate lets a follower open the access line itself: the deadline is in danger and the courier is known to miss
// it. A deadline that is merely short opens no second line in the home.
func (d *decider) courierTooLate(a Asset, w *Want) bool {
	return w.Danger && !w.Deadline.IsZero() && (a.CourierStuck || a.CourierETA.After(w.Deadline))
}

// open finds the campaign whose window and start allow the WAN now, preferring the one with the highest rate.
func (d *decider) open(a Asset, live []Campaign) (ok bool, best Campaign, rate Limit, until, nextStart time.Time) {
	for _, c := range live {
		if s := d.startOf(a, c); d.now.Before(s) {
			d.at(s)
			nextStart = soonest(nextStart, s)
			continue
		}
		isOpen, r, end, next := openAt(d.now, c.Windows, d.loc)
		if !isOpen || r.Stopped() {
			d.at(next)
			nextStart = soonest(nextStart, next)
			continue
		}
		until = soonest(until, end)
		if !ok || wider(r, rate) {
			ok, best, rate = true, c, r
		}
	}
	return ok, best, rate, until, nextStart
}

func wider(a, b Limit) bool { return b.Set && (!a.Set || a.Value > b.Value) }

func soonest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// startOf is when this box begins with the campaign: its place in the spread, which shrinks when the deadline is near.
func (d *decider) startOf(a Asset, c Campaign) time.Time {
	return c.NotBefore.Add(time.Duration(fraction("start", d.in.BoxID, c.ID) * float64(d.spreadOf(a, c))))
}

// spreadOf is the time over which the boxes of the fleet start with the campaign.
func (d *decider) spreadOf(a Asset, c Campaign) time.Duration {
	if c.NotBefore.IsZero() || c.Spread <= 0 {
		return 0
	}
	spread := c.Spread
	if !c.Deadline.IsZero() {
		need := time.Duration(float64(a.Length) / d.lineRate() * float64(time.Second))
		spread = min(spread, max(0, (c.Deadline.Sub(c.NotBefore)-2*need)/2))
	}
	return spread
}

// originFor decides how far the origin may be used by a box whose window is open.
func (d *decider) originFor(a Asset, c Campaign, w *Want) (OriginMode, Reason) {
	began := a.Started
	if began.IsZero() {
		began = d.now
	}
	join := began.Add(c.Origin.Delay)
	switch {
	case a.Playing:
		return OriginUrgent, Reason{codePlaying, "Someone is watching it, so it comes as fast as it can."}
	case w.Danger:
		return OriginUrgent, Reason{"deadline", "Its deadline is in danger, so the origin sends what peers will not bring in time."}
	case a.PeersKnown && a.Peers == 0:
		return OriginSpare, Reason{"alone", "No other box has it yet, so it comes from the origin."}
	case d.now.Before(join):
		d.at(join)
		return OriginOff, Reason{"peers-first", "Fetching from peers; the origin may join " + when(join, d.now, d.loc) + "."}
	case c.Origin.Floor > 0 && a.PeerRate < c.Origin.Floor:
		return OriginAssist, Reason{"slow-peers", "Peers are slower than the campaign allows, so the origin helps."}
	}
	return OriginSpare, Reason{"fetching", "Fetching from peers, and from the origin what no peer has."}
}

// Danger is judged with this much more time than the bytes need, up to twice as much, spread over the fleet, so that boxes
// turn to the origin one after the other; and with some seconds on top, which setting up and verifying take.
const (
	dangerMargin  = 1.3
	dangerSpread  = 0.7
	dangerReserve = 10.0
)

// foresee compares the time that is left with the time that the missing bytes, and those before them, need.
func (d *decider) foresee(a Asset, live []Campaign, ahead int64, w *Want) {
	if !d.in.ClockTrusted {
		return
	}
	needed := float64(a.Missing+ahead) / d.lineRate()
	windows, whole := windowsOf(live)
	open := d.merged(windows, whole)
	w.ETA = open.after(needed)
	if w.Deadline.IsZero() {
		return
	}
	margin := dangerMargin + dangerSpread*fraction("danger", d.in.BoxID, a.ID)
	w.Late = open.until(w.Deadline) < needed
	slackGone := open.before(w.Deadline, needed*margin+dangerReserve)
	w.Danger = !slackGone.After(d.now)
	d.at(slackGone)
}

func (d *decider) lineRate() float64 {
	rate := d.in.LineRate
	if rate <= 0 {
		rate = DefaultLineRate
	}
	if d.in.WANDown.Set {
		rate = math.Min(rate, math.Max(1, float64(d.in.WANDown.Value)))
	}
	return rate
}

// windowsOf joins the windows of all campaigns; whole is true when one of them is open at any time.
func windowsOf(live []Campaign) (ws []Window, whole bool) {
	for _, c := range live {
		if len(c.Windows) == 0 {
			return nil, true
		}
		ws = append(ws, c.Windows...)
	}
	return ws, false
}

// fraction is a number in [0, 1) that depends on the words alone and differs from box to box.
func fraction(words ...string) float64 { return part(mix(hashOf(words...))) }

func hashOf(words ...string) uint64 {
	h := fnv.New64a()
	for _, w := range words {
		_, _ = h.Write([]byte(w))
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

// mix finishes a hash as splitmix64 does: FNV alone mixes its high bits badly for short words.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

func nextMonth(now time.Time, loc *time.Location) time.Time {
	y, m, _ := now.In(loc).Date()
	return time.Date(y, m+1, 1, 0, 0, 0, 0, loc)
}

// when says a moment as people do.
func when(t, now time.Time, loc *time.Location) string {
	l, n := t.In(loc), now.In(loc)
	switch {
	case l.YearDay() == n.YearDay() && l.Year() == n.Year():
		return "today at " + l.Format("15:04")
	case t.Sub(now) < 6*24*time.Hour:
		return "on " + l.Format("Monday at 15:04")
	}
	return fmt.Sprintf("on %s", l.Format("2 January at 15:04"))
}
