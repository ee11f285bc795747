package pace

import (
	"math"
	"time"
)

// Yield finds the rate that a link direction gives without a queue, and gets out of the way of others: a delay-based
// controller in the spirit of LEDBAT (RFC 6817) and rLEDBAT (RFC 9840), which sets the pace of our reads and writes
// instead of a window. It is pure: samples go in, a rate comes out. One goroutine uses it.
//
// It rises until a queue begins; what arrives while a queue of its own stands is what the line gives. It then holds a
// little less, and looks now and then whether the line gives more. A queue that its own slowing down does not empty is
// somebody else's: then it keeps next to nothing until that queue is gone.
type Yield struct {
	rate  float64     // bytes per second
	line  float64     // what the line gives; 0: not known yet
	sure  bool        // two queues in a row agreed about line; else it is where the rise goes by slowly
	probe delayFilter // of what the probe says
	own   delayFilter // of what our connections say, where nothing answers a probe
	delay *delayFilter
	last  time.Time
	heard int // samples of delay that have been acted upon
	phase phase
	since time.Time // of the phase

	arrived [arrivals]arrival // the last ticks, newest first
	used    float64           // bytes per second that arrived lately, smoothed
	calm    int               // ticks without a queue in a row

	seen  float64       // the most that arrived while this queue stands
	asked float64       // the rate when it began
	near  bool          // it began where one was to be expected
	due   time.Time     // when it must be empty, if it is ours
	dueAt int           // and how many samples must have said so
	deep  time.Duration // the longest that it was
	flow  float64       // bytes per second that we had when it was found
	doubt float64       // what the last queue said that did not fit what is known
	doubted,
	look time.Time // when to look for more
	pause  time.Duration // between looks
	bound  time.Time     // when a queue of ours last said that the line gives no more
	doubts int           // in a row that said the same
	fell   time.Time     // when the line was found to give far less
	extra  time.Duration // of Slack: for senders and processors that are late, not for the line
	short  int           // ticks in a row with less than was asked for
	found  arrival       // in this step of a look
	peak   float64       // the most in a few ticks of it, in bytes per second: after a gap between two requests
	step   float64       // of a look, as a share of the line

	patient bool      // nobody waits for what goes this way
	met     time.Time // when others were last on the line
	again   int       // how often in a row they were back soon after
	spared  bool      // this queue stood on after we had slowed down: it is not ours
	share   float64   // of the line that is kept beside others
	lacking int       // ticks in a row in which less came than is kept beside others
	cap     float64   // and no more than so many bytes per second, where even that is too much; 0: it is not
	trial   trial     // whether a queue that stands is one
}

type phase byte

const (
	rising   phase = iota // towards what is known, or until a queue begins
	holding               // at a little less than the line
	looking               // whether the line gives more
	draining              // a queue stands; is it ours?
	yielding              // it is not
)

type arrival struct{ bytes, seconds float64 }

// Constants of the controller.
const (
	Interval    = 50 * time.Millisecond // between samples, and between ticks
	arrivals    = 3
	initialRate = 256 << 10
	patientRate = 32 << 10              // the same where nobody waits: many an uplink is thin
	littleRate  = 24 << 10              // that makes no queue, as far as one can tell of a line that is not known
	leastRate   = 4 << 10               // never less, so that connections live
	growth      = 1.25                  // a tick, while rising
	nearGrowth  = 1.06                  // and where a queue is to be expected
	nearFrom    = 0.85                  // of the line
	nearTo      = 1.3                   // beyond, what was known of it is wrong
	keep        = 0.95                  // of the line, while holding
	drain       = 0.85                  // of what arrives, while a short queue drains: senders take long to forget a deep cut
	drainLong   = 0.40                  // and a long one
	drainFor    = 80 * time.Millisecond // or less, if the queue is ours
	longQueue   = 25 * time.Millisecond
	drainSeen   = 4 * Interval    // and the way: how long a queue may go on growing after we have slowed down
	floor       = 0.04            // of the line, while yielding
	ownFloor    = 0.25            // the same without a probe
	metFor      = 3 * time.Second // after others were there: their queue may come and go
	calmTicks   = 5               // without a queue before rising again
	firstStep   = 0.012           // of a look beyond the line
	lastStep    = 0.3
	lookFor     = 350 * time.Millisecond // before the next step
	firstPause  = 4 * time.Second
	lastPause   = 20 * time.Second
	boundFor    = 35 * time.Second
	fellFor     = 8 // parts of the time since a line fell that a pause may be
)

// NewYield returns a controller; line is the rate that the link gave before, in bytes per second, 0 if it is not known.
func NewYield(line float64) *Yield {
	y := &Yield{line: max(line, 0), pause: firstPause, share: floor}
	y.rate = y.First()
	y.trial.pause = firstTrial
	y.delay = &y.probe
	return y
}

