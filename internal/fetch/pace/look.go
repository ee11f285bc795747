package pace

import (
	"math"
	"time"
)

func (y *Yield) rise(now time.Time) {
	f, follows := growth, 0.5
	switch {
	case y.rate > nearTo*y.line: // it gives more than it was thought to
		follows = 0.6
	case y.rate > nearFrom*y.line:
		f, follows = nearGrowth, 0.85
	}
	if y.most() < follows*y.rate && y.rate > max(y.lowest()*4, y.First()) {
		return // we do not even use what we have: rising would only make a burst later
	}
	if y.rate *= f; y.line > 0 && y.delay.begins() {
		y.rate = min(y.rate, keep*y.line) // a short queue is not noticed yet
	}
	if y.sure && y.rate >= keep*y.line {
		y.rate = keep * y.line
		y.enter(holding, now)
	}
}

// most is what came through in the best of the last ticks, in bytes per second.
func (y *Yield) most() (m float64) {
	for _, a := range y.arrived {
		if a.seconds > 0 {
			m = max(m, a.bytes/a.seconds)
		}
	}
	return m
}

// lookOn goes on looking for what the line gives beyond what is known, as long as there is no queue.
func (y *Yield) lookOn(now time.Time) {
	if now.Sub(y.since) > 2*Interval { // it came at the new rate
		y.found.bytes += y.arrived[0].bytes
		y.found.seconds += y.arrived[0].seconds
		y.peak = max(y.peak, y.arrives())
	}
	switch {
	case now.Sub(y.since) < lookFor:
	case y.found.bytes < (1+0.6*y.step)*y.line*y.found.seconds && y.peak < (1+0.9*y.step)*y.line:
		if y.step < 2*firstStep { // so little is lost in how unevenly it comes
			y.lookFurther(now, 2*y.step)
			return
		}
		// It does not come at this rate, or we do not use it.
		if y.found.bytes >= 0.98*y.line*y.found.seconds {
			y.bound = now
		}
		y.look = now.Add(y.pause)
		if now.Sub(y.bound) > boundFor { // what it is thought to give has not held us up for long
			y.look = now.Add(firstPause / 3)
		}
		y.enter(holding, now)
	default:
		y.line = y.rate
		if y.step > 3*firstStep { // it does give more, rather than that it was not asked long enough
			y.pause = firstPause
		}
		y.lookFurther(now, min(2*y.step, lastStep))
	}
}

// lookFurther begins a step of a look.
func (y *Yield) lookFurther(now time.Time, step float64) {
	y.step, y.found, y.peak = step, arrival{}, 0
	y.rate = y.line * (1 + step)
	y.enter(looking, now)
}

// learn takes what came through while a queue of ours stood for what the line gives. It says whether it is rather shared
// with somebody else, who came back as soon as we had made room.
func (y *Yield) learn(now time.Time, other *Yield) (shared bool) {
	if y.near && y.seen >= 0.9*y.line {
		y.bound = now
	}
	unused, theirs := y.seen < 0.5*y.asked, other != nil && (other.spared || other.guilt() >= guilty)
	switch {
	case y.sure && unused && (y.seen >= 0.8*y.line || other.guilt() > 0):
		return false // we did not use what we had: it was not our queue
	case y.delay == &y.own && y.asked < y.line && y.seen >= 0.75*y.asked:
		return false // all that we asked for came: our connections were late for another reason
	case y.seen < 0.8*y.line && (theirs || unused && other.guilt() > 0):
		// It may well be the other direction's, or somebody else's: only what is found again and again is believed.
	case !y.sure && (y.near || y.delay == &y.probe):
		y.sure = math.Abs(y.seen-y.line) < 0.12*y.line
		y.line = max(y.seen, leastRate)
		return false
	case y.seen >= y.line:
		y.line += (y.seen - y.line) * 0.3 // the next look finds the rest
		return false
	case y.near && y.asked < y.line && y.seen >= 0.97*y.asked:
		y.line *= 0.995 // all that we asked for came: rather somebody else's burst
		return false
	case y.near && y.seen >= 0.9*y.line && theirs:
		return false
	case y.near && y.seen >= 0.9*y.line:
		y.line += (y.seen - y.line) * 0.5
		// A line that fell may rise as suddenly.
		y.pause = min(2*y.pause, max(firstPause, min(lastPause, now.Sub(y.fell)/fellFor)))
		return false
	}
	// Far less than it was: a slower line, or somebody else's short burst beside us, or a busy processor. The third time it
	// is the line.
	if y.doubt == 0 || math.Abs(y.seen-y.doubt) > 0.2*y.doubt || now.Sub(y.doubted) > 5*time.Second {
		y.doubts = 0
	}
	shared = y.sure && now.Sub(y.doubted) < metFor
	y.doubt, y.doubted = y.seen, now
	if y.doubts++; y.doubts == 3 {
		y.line, y.doubt, y.pause, y.doubts = max(y.seen, leastRate), 0, firstPause, 0
		y.sure, y.fell = false, now
		return false
	}
	return shared
}

// allow lets more be under way where for long less arrives than is asked for and no queue is to blame.
func (y *Yield) allow(now time.Time) {
	const step, most, patience = time.Millisecond, 15 * time.Millisecond, 10
	if !y.settled(now) || y.arrived[0].bytes >= 0.93*y.rate*y.arrived[0].seconds {
		y.short = 0
		y.extra -= y.extra / 64
		return
	}
	if y.short++; y.short%patience == 0 {
		y.extra = min(y.extra+step, most)
	}
}
