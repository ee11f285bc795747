package pace

import (
	"math"
	"time"
)

const (
	leastTarget  = 2 * time.Millisecond
	mostTarget   = 20 * time.Millisecond
	lately       = 3  // samples, of which the best counts, where answers are hardly ever late by themselves
	mostLately   = 10 // and where they often are
	rarely       = 0.002
	second       = 20 // samples in a second
	historySpans = 10
	spanLength   = time.Minute
	steadyFor    = 10 * time.Second
	steadySpread = 2 * time.Millisecond
)

// delayFilter keeps the smallest round-trip time of the last minutes, which is the way itself, and of the last samples,
// which is the way and the queue: a single late answer is a busy radio or processor, not a queue.
type delayFilter struct {
	spans  [historySpans]time.Duration // smallest of each minute, newest first
	began  time.Time                   // of spans[0]
	recent [second]time.Duration
	n      int
	ours   bool    // a queue now may well be our own: it says nothing about late answers
	theirs bool    // or somebody else's
	late   float64 // share of answers that are late while there is no queue
	noise  float64 // seconds that the best of the last samples is above the way itself when there is no queue

	low, high time.Duration // of the best of the last samples, since watch
	watch     time.Time
	seen      time.Time // the last sample
	heard     time.Time // the last answer
}

// freshFor is how long a sample says how the line is.
const freshFor = time.Second

func (d *delayFilter) fresh(now time.Time) bool { return d.n > 0 && now.Sub(d.heard) < freshFor }

// missing takes a sample that says that an answer is missing.
func (d *delayFilter) missing(now time.Time, rtt time.Duration) {
	heard := d.heard
	d.add(now, rtt)
	d.heard = heard
}

func (d *delayFilter) add(now time.Time, rtt time.Duration) {
	if rtt <= 0 {
		return
	}
	if d.began.IsZero() || now.Sub(d.began) > spanLength {
		copy(d.spans[1:], d.spans[:])
		d.spans[0], d.began = rtt, now
	}
	d.spans[0] = min(d.spans[0], rtt)
	d.recent[d.n%second] = rtt
	d.n++
	d.heard = now
	best, base := d.best(d.lately()), d.base()
	if d.best(second)-base <= leastTarget {
		switch late := rtt-base > leastTarget; {
		case !late:
			d.late -= d.late / 64
		case !d.ours && !d.theirs:
			d.late += (1 - d.late) / 64
		}
	}
	q := best - base
	comesAndGoes := q <= d.target() || d.best(second)-base <= leastTarget // no queue of ours does
	if comesAndGoes && (!d.theirs || q.Seconds() < d.noise) {
		d.noise += (min(q, mostTarget).Seconds() - d.noise) / float64(min(d.n, 64))
	}
	if d.watch.IsZero() || now.Sub(d.seen) > time.Second {
		d.watch, d.low, d.high = now, best, best
	}
	d.low, d.high, d.seen = min(d.low, best), max(d.high, best), now
	if d.high-d.low > steadySpread {
		d.watch, d.low, d.high = now, best, best
	}
}

// target is the longest queue that is none: more where answers are late for other reasons, as over a radio.
func (d *delayFilter) target() time.Duration {
	t := time.Duration((3.5*d.noise + 0.0005) * float64(time.Second))
	return min(max(t, leastTarget), mostTarget)
}

// steady says that answers have been late by the same time for long: no queue is like that, but a longer way is.
func (d *delayFilter) steady(now time.Time) bool { return now.Sub(d.watch) >= steadyFor }

// rebase takes the present for the way itself.
func (d *delayFilter) rebase(now time.Time) {
	d.spans = [historySpans]time.Duration{d.low}
	d.began, d.watch = now, now
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

// lately is how many samples are late together hardly ever unless there is a queue.
func (d *delayFilter) lately() int {
	n := lately
	for p := d.late * d.late * d.late; p > rarely && n < mostLately; p *= d.late {
		n++
	}
	return n
}

// begins says that little is known of the way yet.
func (d *delayFilter) begins() bool { return d.n < 10 }

// best of the last n samples.
func (d *delayFilter) best(n int) time.Duration {
	best := time.Duration(math.MaxInt64)
	for i := range min(d.n, n) {
		best = min(best, d.recent[(d.n-1-i)%second])
	}
	return best
}

// standing is the least that the queue was in the last moments.
func (d *delayFilter) standing() time.Duration {
	if d.n == 0 {
		return 0
	}
	return d.best(2*d.lately()) - d.base()
}

func (d *delayFilter) queue() time.Duration {
	if d.n == 0 {
		return 0
	}
	return d.best(d.lately()) - d.base()
}
