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
	min   float64     // never less, so that samples keep coming
	probe delayFilter // of what the probe says
	own   delayFilter // of what our connections say, where nothing answers a probe
	delay *delayFilter
	alone time.Time // since when there is no probe
	last  time.Time
	phase phase
	since time.Time // of the phase

	arrived [arrivals]arrival // the last ticks, newest first
	used    float64           // bytes per second that arrived lately, smoothed
	calm    int               // ticks without a queue in a row

	seen  float64   // the most that arrived while this queue stands
	asked float64   // the rate when it began
	near  bool      // it began where one was to be expected
	due   time.Time // when it must be empty, if it is ours
	doubt float64   // what the last queue said that did not fit what is known
	doubted,
	look time.Time // when to look for more
	pause  time.Duration // between looks
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
	lowestRate  = 48 << 10
	growth      = 1.25                  // a tick, while rising
	nearGrowth  = 1.06                  // and where a queue is to be expected
	nearFrom    = 0.85                  // of the line
	nearTo      = 1.3                   // beyond, what was known of it is wrong
	keep        = 0.95                  // of the line, while holding
	drain       = 0.85                  // of what arrives, while a short queue drains: senders take long to forget a deep cut
	drainLong   = 0.40                  // and a long one
	drainFor    = 80 * time.Millisecond // or less, if the queue is ours
	longQueue   = 25 * time.Millisecond
	floor       = 0.04            // of the line, while yielding
	ownFloor    = 0.25            // the same without a probe
	metFor      = 3 * time.Second // after others were there: their queue may come and go
	calmTicks   = 5               // without a queue before rising again
	firstStep   = 0.012           // of a look beyond the line
	lastStep    = 0.3
	lookFor     = 350 * time.Millisecond // before the next step
	firstPause  = 4 * time.Second
	lastPause   = 20 * time.Second
	fellFor     = 8 // parts of the time since a line fell that a pause may be
)

// NewYield returns a controller; line is the rate that the link gave before, in bytes per second, 0 if it is not known.
func NewYield(line float64) *Yield {
	y := &Yield{rate: First(line), min: lowestRate, line: max(line, 0), pause: firstPause}
	y.delay = &y.probe
	return y
}

// Patient says that nobody waits for what goes this way, as what peers are sent: room is made at the first sign of others.
func (y *Yield) Patient() *Yield {
	y.patient = true
	return y
}

// First is the rate to begin with, on a line that gave so much before.
func First(line float64) float64 { return max(initialRate, line/4) }

// Again begins anew after a pause; what is known of the way's length holds.
func (y *Yield) Again(line float64) *Yield {
	n := NewYield(line)
	n.probe, n.own, n.patient = y.probe, y.own, y.patient
	return n
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
func (y *Yield) Slack() time.Duration { return y.delay.target() + time.Millisecond + y.extra }

// Sure says that the line's rate is known, and that the probe needs no haste.
func (y *Yield) Sure() bool { return y.sure }

// Yielding says that somebody else uses the line.
func (y *Yield) Yielding() bool { return y.phase == yielding }

// Sample takes a round-trip time of the probe.
func (y *Yield) Sample(now time.Time, rtt time.Duration) { y.probe.add(now, rtt) }

// Lost tells that a probe was not answered in time: the queue is full, or the probe's way is broken.
func (y *Yield) Lost(now time.Time) {
	if y.probe.fresh(now) {
		y.probe.missing(now, y.probe.base()+100*time.Millisecond)
	}
}

const (
	ownBase  = 50 * time.Millisecond // any
	ownSlack = 5 * time.Millisecond  // what the other end takes to answer

	// ownPatience is how long our own connections may say that there is a queue: they are slow also because we are.
	ownPatience = 10 * time.Second
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
func (y *Yield) Busy() bool { return max(y.used, y.most()) >= 0.6*y.rate && y.rate > initialRate/2 }

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
		y.delay = &y.probe
	case y.own.fresh(now):
		if y.delay != &y.own {
			y.delay, y.alone = &y.own, now
		}
	default:
		y.rate = min(y.rate*growth, max(y.line, initialRate)) // blind: no faster than the line ever was
		return
	}
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
	y.rate = min(max(y.rate, y.lowest()), math.MaxInt64/4)
	y.delay.theirs = y.phase == draining || y.phase == yielding || now.Sub(y.met) < metFor
	y.delay.ours = !y.settled(now) && y.rate > 2*initialRate && y.rate > 0.7*y.line
}

// settled says that the rate has been the same for a while.
func (y *Yield) settled(now time.Time) bool {
	return y.phase == holding && now.Sub(y.since) > time.Second
}

// lowest is what is kept beside somebody else. What our own connections say is less sure than what a probe does: they are
// late for many reasons.
func (y *Yield) lowest() float64 {
	if y.delay == &y.own {
		return max(initialRate, y.line*ownFloor)
	}
	return max(y.min, y.line*floor)
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
		y.rate *= 0.8
		if y.delay.steady(now) || y.delay == &y.own && now.Sub(y.alone) > ownPatience && now.Sub(y.since) > ownPatience {
			y.delay.rebase(now)
		}
	case draining:
		if now.Sub(y.since) <= 2*Interval {
			y.seen = max(y.seen, got) // later the queue may be empty, and we slow
		}
		if now.After(y.due) && y.delay.standing() > y.delay.target() {
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
		factor := min(max(1-q.Seconds()/drainFor.Seconds(), drainLong), drain)
		y.near = y.line == 0 || y.rate >= 0.9*y.line
		y.seen, y.asked = got, y.rate
		y.rate = factor * min(y.rate, got)
		y.due = now.Add(time.Duration(float64(q)/(1-factor)) + y.delay.base() + 8*Interval)
		y.enter(draining, now)
	}
}

// negligible says that there is next to nothing to slow down.
func (y *Yield) negligible() bool {
	return y.used < lowestRate && y.used < 0.5*y.rate && y.rate <= max(initialRate, y.line/8)
}

// makeWay gets out of the way of others. Where they have been back soon again and again, a short silence is not their end.
func (y *Yield) makeWay(now time.Time) {
	if now.Sub(y.met) < metFor {
		y.again++
	} else {
		y.again = 0
	}
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
		if y.calm >= calmTicks<<min(y.again, 3) {
			y.spared = false
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
