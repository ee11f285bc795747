package schedule

import "time"

// A swarm spreads what it asks of the origin over some of the time that it has, because being early is worth nothing:
// boxes then know of each other, and of what others have brought, before they ask for the same; and the origin, or what
// pays for it, sees no peak. A swarm cannot trade faster than its uplinks send, which are slower than its downlinks: two
// floors (a floor is what the line needs for the asset alone) cost it no time. Larger swarms take longer, as far as the
// deadline leaves room.
const (
	paceFloors   = 2
	paceBoxes    = 100 // each so many boxes add a floor
	paceMost     = 30  // floors that boxes add
	paceUndue    = 8   // floors in all, when there is no deadline
	paceOfSlack  = 0.6 // at most this part of the time until the first boxes are in danger
	paceTrade    = 3   // floors that trading takes after the last piece came in, where time is short
	paceLeast    = 0.5 // floors
	paceLineRate = DefaultLineRate
)

// pace decides over which time the swarm's pieces are asked of the origin. All boxes of a swarm come to about the same.
func (d *decider) pace(a Asset, live []Campaign, w *Want) {
	since := a.Since
	if since.IsZero() || since.After(d.now) {
		since = d.now
	}
	var spread time.Duration
	for _, c := range live {
		// Boxes whose starts are spread count from the first one's: who starts later takes what is in the swarm by then.
		if s := d.spreadOf(a, c); s > spread && !since.After(c.NotBefore.Add(s+time.Minute)) {
			spread, since = s, c.NotBefore
		}
	}
	if a.Swarm <= 1 && spread == 0 || w.Prefix || !d.in.ClockTrusted || d.now.Sub(since) > maxLookAhead {
		return
	}
	windows, whole := windowsOf(live)
	elapsed := d.now.Sub(since)
	if !whole {
		elapsed = 0
		for _, s := range mergedSpans(since, d.now, windows, d.loc) {
			elapsed += s.to.Sub(s.from)
		}
	}
	floor := float64(a.Length) / max(d.lineRate(), paceLineRate)
	most := paceFloors + min(float64(a.Swarm)/paceBoxes, paceMost)
	if w.Deadline.IsZero() {
		most = min(most, paceUndue)
	}
	pace := max(time.Duration(floor*most*float64(time.Second)), spread)
	if !w.Deadline.IsZero() {
		open := d.merged(windows, whole)
		danger := open.before(w.Deadline, float64(a.Length)/d.lineRate()*(dangerMargin+dangerSpread)+dangerReserve)
		slack := elapsed + open.lasting(danger)
		trade := max(paceLeast*floor, 2*paceOfSlack*slack.Seconds()-paceTrade*floor)
		pace = min(pace, time.Duration(paceOfSlack*float64(slack)), time.Duration(trade*float64(time.Second)))
		if !danger.After(d.now) {
			pace = 0
		}
	}
	w.Pace, w.Elapsed = pace, elapsed
}

// A box in danger takes from the origin what its peers will not bring in time, with a margin, and not all that is missing:
// what a peer could have sent is waste.
const (
	rescueMargin = 1.2
	rescueTrust  = 0.8 // of what peers give now
	rescueFull   = 0.6 // of the line: when so much is needed, there is nothing to be saved
	rescueNone   = 50  // a fiftieth of the line is not worth asking for
	rescueSpare  = 4   // this part of the time that is left, or the reserve, is not counted on
)

// rescueRate is how fast the origin is asked in danger; no limit when all of the line is needed.
func (d *decider) rescueRate(a Asset, live []Campaign, w *Want) Limit {
	if w.Late || w.Deadline.IsZero() || a.Playing {
		return Limit{}
	}
	windows, whole := windowsOf(live)
	left := d.merged(windows, whole).until(w.Deadline)
	if left <= dangerReserve/2 {
		return Limit{}
	}
	left -= min(dangerReserve, left/rescueSpare)
	need := float64(a.Missing)*rescueMargin/max(left, 1) - rescueTrust*a.PeerRate
	if need >= rescueFull*d.lineRate() {
		return Limit{}
	}
	return LimitTo(int64(max(need, 1)))
}
