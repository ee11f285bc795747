package fetch

import (
	"testing"
	"time"

	"boxd/internal/fetch/tracker"
)

func TestWhoKnowsOfFewAsksTheTrackerAgainSoon(t *testing.T) {
	answer := func(peers int) tracker.Answer {
		return tracker.Answer{Interval: time.Minute, Peers: make([]tracker.Peer, peers)}
	}
	var sum time.Duration
	var few, alone announcer
	for i, want := range []time.Duration{4, 8, 16, 32, 60, 60} {
		got := few.wait(answer(1), false)
		if got != want*time.Second {
			t.Errorf("after answer %d it waits %v, want %v", i+1, got, want*time.Second)
		}
		sum += got
	}
	if sum < 3*time.Minute {
		t.Errorf("six announces in %v", sum)
	}
	for range 20 {
		alone.wait(answer(0), false)
	}
	if got := alone.wait(answer(0), false); got != aloneAgain {
		t.Errorf("a box that is alone waits %v", got)
	}
	var many, complete announcer
	if got := many.wait(answer(fewPeers), false); got != time.Minute {
		t.Errorf("a box that knows of enough waits %v", got)
	}
	if got := complete.wait(answer(1), true); got != time.Minute {
		t.Errorf("a box that has all of it waits %v", got)
	}
}