// Patient says that nobody waits for what goes this way, as what peers are sent: room is made at the first sign of others.
func (y *Yield) Patient() *Yield {
	y.patient = true
	y.rate = y.First()
	return y
}

// Again begins anew after a pause; what is known of the way's length holds.
func (y *Yield) Again(line float64) *Yield {
	n := NewYield(line)
	n.probe, n.own, n.patient = y.probe, y.own, y.patient
	n.probe.theirs, n.own.theirs = false, false
	n.rate = n.First()
	return n
}

// Elsewhere tells that from now on somebody else is probed: how long the way was says nothing of him.
func (y *Yield) Elsewhere() {
	y.probe = delayFilter{}
	if y.delay == &y.probe {
		y.heard, y.dueAt = 0, 0
		y.trial.stage, y.trial.since = waiting, 0
	}
}

// Hurry begins near what the line gave before: somebody waits, and a queue is noticed soon.
func (y *Yield) Hurry() { y.rate = max(y.rate, Hurried(y.line)) }

// Hurried is the rate to begin with when somebody waits.
func Hurried(line float64) float64 { return max(First(line), nearFrom*line) }

// Rate is the present rate in bytes per second.
func (y *Yield) Rate() int64 { return int64(y.rate) }

// Line is what the line gives, in bytes per second; 0 while it is not known.
func (y *Yield) Line() float64 { return y.line }

// Queue is how long packets wait in the queue now, as far as it can be told.
func (y *Yield) Queue() time.Duration { return y.delay.queue() }

// Slack is how long our bytes may wait anywhere.
func (y *Yield) Slack() time.Duration { return y.delay.target() + y.extra }

// Sure says that the line's rate is known.
func (y *Yield) Sure() bool { return y.sure }

// Free says that there is no queue, nobody else's and not ours, so that only Rate bounds what arrives.
func (y *Yield) Free() bool {
	return (y.phase == holding || y.phase == rising) && y.Queue() <= y.delay.target()
}

// Yielding says that somebody else uses the line.
func (y *Yield) Yielding() bool { return y.phase == yielding }

// Sample takes a round-trip time of the probe.
func (y *Yield) Sample(now time.Time, rtt time.Duration) { y.probe.add(now, rtt) }

const (
	ownBase  = 50 * time.Millisecond // any
	ownSlack = 5 * time.Millisecond  // what the other end takes to answer
)

// SampleOwn takes by how much our own connections are slower than at their best. It counts while the probe says nothing.
func (y *Yield) SampleOwn(now time.Time, queue time.Duration) {
	y.own.add(now, ownBase+max(queue-ownSlack, 0))
}

// Freed tells that others in the home have left so much of the line, in bytes per second.
func (y *Yield) Freed(rate float64) {
	if y.line == 0 || y.phase == yielding || y.phase == draining {
		return
	}
	y.line += rate
	y.sure = false
	y.phase = rising
}

// Busy says that this direction carries about what it may.
func (y *Yield) Busy() bool { return max(y.used, y.most()) >= 0.6*y.rate && y.rate > y.small()/2 }

// Tick sets the rate anew, once every Interval; moved is how many bytes came through the line in this direction since the
// last call. other is the other direction of the same line, whose queue the probe sees, too; nil if there is none.
func (y *Yield) Tick(now time.Time, moved int64, other *Yield) {
	dt := now.Sub(y.last).Seconds()
	y.last = now
	if dt <= 0 || dt > 5 {
		return
	}
	copy(y.arrived[1:], y.arrived[:])
	y.arrived[0] = arrival{float64(moved), dt}
	y.used += (float64(moved)/dt - y.used) * min(1, dt/0.3)
	switch {
	case y.probe.fresh(now):
		y.goBy(&y.probe)
	case y.own.fresh(now):
		y.goBy(&y.own)
	default:
		y.rate = max(min(y.rate*growth, max(y.First(), keep*y.line)), leastRate) // blind: no faster than the line ever was
		return
	}
	if y.heard == y.delay.n {
		return // nothing is new: a router may answer but a few a second
	}
	y.heard = y.delay.n
	late, most := y.delay.queue(), y.delay.target()
	if y.phase == yielding {
		late, most = y.delay.standing(), most/2 // one quick answer shows that there is none, and it must be gone for good
	}
	queue := late > most && (late > longQueue || !y.delay.begins())
	switch {
	case !queue:
		y.calm++
		y.allow(now)
		y.free(now, other)
	case y.waits(other):
		y.calm = 0
	default:
		y.calm = 0
		y.extra /= 2
		y.queued(now, other)
	}
	least := y.lowest()
	switch {
	case y.trial.stage == hushed:
		least = leastRate
	case y.phase == draining: // else it would not be tried whose queue it is
		least = min(least, max(y.flow*drainBy(y.deep), leastRate))
	}
	y.rate = min(max(y.rate, least), math.MaxInt64/4)
	y.delay.theirs = y.phase == draining || y.phase == yielding || now.Sub(y.met) < metFor
	y.delay.ours = !y.settled(now) && (y.line > 0 || y.rate > 2*initialRate) && y.rate > 0.7*y.line
}

