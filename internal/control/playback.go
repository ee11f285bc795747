package control

import (
	"context"
	"maps"
	"sync"
	"time"
)

const (
	// playbackLinger is how long playback goes on after the last byte that players took, though none has a connection
	// open: many ask for segments of ten seconds one by one.
	playbackLinger = 30 * time.Second

	// PlayerStall is how long an open connection counts without taking a byte: whoever plays little has much of it in
	// memory. Then its server lets it go.
	PlayerStall = 5 * time.Minute

	// pausedFor is how long connections that take only what fills their buffers count, however often they come back: a
	// television that was left on pause does not hold the night up.
	pausedFor = 30 * time.Minute
)

// MaxLease bounds a playback lease.
const MaxLease = 6 * time.Hour

// maxLeases bounds the leases at a time.
const maxLeases = 32

// Playback knows whether somebody is watching: players that read, and the leases of player applications that play
// something else. Its methods may be called from any goroutine.
type Playback struct {
	set  func(active bool) // told of every change
	now  func() time.Time
	wake chan struct{}

	mu      sync.Mutex           // guards the fields below; never held while set is called
	players int                  // open connections
	waiting int                  // of them, those that wait for bytes that are not here yet
	took    time.Time            // when one took bytes last
	opened  time.Time            // when one came last
	played  time.Time            // when one took more than its first bytes last, or came after a long time without any
	leases  map[string]time.Time // when they end, by player application
}

// NewPlayback tells set of every change while Run runs; now is the clock.
func NewPlayback(set func(bool), now func() time.Time) *Playback {
	return &Playback{set: set, now: now, wake: make(chan struct{}, 1)}
}

// Open counts a player connection until the returned function is called.
func (p *Playback) Open() (closed func()) {
	p.change(func() {
		now := p.now()
		if p.players++; now.Sub(p.took) > pausedFor && now.Sub(p.opened) > pausedFor {
			p.played = now
		}
		p.opened = now
	})
	return sync.OnceFunc(func() { p.change(func() { p.players-- }) })
}

// Touch says that a player took bytes.
func (p *Playback) Touch() {
	p.mu.Lock()
	now := p.now()
	fresh := now.Sub(p.took) > time.Second
	p.mu.Unlock()
	if fresh { // else told a moment ago
		p.change(func() {
			if p.took = now; now.Sub(p.opened) > playbackLinger {
				p.played = now
			}
		})
	}
}

// Wait says that a player waits for bytes until the returned function is called.
func (p *Playback) Wait() (ended func()) {
	p.change(func() { p.waiting++ })
	return sync.OnceFunc(func() { p.change(func() { p.waiting-- }) })
}

// Lease says that somebody watches with a player application, of which "" is one, for d from now on; 0 ends its lease, and
// no other's. It returns when that lease ends. Of more leases than maxLeases the first to end is forgotten.
func (p *Playback) Lease(player string, d time.Duration) time.Time {
	var end time.Time
	p.change(func() {
		now := p.now()
		end = now.Add(min(max(d, 0), MaxLease))
		maps.DeleteFunc(p.leases, func(_ string, end time.Time) bool { return !now.Before(end) })
		if p.leases == nil {
			p.leases = map[string]time.Time{}
		}
		p.leases[player] = end
		if d <= 0 {
			delete(p.leases, player)
		}
		for len(p.leases) > maxLeases {
			first := player
			for other, at := range p.leases {
				if at.Before(p.leases[first]) {
					first = other
				}
			}
			delete(p.leases, first)
		}
	})
	return end
}

// State returns the open player connections, and whether somebody is watching.
func (p *Playback) State() (players int, active bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	active, _ = p.active(p.now())
	return p.players, active
}

// active says whether somebody is watching, and if so, until when if nothing happens; mu is held.
func (p *Playback) active(now time.Time) (bool, time.Time) {
	until := p.took.Add(playbackLinger)
	for _, end := range p.leases {
		until = later(until, end)
	}
	if p.players > 0 {
		still := later(p.took, p.opened).Add(PlayerStall)
		if most := p.played.Add(pausedFor); most.Before(still) {
			still = most
		}
		until = later(until, still)
	}
	return p.waiting > 0 || now.Before(until), until
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
		active, next := p.look()
		if active != told {
			told = active
			p.set(active)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// look says whether somebody is watching, and when to look again. It goes by one look at the clock: what ends between two
// would be told of much later.
func (p *Playback) look() (active bool, next time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	active, until := p.active(now)
	if d := until.Sub(now); d > 0 {
		return active, min(d, time.Hour)
	}
	return active, time.Hour
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
