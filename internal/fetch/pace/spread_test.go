package pace

import (
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	begin := time.Unix(1e9, 0)
	run := func(s *Spread, from, to time.Duration, lossy, free bool, share float64) int {
		for at := from; at < to; at += Interval {
			s.Tick(begin.Add(at), lossy, free, 1e6, share*1e6)
		}
		return s.Connections(begin.Add(to))
	}
	const long = 10 * time.Second
	for _, c := range []struct {
		what        string
		lossy, free bool
		share       float64
		want        int
	}{
		{"a line that is filled", false, true, 0.95, 2},
		{"others on the line", false, false, 0.1, 2},
		{"packets that get lost", true, true, 0.9, 4},
		{"a server that gives each connection a quarter", false, true, 0.5, 4},
	} {
		if n := run(&Spread{}, 0, long, c.lossy, c.free, c.share); n != c.want {
			t.Errorf("%s: %d connections, want %d", c.what, n, c.want)
		}
	}
	var s Spread
	if n := run(&s, 0, unfilledFor, false, true, 0.5); n != 2 {
		t.Errorf("%d connections at first, want 2", n)
	}
	run(&s, unfilledFor, long, false, true, 0.5)
	if n := run(&s, long, 2*long, false, true, 0.95); n != 4 {
		t.Errorf("%d connections once four fill the line, want 4", n)
	}
	s = Spread{}
	run(&s, 0, time.Second, true, true, 0.9)
	if n := run(&s, time.Second, lossFor, false, true, 0.9); n != 4 {
		t.Errorf("%d connections soon after the last loss, want 4", n)
	}
	if n := run(&s, lossFor, lossFor+2*time.Second, false, true, 0.9); n != 2 {
		t.Errorf("%d connections long after the last loss, want 2", n)
	}
}
