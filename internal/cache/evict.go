package cache

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"boxd/internal/asset"
)

const mostEvictWait = 5 * time.Minute // between tries when the disk fails what was begun

// OnEvict registers a callback that is called before files go, for eviction, trimming and Remove, so that whoever shares
// the asset lets go of it first: its Holds must be released when the callback returns, or the asset stays. It runs on
// the goroutine that evicts and must not call Create, Grow, Remove or CheckSpace.
func (c *Cache) OnEvict(f func(asset.ID)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onEvict = append(c.onEvict, f)
}

// tellEvict calls the callbacks. Until stays is called or the entry is gone, Asset does not give it out.
func (c *Cache) tellEvict(e *entry) {
	e.mu.Lock()
	e.leaving = true
	e.mu.Unlock()
	c.mu.Lock()
	list := c.onEvict
	c.mu.Unlock()
	for _, f := range list {
		f(e.id)
	}
}

// stays says that an entry, or the beginning of it, is here for others again.
func (c *Cache) stays(e *entry) {
	e.mu.Lock()
	e.leaving = false
	e.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake()
}

// evict does one step. space must be held.
func (c *Cache) evict(s Step) error {
	c.mu.Lock()
	e := c.entries[s.ID]
	c.mu.Unlock()
	if e == nil {
		return ErrNotFound
	}
	if err := c.mayRemove(e); err != nil {
		return err
	}
	c.tellEvict(e)
	what := EventEvicted
	var err error
	if s.Keep > 0 {
		what = EventTrimmed
		err = c.trim(e, s.Keep-e.torrentLen)
	} else {
		err = c.remove(e)
	}
	if err != nil || s.Keep > 0 {
		c.stays(e)
	}
	if err != nil {
		if !errors.Is(err, ErrInUse) { // who shares it is not made to let go of it again every few seconds
			c.evictWait = min(max(2*c.evictWait, c.o.SpaceCheck), mostEvictWait)
			c.evictAfter = time.Now().Add(c.evictWait)
		}
		return err
	}
	c.evictAfter, c.evictWait = time.Time{}, 0
	c.stats.evictions.Add(1)
	c.stats.evictedBytes.Add(s.Frees)
	c.record(Event{ID: e.id, Name: e.name(), What: what, Bytes: s.Frees, Reason: s.Reason})
	return nil
}

func (e *entry) going() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone || e.leaving
}

func (e *entry) name() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.attr.Name
}

// Remove removes an asset; why is kept for people. ErrInUse while it is being read or held, ErrPinned, ErrNotFound.
func (c *Cache) Remove(id asset.ID, why string) error {
	c.space.Lock()
	defer c.space.Unlock()
	c.mu.Lock()
	e := c.entries[id]
	c.mu.Unlock()
	switch {
	case e == nil:
		return fmt.Errorf("remove %s: %w", id.Short(), ErrNotFound)
	case c.pinned(id):
		return fmt.Errorf("remove %s: %w", id.Short(), ErrPinned)
	case e.inUse():
		return fmt.Errorf("remove %s: %w", id.Short(), ErrInUse)
	}
	if err := c.mayRemove(e); err != nil {
		return fmt.Errorf("remove %s: %w", id.Short(), err)
	}
	c.tellEvict(e)
	e.mu.Lock()
	bytes := e.cost()
	e.mu.Unlock()
	if err := c.remove(e); err != nil {
		c.stays(e)
		return fmt.Errorf("remove %s: %w", id.Short(), err)
	}
	c.record(Event{ID: id, Name: e.name(), What: EventRemoved, Bytes: bytes, Reason: why})
	return nil
}

func (e *entry) inUse() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.readers) > 0
}

// mayRemove asks the disk, before anybody is told to let go: on one that has turned read-only nothing would come free, and
// what is there can still be played. (rename(2) of a name to itself changes nothing, and says so.)
func (c *Cache) mayRemove(e *entry) error {
	e.mu.Lock()
	blob := c.blobPath(e.id, e.gen)
	err := c.fs.Rename(blob, blob)
	e.mu.Unlock()
	if !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EIO) {
		return nil
	}
	c.wrote(err)
	return err
}

