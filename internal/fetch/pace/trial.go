package pace

import (
	"slices"
	"time"
)

// Answers that stay late although we keep next to nothing come over a longer way, or others keep the queue full. Both may
// look the same for minutes, so an experiment decides: we take somewhat more for a moment and then nothing. Over a longer way
// the answers take as long as before; a queue shrinks for lack of what we sent, until others have filled it again. As long
// as nothing is proven the queue counts as theirs; what it costs them is next to nothing, since the experiment is repeated
// ever more seldom.
type trial struct {
	stage  stage
	began  time.Time     // the stage
	since  int           // samples when we began to yield, or to wait for the next experiment
	level  time.Duration // what answers took before
	spread time.Duration // by how much that varied
	way    time.Duration // how long the way is, if it is one
	low    time.Duration // the least that answers took while we sent nothing
	pushed float64       // the most that arrived, in bytes per second
	proves bool          // it did arrive
	next   time.Time
	pause  time.Duration // before the next
}

type stage byte

const (
	waiting stage = iota // for the next experiment
	pushing
	hushed
)

const (
	firstTrial = 4 * time.Second
	lastTrial  = 5 * time.Minute
	trialOver  = 30 * time.Second // without others, after which experiments come soon again
	pushTo     = 0.3              // of the line
	pushFor    = time.Second
	hushFor    = 700 * time.Millisecond
	lackingFor = 10 // ticks: between two requests little comes, too
	fewAnswers = 5  // whose median is the delay while we send nothing
)

func (y *Yield) tries() bool { return y != nil && y.trial.stage != waiting }

// besideOthers acts on a queue that is not ours and still stands.
func (y *Yield) besideOthers(now time.Time, other *Yield) {
	t := &y.trial
	got := y.arrives()
	switch t.stage {
	case waiting:
		if y.rate *= 0.8; max(got, y.used) >= 0.9*y.rate {
			y.lacking = 0
		} else if y.lacking++; y.lacking%lackingFor == 0 {
			y.cap = 0.5 * max(got, y.used) // even this is more than the line has for us
		}
		level, spread, steady := y.delay.level(t.since)
		if !steady || now.Before(t.next) || y.used < 0.5*y.rate || other.tries() {
			return
		}
		last := y.delay.last(len(y.delay.recent))
		t.level, t.spread, t.way, t.pushed = level, spread, slices.Min(last), 0
		t.stage, t.began = pushing, now
	case pushing:
		t.pushed = max(t.pushed, got)
		rose := y.delay.best(y.delay.lately()) > t.level+t.tolerance()
		if got >= 0.5*y.rate {
			most := max(pushTo*y.line, 2*y.lowest())
			if y.line == 0 {
				most = 16 * leastRate
			}
			y.rate = min(y.rate*growth, most)
		}
		switch {
		case !rose && now.Sub(t.began) < pushFor+t.level:
		default:
			// Where too little is asked of us, or others do not let it through, nothing can be proven.
			t.proves = t.pushed >= 1.5*y.lowest() && (rose || t.pushed >= 0.85*y.rate)
			t.stage, t.began, t.low, t.since = hushed, now, t.level, y.delay.n
		}
	case hushed:
		y.rate = leastRate
		if y.delay == &y.own {
			y.rate = y.lowest() // with nothing under way our own connections say nothing
		}
		if y.delay.n-t.since < fewAnswers {
			return
		}
		now5 := median(y.delay.last(fewAnswers))
		t.low = min(t.low, now5)
		switch {
		case now.Sub(t.began) < hushFor+t.level:
		case t.low >= t.level-t.tolerance() && t.proves:
			y.prove(now, other)
		default:
			if now5 < t.level-t.tolerance() {
				y.share /= 2 // nobody has taken what we left: together we were too many
			}
			y.fail(now)
		}
	}
}

// tolerance is by how much answers may differ over the same way.
func (t *trial) tolerance() time.Duration { return leastTarget + t.spread }

// prove takes what answers take for the way.
func (y *Yield) prove(now time.Time, other *Yield) {
	y.trial.stage = waiting
	for _, z := range []*Yield{y, other} {
		if z != nil && z.phase == yielding && (z == y || z.delay == &z.probe && y.delay == &y.probe) {
			z.delay.rebase(now, y.trial.way)
			z.trial.stage = waiting
		}
	}
}

// fail leaves it at the queue being others'.
func (y *Yield) fail(now time.Time) {
	t := &y.trial
	t.stage, t.since = waiting, y.delay.n
	t.pause = min(2*t.pause, lastTrial)
	t.next = now.Add(t.pause)
	y.rate = y.lowest()
}
