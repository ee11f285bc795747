package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
)

// Create takes in an asset: it parses the metainfo, reserves the space (evicting what policy allows) and returns the
// handle. For one that is there already it takes over attr, reserves more when more is wanted, and returns it. Errors:
// asset.ErrTorrent, ErrNoSpace (as *SpaceError), or of the disk; then nothing is left behind.
func (c *Cache) Create(torrent []byte, attr Attr) (*Asset, error) {
	info, err := asset.ParseTorrent(torrent)
	if err != nil {
		return nil, err
	}
	c.space.Lock()
	defer c.space.Unlock()
	c.mu.Lock()
	e, closed := c.entries[info.ID], c.closed
	c.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case e != nil:
		return c.createAgain(e, info, torrent, attr)
	}
	alloc := wantedBytes(info.Length, info.PieceLength, attr.PrefixBytes)
	in := &Incoming{info.ID, attr.Priority, attr.Deadline}
	if err := c.makeRoom(alloc+int64(len(torrent)), info.Length+int64(len(torrent)), in); err != nil {
		return nil, err
	}
	r := &row{
		gen: newGen(0), length: info.Length, pieceLen: info.PieceLength, alloc: alloc, torrentLen: int64(len(torrent)),
		attr: attr, have: newBits(info.NumPieces()),
	}
	c.mu.Lock()
	r.created = c.tick()
	r.lastUse = r.created
	c.mu.Unlock()
	e = c.newEntry(info.ID, r)
	if err := c.makeFiles(e, torrent); err != nil {
		c.wrote(err)
		c.removeFiles(e)
		return nil, fmt.Errorf("create %s: %w", info.ID.Short(), err)
	}
	c.commitMu.Lock()
	r.sparse = e.sparse
	err = c.rows.apply(map[asset.ID][]byte{e.id: r.encode(e.id)}, nil)
	c.commitMu.Unlock()
	c.stats.indexCommits.Add(1)
	if err != nil {
		// It works without: after a restart its pieces are looked at again.
		c.indexFailed(err)
		c.mark(e)
		c.poke(c.arm)
	}
	a := e.attach(info)
	c.mu.Lock()
	c.entries[e.id] = e
	c.used += e.cost()
	c.wake()
	c.mu.Unlock()
	c.wrote(nil)
	c.o.Health.Clear(CodeNoSpace)
	return a, nil
}

// wantedBytes is how much of an asset is to be reserved: all, or whole pieces that cover the prefix.
func wantedBytes(length, pieceLen, prefix int64) int64 {
	if prefix <= 0 || prefix >= length {
		return length
	}
	return min(length, int64(pieces(prefix, pieceLen))*pieceLen)
}