// remove takes an entry out of the index, then removes its files. space must be held.
func (c *Cache) remove(e *entry) error {
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	e.mu.Lock()
	if len(e.readers) > 0 || e.holds > 0 {
		e.mu.Unlock()
		return ErrInUse
	}
	e.gone = true // from now on nobody can begin to read or write
	for e.busy() {
		e.idle.Wait()
	}
	e.mu.Unlock()
	if err := c.rows.apply(nil, []asset.ID{e.id}); err != nil {
		c.indexFailed(err)
		if !errors.Is(err, syscall.ENOSPC) {
			e.mu.Lock()
			e.gone = false
			e.mu.Unlock()
			return err
		}
		// The disk is so full that not even a row can go. Without its blob the row is not believed at the next start.
	}
	c.stats.indexCommits.Add(1)
	e.mu.Lock()
	for i := range e.pending {
		_, n := e.span(i)
		c.addPending(-n)
	}
	e.pending, e.progress = nil, nil
	if e.fileRefs == 0 {
		_ = e.closeFile() // its content is no longer wanted
	}
	e.notify()
	e.idle.Broadcast()
	cost, taken, damaged := e.cost(), e.taken(), e.damaged
	e.mu.Unlock()

	c.mu.Lock()
	delete(c.entries, e.id)
	delete(c.dirty, e)
	c.used -= cost
	c.wake()
	c.mu.Unlock()
	owe := c.freeing(taken)
	if c.removeFiles(e) {
		owe()
	}
	if damaged {
		c.metainfoHealth()
	}
	return nil
}

// busy says whether a write or a hash is under way. mu must be held.
func (e *entry) busy() bool {
	for _, pc := range e.progress {
		if pc.writers > 0 || pc.hashing {
			return true
		}
	}
	return false
}

func (c *Cache) freed(e *entry) {
	e.mu.Lock()
	cost := e.cost()
	e.mu.Unlock()
	c.mu.Lock()
	c.used -= cost
	c.wake()
	c.mu.Unlock()
}

// trim takes the tail of an asset away and keeps the first bytes of it. space must be held.
func (c *Cache) trim(e *entry, keep int64) error {
	keep = wantedBytes(e.length, e.pieceLen, keep)
	e.mu.Lock()
	if len(e.readers) > 0 || e.holds > 0 || e.gone || len(e.leases) > 0 {
		e.mu.Unlock()
		return ErrInUse
	}
	before := e.alloc
	if keep >= before {
		e.mu.Unlock()
		return nil
	}
	taken := e.taken()
	e.alloc = keep // from now on nobody can write there
	for e.busy() {
		e.idle.Wait()
	}
	for i := e.allocPieces(); i < e.n; i++ {
		e.lose(i)
		e.unknown.clear(i)
		delete(e.progress, i)
	}
	e.stale = true // also when no bit is lost: a new generation before the file gets shorter
	prefix := e.attr.PrefixBytes
	e.attr.PrefixBytes = keep
	owe := c.freeing(taken - e.taken())
	e.mu.Unlock()

	c.commitMu.Lock()
	err := e.forgetLocked(func() error { return e.truncate(keep) })
	c.commitMu.Unlock()
	if err != nil {
		e.mu.Lock()
		e.alloc, e.attr.PrefixBytes = before, prefix // the space counts as taken, and may not be there
		e.sparse = true
		e.mu.Unlock()
		return err
	}
	owe()
	c.mu.Lock()
	c.used -= before - keep
	c.wake()
	c.mu.Unlock()
	return nil
}

func (e *entry) truncate(size int64) error {
	f, release, err := e.acquire(true)
	if err != nil {
		return err
	}
	defer release()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// Pin keeps an asset from eviction until it is unpinned, also one that is not here yet. It survives the loss of the
// index.
func (c *Cache) Pin(id asset.ID, pin bool) error {
	if c.o.State != nil {
		var err error
		if pin {
			err = c.o.State.Put(pinsBucket, id[:], []byte{1})
		} else {
			err = c.o.State.Delete(pinsBucket, id[:])
		}
		if err != nil {
			return fmt.Errorf("pin %s: %w", id.Short(), err)
		}
	}
	if pin {
		c.pins.Store(id, true)
	} else {
		c.pins.Delete(id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake()
	return nil
}

// Pinned says whether an asset is pinned.
func (c *Cache) Pinned(id asset.ID) bool { return c.pinned(id) }

// SetAttr replaces what the operator wishes for an asset. It becomes durable with the next group commit. A smaller
// PrefixBytes takes nothing away by itself; a larger one is what Create or Grow reserve.
func (c *Cache) SetAttr(id asset.ID, attr Attr) error {
	c.mu.Lock()
	e := c.entries[id]
	c.mu.Unlock()
	if e == nil {
		return fmt.Errorf("set attributes of %s: %w", id.Short(), ErrNotFound)
	}
	c.setAttr(e, attr)
	return nil
}

func (c *Cache) setAttr(e *entry, attr Attr) {
	e.mu.Lock()
	same := e.attr.stored() == attr.stored()
	e.attr = attr
	e.mu.Unlock()
	if !same {
		c.mark(e)
		c.poke(c.arm)
	}
}

// stored is the part of Attr that the index keeps, in the form in which it comes back.
func (a Attr) stored() Attr {
	a.NeighbourHolds = false
	a.Deadline, a.KeepUntil = fromUnix(toUnix(a.Deadline)), fromUnix(toUnix(a.KeepUntil))
	return a
}