// settled says that the rate has been the same for a while.
func (y *Yield) settled(now time.Time) bool {
	return y.phase == holding && now.Sub(y.since) > time.Second
}

// goBy takes another signal for the delay.
func (y *Yield) goBy(d *delayFilter) {
	if y.delay != d {
		y.delay, y.heard, y.dueAt = d, 0, d.n
		y.trial.stage, y.trial.since = waiting, d.n
	}
}

func (y *Yield) enter(p phase, now time.Time) { y.phase, y.since = p, now }

// arrives is what came through in the last ticks, in bytes per second.
func (y *Yield) arrives() float64 {
	var sum arrival
	for _, a := range y.arrived {
		sum.bytes += a.bytes
		sum.seconds += a.seconds
	}
	if sum.seconds == 0 {
		return 0
	}
	return sum.bytes / sum.seconds
}

// queued acts on a queue.
func (y *Yield) queued(now time.Time, other *Yield) {
	got := y.arrives()
	switch y.phase {
	case yielding:
		y.met = now
		y.besideOthers(now, other)
	case draining:
		if now.Sub(y.since) <= 2*Interval {
			y.seen = max(y.seen, got) // later the queue may be empty, and we slow
		}
		if q := y.delay.queue(); now.Sub(y.since) <= drainSeen+y.delay.base() && q > y.deep {
			y.drain(q) // it still grew when it was found
			y.rate = min(y.rate, y.flow*drainBy(q))
		}
		if now.After(y.due) && y.delay.n >= y.dueAt && y.delay.standing() > y.delay.target() {
			if y.spared = true; other.onTrial() {
				return
			}
			y.makeWay(now)
		}
	default:
		if y.negligible() {
			return // whosever queue it is, what we send is not worth slowing
		}
		q := y.delay.queue()
		y.near = y.line == 0 || y.rate >= 0.9*y.line
		y.seen, y.asked = got, y.rate
		y.flow = min(y.rate, got)
		y.rate = y.flow * drainBy(q)
		y.dueAt = y.delay.n + 2*y.delay.lately()
		y.enter(draining, now)
		y.drain(q)
	}
}

// drain sets when a queue that long must be empty if it is ours.
func (y *Yield) drain(q time.Duration) {
	y.deep = q
	y.due = y.since.Add(time.Duration(float64(q)/(1-drainBy(q))) + y.delay.base() + 8*Interval)
}

// drainBy is the share of what arrives that is kept while a queue that long drains.
func drainBy(q time.Duration) float64 {
	return min(max(1-q.Seconds()/drainFor.Seconds(), drainLong), drain)
}

// negligible says that there is next to nothing to slow down.
func (y *Yield) negligible() bool {
	return y.used < y.little() && y.used < 0.5*y.rate && y.rate <= max(y.small(), y.line/8)
}

// makeWay gets out of the way of others. Where they have been back soon again and again, a short silence is not their end.
func (y *Yield) makeWay(now time.Time) {
	if now.Sub(y.met) < metFor {
		y.again++
	} else {
		y.again = 0
	}
	t := &y.trial
	if now.Sub(y.met) > trialOver {
		t.pause, y.share = firstTrial, floor
	}
	t.stage, t.since, t.next = waiting, y.delay.n, now.Add(t.pause)
	y.met = now
	y.rate *= 0.5
	y.enter(yielding, now)
}

// free acts on there being no queue.
func (y *Yield) free(now time.Time, other *Yield) {
	switch y.phase {
	case draining:
		if y.spared {
			y.spared = false
			y.rate = y.asked
			y.enter(rising, now)
			return
		}
		y.look = now.Add(y.pause)
		if y.learn(now, other) && y.patient {
			y.makeWay(now)
			return
		}
		y.enter(rising, now)
		y.rate = min(max(y.rate, 0.9*keep*min(y.seen, y.line)), keep*y.line)
	case yielding:
		if y.tries() {
			y.fail(now) // it was a queue
		}
		if y.calm >= calmTicks<<min(y.again, 3) {
			y.spared, y.cap = false, 0
			y.enter(rising, now)
			y.look = now.Add(y.pause)
		}
	case rising:
		y.rise(now)
	case holding:
		y.rate = keep * y.line
		if now.After(y.look) && y.used > 0.85*y.rate && !other.seeks() {
			y.lookFurther(now, firstStep)
		}
	case looking:
		y.lookOn(now)
	}
}

// Signal names what the controller goes by, for people.
func (y *Yield) Signal(now time.Time) string {
	switch {
	case y.probe.fresh(now):
		return "probe"
	case y.own.fresh(now):
		return "own"
	}
	return "none"
}

// Phase names what the controller does, for people.
func (y *Yield) Phase() string {
	return [...]string{"rising", "holding", "looking", "draining", "yielding"}[y.phase]
}
