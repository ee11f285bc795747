package cache

import (
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3 v1 names pieces by SHA-1; TUF says who may publish
	"errors"
	"io"
	"time"

	"boxd/internal/courtesy"
	"boxd/internal/durable"
)

// runChecks hashes the pieces about which the index knows nothing any more, those that a reader waits for first.
func (c *Cache) runChecks(ctx context.Context) error {
	courtesy.IdleIO()
	for {
		for {
			e, i, wanted := c.unknownNext()
			if e == nil {
				break
			}
			if c.quiet.Load() && !wanted {
				// Slowly, not never: a box may always play, or be warm, and what is not hashed is not shared either.
				if !c.pauseChecks(ctx) {
					return nil
				}
				if e, i, wanted = c.unknownNext(); e == nil {
					break
				}
			}
			courtesy.Rest(!wanted)
			c.settle(e, i)
			if ctx.Err() != nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.check:
		}
	}
}

// pauseChecks waits between two pieces that nobody waits for, until a reader wants one; false when ctx ends.
func (c *Cache) pauseChecks(ctx context.Context) bool {
	t := time.NewTimer(scrubPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-c.check:
	case <-t.C:
	}
	return true
}

// unknownNext is the piece to hash next, and whether a reader waits for it.
func (c *Cache) unknownNext() (_ *entry, piece int, wanted bool) {
	c.mu.Lock()
	list := c.sorted()
	c.mu.Unlock()
	var first *entry
	for _, e := range list {
		e.mu.Lock()
		if e.unknown.ones > 0 && !e.gone {
			for r := range e.readers {
				if i := int(min(r.base+r.pos, e.length-1) / e.pieceLen); e.unknown.get(i) {
					e.mu.Unlock()
					return e, i, true
				}
			}
			if first == nil {
				first, piece = e, e.unknown.next(0, true)
			}
		}
		e.mu.Unlock()
	}
	if first == nil {
		c.o.Health.Clear(CodeRebuilt)
	}
	return first, piece, false
}

// settle finds out about one unknown piece. Space that was never written is skipped without reading.
func (c *Cache) settle(e *entry, i int) {
	if end := e.holeFrom(i); end > i {
		e.mu.Lock()
		for ; i < end; i++ {
			e.unknown.clear(i)
		}
		e.notify()
		e.mu.Unlock()
		return
	}
	a, err := e.asset()
	var sum [sha1.Size]byte
	if err == nil {
		sum, err = e.hashFile(i)
	}
	if passing(err) {
		time.Sleep(scrubPause) // it is looked at again
		return
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		c.o.Log.Warn("piece cannot be checked", "asset", e.id, "piece", i, "err", err)
	}
	e.mu.Lock()
	// A write has made the piece known: then it is judged like any other.
	good := err == nil && e.unknown.get(i) && e.progress[i] == nil && !e.gone && sum == a.info.PieceHash(i)
	e.unknown.clear(i)
	if good {
		e.accept(i)
	}
	complete := e.have.full()
	e.notify()
	e.mu.Unlock()
	if good || complete {
		c.accepted(e, good && complete)
	}
}

// holeFrom returns the first piece at or after i that has any data, when the file system can tell; else i.
func (e *entry) holeFrom(i int) int {
	f, release, err := e.acquire(false)
	if err != nil {
		return i
	}
	defer release()
	ext, ok := f.(durable.Extents)
	if !ok {
		return i
	}
	off, _ := e.span(i)
	begin, end, err := ext.NextData(off)
	if err != nil {
		return i
	}
	if begin == end {
		return e.n
	}
	return int(begin / e.pieceLen)
}
