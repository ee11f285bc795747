package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"boxd/internal/asset"
)

// forget makes sure that no index row can claim the pieces that were lost: the blob gets a new generation, and the row
// follows. Only then may their place be written again. No lock may be held but Cache.space.
func (e *entry) forget() error {
	e.c.commitMu.Lock()
	defer e.c.commitMu.Unlock()
	err := e.forgetLocked(nil)
	if err != nil {
		e.c.indexFailed(err)
		e.c.mark(e) // Flush tries again
		e.c.poke(e.c.arm)
	}
	return err
}

// forgetLocked is forget with commitMu held. between runs after the old generation is gone and before the new row.
func (e *entry) forgetLocked(between func() error) error {
	c := e.c
	e.mu.Lock()
	if !e.stale || e.gone {
		e.mu.Unlock()
		return nil
	}
	// With mu held: who opens the blob meanwhile must not look for it under its old name.
	gen := newGen(e.gen)
	if err := c.fs.Rename(c.blobPath(e.id, e.gen), c.blobPath(e.id, gen)); err != nil {
		e.mu.Unlock()
		return fmt.Errorf("forget pieces of %s: %w", e.id.Short(), err)
	}
	e.gen = gen
	keep := e.durable.clone()
	for i := keep.next(0, true); i < keep.n; i = keep.next(i+1, true) {
		if !e.have.get(i) {
			keep.clear(i)
		}
	}
	raw := e.row(keep).encode(e.id)
	e.mu.Unlock()
	serr := c.fs.SyncDir(c.dir)
	if between != nil {
		if serr == nil {
			serr = between()
		}
		if serr != nil {
			return fmt.Errorf("forget pieces of %s: %w", e.id.Short(), serr)
		}
	}
	rerr := c.rows.apply(map[asset.ID][]byte{e.id: raw}, nil)
	c.stats.indexCommits.Add(1)
	if rerr != nil {
		c.indexFailed(rerr)
		c.mark(e)
	}
	if serr != nil && rerr != nil {
		// Neither the new name nor the new row is sure to be there after a power cut.
		return fmt.Errorf("forget pieces of %s: %w", e.id.Short(), errors.Join(serr, rerr))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.durable = keep
	e.stale = false
	for i := keep.next(0, true); i < keep.n; i = keep.next(i+1, true) {
		if !e.have.get(i) {
			e.stale = true // lost meanwhile
		}
	}
	return nil
}

func newGen(old uint32) uint32 {
	for {
		if g := rand.Uint32(); g != old && g != 0 { //nolint:gosec // tells generations apart, keeps no secret
			return g
		}
	}
}
