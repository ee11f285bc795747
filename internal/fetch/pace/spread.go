package pace

import "time"

// Spread says over how many connections to a server to fetch. Two fill a line: while one waits for its next answer, or its
// sender measures the way anew, the other goes on; the bursts of more add up. More are needed where two cannot carry what
// there is room for: where packets get lost, each of which holds up what follows it on its connection, or where the server
// gives each connection only so much.
type Spread struct {
	more   bool      // than the fewest are needed
	lossy  time.Time // when packets were last being lost
	filled time.Time // when the room was last used, or could not be judged
}

const (
	fewConnections  = 2
	manyConnections = 4
	filledFrom      = 0.75             // of the rate, from which on the room counts as used
	askedFrom       = 0.1              // below, hardly anything was asked for
	unfilledFor     = 2 * time.Second  // before more connections are made
	lossFor         = 60 * time.Second // before losses are forgotten
)

// Tick takes what was seen in one Interval: whether packets are being lost, whether the line is free of queues and of others
// so that nothing but rate, in bytes per second, bounds us, and how much of it arrived.
func (s *Spread) Tick(now time.Time, lossy, free bool, rate, arrived float64) {
	if lossy {
		s.lossy = now
	}
	if !free || arrived >= filledFrom*rate || arrived < askedFrom*rate || s.filled.IsZero() {
		s.filled = now
	}
	s.more = s.more || now.Sub(s.filled) > unfilledFor
}

// Connections is how many to use now.
func (s *Spread) Connections(now time.Time) int {
	if s.more || !s.lossy.IsZero() && now.Sub(s.lossy) < lossFor {
		return manyConnections
	}
	return fewConnections
}
