package pace

import (
	"math"
	"time"
)

// Yield finds the rate that a link direction gives without a queue, and gets out of the way of others: a delay-based
// controller in the spirit of LEDBAT (RFC 6817) and rLEDBAT (RFC 9840), which sets the pace of our reads and writes
// instead of a window. It is pure: samples go in, a rate comes out. One goroutine uses it.
//
// It grows fast far below the rate at which a queue last began, slowly near it, and halves within a few samples while a
// queue stands that its own slowing does not empty: that queue is somebody else's.
type Yield struct {
	rate    float64 // bytes per second
	ceil    float64 // where a queue began lately; 0: not known yet
	min     float64 // never less, so that samples keep coming
	delay   delayFilter
	last    time.Time
	episode bool      // a queue stands since the last growth
	stood   time.Time // when it began
	seen    float64   // what passed then
	calm    int       // ticks without a queue in a row
	used    float64   // bytes per second that passed lately
	waited  time.Time // no growth before: what we sent must show first
}

// Constants of the controller. The queue is ours to keep below target; a sample comes about every Interval.
const (
	Interval     = 50 * time.Millisecond
	target       = 2 * time.Millisecond
	standing     = 9 * time.Millisecond // a queue that ours cannot be
	initialRate  = 256 << 10
	lowestRate   = 48 << 10
	fastGrowth   = 1.12
	slowGrowth   = 0.001 // a tick, doubling every 1.5 s that stay calm
	cut          = 0.95
	retreat      = 0.80
	nearCeil     = 0.88
	keepOfCeil   = 0.91
	ours         = time.Second // a queue that empties within so long of our slowing down was ours
	floorOfCeil  = 0.04
	historySpans = 10
	lately       = 5                     // samples, of which the best counts
	noisy        = 15 * time.Millisecond // a spread within half a second that shows busy processors or radios
)

// NewYield returns a controller; line is the rate that the link gave before, in bytes per second, 0 if it is not known.
func NewYield(line float64) *Yield {
	y := &Yield{rate: initialRate, min: lowestRate}
	if line > 0 {
		y.ceil = line
		y.rate = max(initialRate, line/4)
	}
	return y
}

// Rate is the present rate in bytes per second.
func (y *Yield) Rate() int64 { return int64(y.rate) }

// Line is the rate at which a queue begins, in bytes per second; 0 while it is not known.
func (y *Yield) Line() float64 { return y.ceil }

// Queue is how long packets wait in the queue now, as far as it can be told.
func (y *Yield) Queue() time.Duration { return y.delay.queue() }

// Sample takes a round-trip time over the line.
func (y *Yield) Sample(now time.Time, rtt time.Duration) { y.delay.add(now, rtt) }

// Lost tells that a probe was not answered in time: the queue is full, or the probe's way is broken.
func (y *Yield) Lost(now time.Time) {
	if y.delay.known() {
		y.delay.add(now, y.delay.base()+100*time.Millisecond)
	}
}

// Busy says that this direction carries about what it may: a queue is likely to be its own.
func (y *Yield) Busy() bool { return y.used >= 0.6*y.rate && y.rate > initialRate/2 }

// Tick sets the rate anew, once every Interval; moved is how many bytes passed in this direction since the last call, and
// otherBusy says that the other direction of the same line is Busy, and so rather the one to blame if this one is not.
func (y *Yield) Tick(now time.Time, moved int64, otherBusy bool) {
	dt := now.Sub(y.last).Seconds()
	y.last = now
	if dt <= 0 || dt > 5 {
		return
	}
	y.used += (float64(moved)/dt - y.used) * min(1, dt/0.3)
	if !y.delay.known() {
		y.rate = min(y.rate*fastGrowth, max(y.ceil, initialRate)) // blind: no faster than the line ever was
		return
	}
	q := y.delay.queue()
	if q > target && otherBusy && y.used < 0.6*y.ceil {
		return
	}
	switch {
	case q <= target:
		y.grow(now)
	case q > standing:
		y.yield(now, retreat)
	default:
		y.yield(now, cut)
	}
	y.rate = min(max(y.rate, y.lowest()), math.MaxInt64/4)
}

func (y *Yield) lowest() float64 { return max(y.min, y.ceil*floorOfCeil) }

func (y *Yield) grow(now time.Time) {
	y.calm++
	if y.episode && now.Sub(y.stood) < ours {
		if y.ceil == 0 {
			y.ceil = y.seen
		}
		y.ceil += (y.seen - y.ceil) * 0.5
		y.rate = min(y.rate, keepOfCeil*y.ceil)
	}
	y.episode = false
	if y.used < 0.6*y.rate && y.rate > y.lowest()*4 {
		return // we do not even use what we have: growing would only make a burst later
	}
	switch {
	case y.ceil == 0 || y.rate < nearCeil*y.ceil:
		y.rate *= fastGrowth
	default: // the longer there is no queue, the more likely the line is faster than it seemed
		y.rate *= 1 + min(slowGrowth*math.Exp2(float64(y.calm)/30), fastGrowth-1)
		y.ceil = max(y.ceil, 0.98*min(y.rate, y.used))
	}
}

// yield slows down. What passed when a queue began is what the line gives, if the queue turns out to be ours.
func (y *Yield) yield(now time.Time, factor float64) {
	if y.used < 0.5*y.rate && y.rate <= max(initialRate, y.ceil/8) {
		y.calm = 0
		return // whosever queue it is, what we send is not worth slowing, and says nothing about the line
	}
	if !y.episode {
		y.episode, y.stood = true, now
		y.seen = max(min(y.rate, 1.05*y.used), y.lowest())
		y.rate = min(y.rate, keepOfCeil*y.seen)
		y.waited = now.Add(2 * Interval)
	}
	y.calm = 0
	if factor > retreat && now.Before(y.waited) {
		factor = 0.985 // a cut needs a round trip to show
	}
	y.rate *= factor
}

// delayFilter keeps the smallest round-trip time of the last minutes, which is the way itself, and of the last samples,
// which is the way and the queue: a single late answer is a busy radio or processor, not a queue.
type delayFilter struct {
	spans  [historySpans]time.Duration // smallest of each minute, newest first
	began  time.Time                   // of spans[0]
	recent [10]time.Duration
	n      int
}

func (d *delayFilter) known() bool { return d.n > 0 }

func (d *delayFilter) add(now time.Time, rtt time.Duration) {
	if rtt <= 0 {
		return
	}
	if d.began.IsZero() || now.Sub(d.began) > time.Minute {
		copy(d.spans[1:], d.spans[:])
		d.spans[0], d.began = rtt, now
	}
	d.spans[0] = min(d.spans[0], rtt)
	d.recent[d.n%len(d.recent)] = rtt
	d.n++
}

func (d *delayFilter) base() time.Duration {
	best := time.Duration(math.MaxInt64)
	for _, s := range d.spans {
		if s > 0 {
			best = min(best, s)
		}
	}
	return best
}

func (d *delayFilter) queue() time.Duration {
	if d.n == 0 {
		return 0
	}
	base := d.base()
	low, highest, empty := time.Duration(math.MaxInt64), time.Duration(0), 0
	for i := range min(d.n, len(d.recent)) {
		r := d.recent[(d.n-1-i)%len(d.recent)]
		if i < lately {
			low = min(low, r)
		}
		if r-base <= target {
			empty++
		}
		highest = max(highest, r)
	}
	if empty >= 3 && highest-base > noisy {
		return min(low-base, target) // answers are late for other reasons than a queue, which does not come and go so fast
	}
	return low - base
}
