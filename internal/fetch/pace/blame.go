package pace

// A probe sees the queues of both directions of a line. So the directions stand trial for a queue one after the other: the
// one that fills its own line better slows down first. If the queue is gone then, it was its queue, and what it learned
// counts. If it stands, the other slows down, too; and if it stands on, it is somebody else's, and both yield.

// From guilty on a direction may well have made a queue; below innocent it has not.
const guilty, innocent = 0.7, 0.1

// guilt is how likely it is that this direction has made a queue: how much of its line it fills. y may be nil.
func (y *Yield) guilt() float64 {
	if y == nil {
		return 0
	}
	got := max(y.used, y.arrives())
	switch {
	case got < y.little():
		return 0
	case y.line == 0:
		return 1 // how much that is, nobody knows
	case y.phase == looking || y.phase == rising && y.rate > y.line:
		return got/y.line + 0.1
	}
	return got / y.line
}

// waits says that the other direction is tried for the queue first.
func (y *Yield) waits(other *Yield) bool {
	if other == nil || other.spared || y.phase == draining || y.phase == yielding {
		return false
	}
	own, others := y.guilt(), other.guilt()
	return other.phase == draining || others > own && (others >= guilty || own < innocent)
}

// onTrial says that this direction is, or has to be, tried for a queue that was found not to be the other's.
func (y *Yield) onTrial() bool {
	if y == nil || y.spared || y.phase == yielding {
		return false
	}
	return y.phase == draining || y.guilt() > 0 && !y.negligible()
}

// seeks says that this direction goes faster than it knows to be right: the other had better not do so, too.
func (y *Yield) seeks() bool {
	return y != nil && (y.phase == looking || y.phase == rising && y.used > 0.5*y.rate)
}
