package control

import (
	"context"
	"sync"
	"time"
)

// playbackLinger is how long playback is assumed to go on after the last byte that a player took: players read ahead
// in bursts.
const playbackLinger = 10 * time.Second

// MaxLease bounds a playback lease.
const MaxLease = 6 * time.Hour

// Playback knows whether somebody is watching: players that read, and the lease of a player application that plays
// something else. Its methods may be called from any goroutine.
type Playback struct {
	set  func(active bool) // told of every change
	now  func() time.Time
	wake chan struct{}

	mu      sync.Mutex // guards the fields below; never held while set is called
	players int        // open connections
	waiting int        // of them, those that wait for bytes that are not here yet
	until   time.Time  // the later of the last byte plus linger and the lease's end
	lease   time.Time
}

// NewPlayback tells set of every change while Run runs; now is the clock.
func NewPlayback(set func(bool), now func() time.Time) *Playback {
	return &Playback{set: set, now: now, wake: make(chan struct{}, 1)}
}

// Open counts a player connection until the returned function is called.
func (p *Playback) Open() (closed func()) {
	p.change(func() { p.players++ })
	return sync.OnceFunc(func() { p.change(func() { p.players-- }) })
}

// Touch says that a player took bytes.
func (p *Playback) Touch() {
	p.mu.Lock()
	until := p.now().Add(playbackLinger)
	fresh := until.Sub(p.until) > time.Second
	p.mu.Unlock()
	if fresh { // else told a moment ago
		p.change(func() { p.until = later(p.until, until) })
	}
}

// Wait says that a player waits for bytes until the returned function is called.
func (p *Playback) Wait() (ended func()) {
	p.change(func() { p.waiting++ })
	return sync.OnceFunc(func() { p.change(func() { p.waiting-- }) })
}

// Lease says that somebody watches for d from now on; 0 ends the lease. It returns when the lease ends.
func (p *Playback) Lease(d time.Duration) time.Time {
	var end time.Time
	p.change(func() {
		end = p.now().Add(min(max(d, 0), MaxLease))
		p.lease = end
	})
	return end
}

// State returns the open player connections, and whether somebody is watching.
func (p *Playback) State() (players int, active bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	return p.players, p.waiting > 0 || now.Before(p.until) || now.Before(p.lease)
}

func (p *Playback) change(fn func()) {
	p.mu.Lock()
	fn()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run tells of every change until ctx ends.
func (p *Playback) Run(ctx context.Context) {
	told := false
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if _, active := p.State(); active != told {
			told = active
			p.set(active)
		}
		timer.Reset(p.next())
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

func (p *Playback) next() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := later(p.until, p.lease)
	if d := end.Sub(p.now()); d > 0 {
		return min(d, time.Hour)
	}
	return time.Hour
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
