package pace

import (
	"math"
	"slices"
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
	steadyParts  = 4         // seconds' worth of samples whose medians are compared
	forgotten    = time.Hour // without a sample: who knows where this box is now
)

// delayFilter keeps the smallest round-trip time of the last minutes, which is the way itself, and of the last samples,
// which is the way and the queue: a single late answer is a busy radio or processor, not a queue.
type delayFilter struct {
	spans  [historySpans]time.Duration // smallest of each minute, newest first
	began  time.Time                   // of spans[0]
	recent [steadyParts * second]time.Duration
	n      int
	ours   bool    // a queue now may well be our own: it says nothing about late answers
	theirs bool    // or somebody else's
	late   float64 // share of answers that are late while there is no queue
	noise  float64 // seconds that the best of the last samples is above the way itself when there is no queue
	heard  time.Time
}

// freshFor is how long a sample says how the line is.
const freshFor = time.Second

func (d *delayFilter) fresh(now time.Time) bool { return d.n > 0 && now.Sub(d.heard) < freshFor }

func (d *delayFilter) add(now time.Time, rtt time.Duration) {
	if rtt <= 0 {
		return
	}
	if d.n > 0 && now.Sub(d.heard) > forgotten {
		*d = delayFilter{}
	}
	// While others fill the queue no minute passes: else a queue that stands for long became the way itself.
	if d.began.IsZero() || now.Sub(d.began) > spanLength && !d.theirs {
		copy(d.spans[1:], d.spans[:])
		d.spans[0], d.began = rtt, now
	}
	d.spans[0] = min(d.spans[0], rtt)
	d.recent[d.n%len(d.recent)] = rtt
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
}

// target is the longest queue that is none: more where answers are late for other reasons, as over a radio.
func (d *delayFilter) target() time.Duration {
	t := time.Duration((3.5*d.noise + 0.0005) * float64(time.Second))
	return min(max(t, leastTarget), mostTarget)
}

// level is what answers take at present and by how much that varies, if it is the same since a number of samples.
func (d *delayFilter) level(since int) (level, spread time.Duration, steady bool) {
	if d.n-since < len(d.recent) {
		return 0, 0, false
	}
	all := d.last(len(d.recent))
	low, high := time.Duration(math.MaxInt64), time.Duration(0)
	for part := range slices.Chunk(all, second) {
		m := median(part)
		low, high = min(low, m), max(high, m)
	}
	level = median(all) // sorts
	spread = all[len(all)*3/4] - all[len(all)/4]
	return level, spread, high-low <= leastTarget+spread/4
}

// last are the last samples, at most n.
func (d *delayFilter) last(n int) []time.Duration {
	n = min(n, d.n, len(d.recent))
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = d.recent[(d.n-n+i)%len(d.recent)]
	}
	return out
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// rebase takes a length for the way's, whatever it was before.
func (d *delayFilter) rebase(now time.Time, way time.Duration) {
	d.spans = [historySpans]time.Duration{way}
	d.began = now
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
		best = min(best, d.recent[(d.n-1-i)%len(d.recent)])
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
