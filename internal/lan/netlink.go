package lan

import (
	"context"
	"time"
)

const (
	pollEvery = 30 * time.Second
	burst     = 300 * time.Millisecond // changes of interfaces come in bursts
)

// pollNICs turns events into at most one signal a burst, and signals now and then without any.
func pollNICs(ctx context.Context, events <-chan struct{}, moved chan<- struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pollEvery):
		case <-events:
			select {
			case <-ctx.Done():
				return
			case <-time.After(burst):
			}
		}
		poke(moved)
	}
}

func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
