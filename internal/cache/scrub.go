package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"boxd/internal/asset"
	"boxd/internal/courtesy"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// VerifyResult is what Verify found.
type VerifyResult struct {
	Pieces int   `json:"pieces"` // that were hashed
	Bytes  int64 `json:"bytes"`
	Bad    []int `json:"bad"` // pieces that were wrong; they are missing now and will be fetched again
}

// Verify reads everything of an asset that is verified from the disk again and hashes it, last in line for the disk, and
// slowly while somebody watches. What is wrong is taken back.
func (c *Cache) Verify(ctx context.Context, id asset.ID) (res VerifyResult, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		courtesy.IdleIO() // this goroutine's thread, which ends with it
		res, err = c.verify(ctx, id)
	}()
	<-done
	return res, err
}

func (c *Cache) verify(ctx context.Context, id asset.ID) (VerifyResult, error) {
	var res VerifyResult
	a, ok := c.Asset(id)
	if !ok {
		return res, fmt.Errorf("verify %s: %w", id.Short(), ErrNotFound)
	}
	defer a.e.setChecked(0)
	for i := 0; i < a.e.n; i++ {
		if err := ctx.Err(); err != nil {
			return res, err
		}
		began := time.Now()
		good, n, err := a.recheck(i, nil)
		if err != nil {
			return res, fmt.Errorf("verify %s: %w", id.Short(), err)
		}
		if c.busy() {
			wait(ctx, verifyRest*time.Since(began)) // ctx is looked at above
		}
		if n == 0 {
			continue
		}
		res.Pieces++
		res.Bytes += n
		a.e.setChecked(res.Bytes)
		if !good {
			res.Bad = append(res.Bad, i)
		}
	}
	a.e.mu.Lock()
	a.e.scrubbed, _ = c.o.Now()
	a.e.mu.Unlock()
	c.mark(a.e)
	c.poke(c.arm)
	return res, nil
}

// setChecked tells how far a Verify is.
func (e *entry) setChecked(n int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.checked = n
}

// recheck hashes one verified piece from the disk. n is 0 when there is nothing to check. A piece that is wrong, or
// cannot be read, is taken back. When busy says that somebody needs the box it ends with errBusy; nil: nobody does.
func (a *Asset) recheck(i int, busy func() bool) (good bool, n int64, err error) {
	e := a.e
	e.mu.Lock()
	have, gone, seq := e.have.get(i), e.gone, e.lostSeq
	e.mu.Unlock()
	if gone {
		return false, 0, ErrGone
	}
	if !have {
		return true, 0, nil
	}
	_, length := e.span(i)
	e.uncache(i)
	sum, err := e.hashFileUnless(busy, i)
	e.uncache(i)
	switch {
	case errors.Is(err, ErrGone), errors.Is(err, errBusy), passing(err):
		return false, 0, err
	case err == nil && sum == a.info.PieceHash(i):
		return true, length, nil
	}
	e.mu.Lock()
	same := e.lostSeq == seq && e.have.get(i)
	e.mu.Unlock()
	if !same {
		return true, 0, nil // somebody else found it first
	}
	c := e.c
	c.stats.rotten.Add(1)
	c.o.Log.Error("cached piece has changed on the disk, to be fetched again", "asset", e.id, "piece", i, "err", err)
	c.o.Health.Raise(health.Warning{
		Code: CodeRot, Severity: health.Warn, Text: "Stored data had changed on the disk; it is fetched again.",
		Action: "If it comes back, the storage is failing.",
	})
	if err := a.MarkMissing(i); err != nil {
		c.o.Log.Error("lost piece still in the index", "asset", e.id, "piece", i, "err", err)
	}
	return false, length, nil
}

// uncache drops a piece from the page cache, so that it is read from the disk, and so that a scrub leaves the memory as
// it found it.
func (e *entry) uncache(i int) {
	f, release, err := e.acquire(false)
	if err != nil {
		return // the read will say so
	}
	defer release()
	if adv, ok := f.(durable.Adviser); ok {
		off, n := e.span(i)
		adv.Advise(durable.Uncache, off, n)
	}
}

// verifyRest is how much longer than it works a Verify rests while somebody watches.
const verifyRest = 4

const (
	scrubLook  = 10 * time.Minute       // how often the scrub looks for something to do
	scrubPause = 500 * time.Millisecond // how often it looks whether the player has ended
)

// runScrub hashes what has not been hashed for half of the period, one piece at a time, while nobody plays anything.
func (c *Cache) runScrub(ctx context.Context) error {
	if c.o.ScrubPeriod < 0 {
		<-ctx.Done()
		return nil
	}
	// Not the last for the processor, too: where one thread of the program may run at a time, as while somebody watches,
	// the player would wait for this one.
	courtesy.IdleIO()
	for wait(ctx, min(scrubLook, c.o.ScrubPeriod/8)) {
		for {
			a := c.scrubNext()
			if a == nil {
				break
			}
			if err := c.scrubAsset(ctx, a); err != nil && ctx.Err() == nil && !errors.Is(err, ErrGone) {
				c.o.Log.Warn("scrub of an asset did not end", "asset", a.e.id, "err", err)
				break
			}
			if ctx.Err() != nil {
				return nil
			}
		}
	}
	return nil
}

// wait says whether the time passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// busy says that somebody plays what is here, or that the box needs its rest.
func (c *Cache) busy() bool { return c.stats.readers.Load() > 0 || c.quiet.Load() }

// scrubNext is the asset whose last scrub is longest ago, when that is due.
func (c *Cache) scrubNext() *Asset {
	now, _ := c.o.Now()
	c.mu.Lock()
	list := c.sorted()
	c.mu.Unlock()
	var best *entry
	var oldest time.Time
	for _, e := range list {
		e.mu.Lock()
		last := e.scrubbed
		if last.IsZero() {
			last = e.created // its pieces were hashed when they came
		}
		due := e.have.ones > 0 && now.Sub(last) >= c.o.ScrubPeriod/2
		e.mu.Unlock()
		if due && (best == nil || last.Before(oldest)) {
			best, oldest = e, last
		}
	}
	if best == nil {
		return nil
	}
	a, err := best.asset()
	if err != nil {
		c.o.Log.Error("metainfo of a cached asset cannot be read", "asset", best.id, "err", err)
		best.mu.Lock()
		best.scrubbed = now // not again at once
		best.mu.Unlock()
		return nil
	}
	return a
}

func (c *Cache) scrubAsset(ctx context.Context, a *Asset) error {
	bad := 0
	for i := 0; i < a.e.n; i++ {
		for c.busy() {
			if !wait(ctx, scrubPause) {
				return ctx.Err()
			}
		}
		good, n, err := a.recheck(i, c.busy)
		if errors.Is(err, errBusy) {
			i--
			continue
		}
		if err != nil {
			return err
		}
		c.stats.scrubbed.Add(n)
		if !good {
			bad++
		}
		if n > 0 && !wait(ctx, time.Duration(float64(n)/float64(c.o.ScrubRate)*float64(time.Second))) {
			return ctx.Err()
		}
	}
	if bad == 0 {
		c.o.Health.Clear(CodeRot)
	}
	a.e.mu.Lock()
	a.e.scrubbed, _ = c.o.Now()
	a.e.mu.Unlock()
	c.mark(a.e)
	c.poke(c.arm)
	return nil
}