// createAgain must be called with space held.
func (c *Cache) createAgain(e *entry, info *asset.Info, torrent []byte, attr Attr) (*Asset, error) {
	if _, _, err := c.readTorrent(e.id); err != nil {
		c.o.Log.Warn("metainfo of a cached asset was damaged, written again", "asset", e.id, "err", err)
		if err := durable.WriteFile(c.fs, c.torrentPath(e.id), torrent, 0o644); err != nil {
			return nil, err
		}
	}
	e.mu.Lock()
	damaged := e.damaged
	e.damaged, e.unread = false, time.Time{}
	e.mu.Unlock()
	if damaged {
		c.metainfoHealth()
	}
	a := e.attach(info)
	c.setAttr(e, attr)
	e.mu.Lock()
	want := wantedBytes(e.length, e.pieceLen, attr.PrefixBytes)
	grow := want > e.alloc
	e.mu.Unlock()
	if grow {
		if err := c.grow(e, want); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Grow reserves the asset up to so many bytes from the front, evicting what policy allows.
func (a *Asset) Grow(bytes int64) error {
	a.e.c.space.Lock()
	defer a.e.c.space.Unlock()
	return a.e.c.grow(a.e, wantedBytes(a.e.length, a.e.pieceLen, bytes))
}

// grow must be called with space held.
func (c *Cache) grow(e *entry, want int64) error {
	e.mu.Lock()
	have, sparse, gone := e.alloc, e.sparse, e.gone
	in := &Incoming{e.id, e.attr.Priority, e.attr.Deadline}
	if len(e.readers) > 0 {
		in.Priority = int(^uint(0) >> 1) // somebody sits before the screen
	}
	e.mu.Unlock()
	switch {
	case gone:
		return ErrGone
	case want <= have:
		return nil
	}
	if err := c.makeRoom(want-have, e.length+e.torrentLen, in); err != nil {
		return err
	}
	// The index first: after a crash it may claim too much space for the asset, never too little.
	if err := c.setAlloc(e, have, want); err != nil {
		return err
	}
	// Writers are let in only when the space is there: what they brought would be cut off again if it cannot be had.
	sparse, err := e.extend(want, sparse)
	if err != nil {
		c.wrote(err)
		err = fmt.Errorf("reserve %d bytes for %s: %w", want-have, e.id.Short(), err)
		if terr := e.truncate(have); terr != nil {
			e.mu.Lock()
			e.alloc, e.sparse = want, true // some of it may be taken: it stays counted
			e.mu.Unlock()
			c.mark(e)
			return errors.Join(err, terr)
		}
		return errors.Join(err, c.setAlloc(e, want, have))
	}
	e.mu.Lock()
	e.alloc, e.sparse = want, e.sparse || sparse
	e.notify()
	e.mu.Unlock()
	c.mark(e) // a commit meanwhile has written the old reservation
	c.poke(c.arm)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake()
	return nil
}

// extend makes the blob longer, durably.
func (e *entry) extend(want int64, sparse bool) (bool, error) {
	f, release, err := e.acquire(true)
	if err != nil {
		return sparse, err
	}
	defer release()
	if !sparse {
		err = f.Allocate(want)
	}
	if sparse || errors.Is(err, durable.ErrNoAllocate) {
		sparse, err = true, f.Truncate(want)
	}
	if err == nil {
		err = f.Sync()
	}
	return sparse, err
}

// setAlloc counts and commits that an asset has alloc reserved in place of before. Nobody may write there yet.
func (c *Cache) setAlloc(e *entry, before, alloc int64) error {
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	e.mu.Lock()
	r := e.row(e.durable)
	e.mu.Unlock()
	r.alloc = alloc
	err := c.rows.apply(map[asset.ID][]byte{e.id: r.encode(e.id)}, nil)
	c.stats.indexCommits.Add(1)
	if err != nil {
		c.indexFailed(err)
		return fmt.Errorf("reserve space for %s: %w", e.id.Short(), err)
	}
	c.mu.Lock()
	c.used += alloc - before
	c.wake()
	c.mu.Unlock()
	return nil
}

// makeFiles writes the metainfo and reserves the blob, durably.
func (c *Cache) makeFiles(e *entry, torrent []byte) error {
	f, err := c.fs.Create(c.blobPath(e.id, e.gen), 0o644)
	if err != nil {
		return err
	}
	err = f.Allocate(e.alloc)
	if errors.Is(err, durable.ErrNoAllocate) {
		e.sparse = true
		err = f.Truncate(e.alloc)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return durable.WriteFile(c.fs, c.torrentPath(e.id), torrent, 0o644) // syncs the directory for both
}

// removeFiles removes the files of an entry that is in no index and not counted as used. What cannot be removed now
// counts as used until a later try succeeds.
func (c *Cache) removeFiles(e *entry) (gone bool) {
	err := c.tryRemoveFiles(e)
	if err == nil {
		return true
	}
	c.o.Log.Warn("files of a removed asset are still there", "asset", e.id, "err", err)
	e.mu.Lock()
	cost := e.cost()
	e.mu.Unlock()
	c.mu.Lock()
	c.limbo = append(c.limbo, e)
	c.used += cost
	c.mu.Unlock()
	return false
}

func (c *Cache) tryRemoveFiles(e *entry) error {
	var errs []error
	c.mu.Lock()
	again := c.entries[e.id] != nil // a new one has the same metainfo
	c.mu.Unlock()
	paths := []string{c.blobPath(e.id, e.gen)}
	if !again {
		paths = append(paths, c.torrentPath(e.id), c.torrentPath(e.id)+durable.TempSuffix)
	}
	for _, p := range paths {
		if err := c.fs.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, c.fs.SyncDir(c.dir))...)
}
