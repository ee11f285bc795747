package pace

// What a direction begins with, and the least that it keeps: parts of what the line gives, since no fixed rate is small on all lines.

// First is the rate to begin with, on a line that gave so much before.
func First(line float64) float64 {
	if line <= 0 {
		return initialRate
	}
	return max(min(max(initialRate, line/4), line/2), leastRate)
}

// First is the rate to begin with the next time.
func (y *Yield) First() float64 {
	first := First(y.line)
	switch {
	case y.patient && y.line == 0:
		return patientRate
	case y.probe.n+y.own.n == 0: // nothing would tell our queue from a longer way
		return min(first, initialRate)
	}
	return first
}

// lowest is what is kept beside somebody else. What our own connections say is less sure than what a probe does: they are
// late for many reasons.
func (y *Yield) lowest() float64 {
	least := y.line * y.share
	if y.delay == &y.own {
		least = y.line * ownFloor
	}
	if y.cap > 0 {
		least = min(least, y.cap)
	}
	return max(least, leastRate)
}

// little is what makes no queue on any line, and on a thin one either.
func (y *Yield) little() float64 {
	if y.line == 0 {
		return littleRate
	}
	return min(max(y.line*floor, leastRate), 2*littleRate)
}

// small is a rate that is no burst.
func (y *Yield) small() float64 {
	if y.line == 0 {
		return initialRate
	}
	return min(initialRate, keep*y.line)
}
