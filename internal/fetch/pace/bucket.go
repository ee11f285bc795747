// Package pace slows readers and writers to a rate that can change at any moment.
//
// Invariants: a rate of zero lets nothing through until it is raised; a waiter wakes at once when the rate changes or its
// done channel closes; what was taken and not used is given back, so that over time the rate is kept exactly.
package pace

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Unlimited is the rate of a bucket that slows nothing.
const Unlimited = math.MaxInt64

// ErrStopped is returned to a waiter whose done channel closed first.
var ErrStopped = errors.New("stopped while waiting for its turn")

// tick is how much of a second one grant covers: short enough that the line's queue never holds more than a few
// milliseconds of ours, long enough that the wake-ups cost little.
const tick = 2 * time.Millisecond

const (
	minGrant = 4 << 10
	maxGrant = 64 << 10
)

// Bucket is a token bucket in bytes. The zero value is not ready: use NewBucket.
type Bucket struct {
	passed atomic.Int64 // bytes let through since it was made

	mu      sync.Mutex // guards the fields below
	rate    int64      // bytes per second
	tokens  float64    // bytes that may pass now; negative while waiters have borrowed
	last    time.Time
	changed chan struct{} // closed and replaced when the rate changes
}

// NewBucket returns a bucket with a rate in bytes per second.
func NewBucket(rate int64) *Bucket {
	return &Bucket{rate: max(rate, 0), changed: make(chan struct{})}
}

// SetRate changes the rate, in bytes per second; zero stops, Unlimited lets everything through.
func (b *Bucket) SetRate(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	rate = max(rate, 0)
	if rate == b.rate {
		return
	}
	b.refill(time.Now())
	if b.rate == Unlimited || b.rate == 0 {
		b.tokens = 0
	}
	b.rate = rate
	close(b.changed)
	b.changed = make(chan struct{})
}

// Rate is the present rate in bytes per second.
func (b *Bucket) Rate() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rate
}

// Grant is how many of n bytes should be moved at once at the present rate.
func (b *Bucket) Grant(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate == Unlimited {
		return n
	}
	g := int(min(float64(b.rate)*tick.Seconds(), maxGrant))
	return min(n, max(g, minGrant))
}

// Take waits until n bytes may pass. It returns ErrStopped when done closes first; then nothing was taken.
func (b *Bucket) Take(n int, done <-chan struct{}) error {
	b.mu.Lock()
	for b.rate != Unlimited {
		now := time.Now()
		b.refill(now)
		if b.rate > 0 && b.tokens >= 0 {
			b.tokens -= float64(n) // one may overdraw: the next waits for it
			break
		}
		wait := time.Duration(math.MaxInt64)
		if b.rate > 0 {
			wait = time.Duration(-b.tokens / float64(b.rate) * float64(time.Second))
		}
		changed := b.changed
		b.mu.Unlock()
		if err := sleep(max(wait, 100*time.Microsecond), changed, done); err != nil {
			return err
		}
		b.mu.Lock()
	}
	b.mu.Unlock()
	b.passed.Add(int64(n))
	return nil
}

// Passed is how many bytes were let through since the bucket was made.
func (b *Bucket) Passed() int64 { return b.passed.Load() }

func sleep(d time.Duration, changed, done <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return ErrStopped
	case <-changed:
	case <-t.C:
	}
	return nil
}

// Give returns bytes that were taken and not used.
func (b *Bucket) Give(n int) {
	if n <= 0 {
		return
	}
	b.passed.Add(-int64(n))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate != Unlimited {
		b.tokens += float64(n)
	}
}

// refill adds what the time since the last call allows. b.mu is held.
func (b *Bucket) refill(now time.Time) {
	if b.last.IsZero() {
		b.last = now
	}
	if b.rate == Unlimited || b.rate == 0 {
		b.last = now
		return
	}
	b.tokens += now.Sub(b.last).Seconds() * float64(b.rate)
	b.last = now
	if burst := max(float64(b.rate)*tick.Seconds(), minGrant); b.tokens > burst {
		b.tokens = burst
	}
}
