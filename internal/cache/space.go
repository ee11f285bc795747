package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// metaSlack is kept beside every reservation for what the file system and the index need themselves.
const metaSlack = 256 << 10

// SpaceError says what was missing when an asset was refused. It is ErrNoSpace.
type SpaceError struct {
	ID     asset.ID
	Need   int64 // bytes
	Short  int64 // bytes that could not be made free
	Reason string
	never  bool
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("no space for %s: %d bytes wanted, %d short: %s", e.ID.Short(), e.Need, e.Short, e.Reason)
}

// Is makes the error ErrNoSpace, and ErrNeverFits when no eviction could ever help.
func (e *SpaceError) Is(target error) bool {
	return target == ErrNoSpace || e.never && target == ErrNeverFits //nolint:errorlint // this is what errors.Is asks
}

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
	if err := c.setAlloc(e, want); err != nil {
		return err
	}
	sparse, err := e.extend(want, sparse)
	if err != nil {
		c.wrote(err)
		err = fmt.Errorf("reserve %d bytes for %s: %w", want-have, e.id.Short(), err)
		if terr := e.truncate(have); terr != nil {
			return errors.Join(err, terr) // some of it may be taken: it stays counted
		}
		return errors.Join(err, c.setAlloc(e, have))
	}
	e.mu.Lock()
	e.sparse = e.sparse || sparse
	e.notify()
	e.mu.Unlock()
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

// setAlloc sets and commits what an asset has reserved.
func (c *Cache) setAlloc(e *entry, alloc int64) error {
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	e.mu.Lock()
	before := e.alloc
	e.alloc = alloc
	raw := e.row(e.durable).encode(e.id)
	e.mu.Unlock()
	err := c.rows.apply(map[asset.ID][]byte{e.id: raw}, nil)
	c.stats.indexCommits.Add(1)
	if err != nil {
		c.indexFailed(err)
		e.mu.Lock()
		e.alloc = before
		e.mu.Unlock()
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
func (c *Cache) removeFiles(e *entry) {
	err := c.tryRemoveFiles(e)
	if err == nil {
		return
	}
	c.o.Log.Warn("files of a removed asset are still there", "asset", e.id, "err", err)
	e.mu.Lock()
	cost := e.cost()
	e.mu.Unlock()
	c.mu.Lock()
	c.limbo = append(c.limbo, e)
	c.used += cost
	c.mu.Unlock()
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

// makeRoom evicts until need more bytes fit under the quota and above the reserve. space must be held. whole is what
// the asset would need altogether, to tell what can never fit.
func (c *Cache) makeRoom(need, whole int64, in *Incoming) error {
	if c.o.Quota > 0 && whole > c.o.Quota && need > c.o.Quota {
		return c.refuse(&SpaceError{in.ID, need, need - c.o.Quota, "larger than the whole quota", true})
	}
	tried := map[asset.ID]bool{}
	for {
		short, err := c.shortOf(need)
		if err != nil {
			return fmt.Errorf("free space of %s: %w", c.o.Dir, err)
		}
		if short <= 0 {
			return nil
		}
		plan := c.plan(short, in, tried)
		if !plan.Enough {
			return c.refuse(&SpaceError{ID: in.ID, Need: need, Short: short - plan.Frees, Reason: sparedText(plan.Spared)})
		}
		for _, s := range plan.Steps {
			if err := c.evict(s); err != nil {
				c.o.Log.Warn("not evicted", "asset", s.ID, "err", err)
				tried[s.ID] = true
			}
		}
	}
}

// shortOf says how many bytes must come free for need more; zero or less is none.
func (c *Cache) shortOf(need int64) (int64, error) {
	free, _, err := c.fs.Free(c.o.Dir)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	used := c.used
	list := c.sorted()
	c.mu.Unlock()
	for _, e := range list {
		e.mu.Lock()
		if e.sparse {
			free -= e.alloc - e.bytesOf(&e.have) // promised, but not taken yet
		}
		e.mu.Unlock()
	}
	short := c.o.Reserve - free
	if need > 0 {
		short += need + metaSlack
	}
	if c.o.Quota > 0 {
		short = max(short, used+need-c.o.Quota)
	}
	return short, nil
}

func (c *Cache) plan(short int64, in *Incoming, except map[asset.ID]bool) EvictionPlan {
	c.mu.Lock()
	list := c.sorted()
	c.mu.Unlock()
	cands := make([]Candidate, 0, len(list))
	for _, e := range list {
		if except[e.id] {
			continue
		}
		e.mu.Lock()
		cands = append(cands, e.candidate())
		e.mu.Unlock()
	}
	now, trusted := c.o.Now()
	return PlanEviction(now, trusted, short, in, cands)
}

// candidate must be called with mu held.
func (e *entry) candidate() Candidate {
	keep := max(e.c.o.KeepPrefix, 0)
	prefix := int64(0)
	if keep > 0 && e.alloc > 4*keep {
		prefix = wantedBytes(e.length, e.pieceLen, keep)
	}
	bytes := e.cost()
	if prefix > 0 {
		prefix += e.torrentLen
	}
	return Candidate{
		ID: e.id, Bytes: bytes, Prefix: prefix, Priority: e.attr.Priority, Deadline: e.attr.Deadline,
		KeepUntil: e.attr.KeepUntil, LastUse: e.lastUse, NeighbourHolds: e.attr.NeighbourHolds,
		Pinned: e.c.pinned(e.id), Open: len(e.readers) > 0,
	}
}

func (c *Cache) refuse(err *SpaceError) error {
	c.stats.refusals.Add(1)
	c.record(Event{ID: err.ID, What: EventRefused, Bytes: err.Need, Reason: err.Reason})
	c.o.Health.Raise(health.Warning{
		Code: CodeNoSpace, Severity: health.Warn, Text: "An asset was refused: " + err.Reason + ".",
		Action: "Raise the cache quota, unpin something, or plan less for this box.",
	})
	return err
}

func sparedText(spared []Spared) string {
	if len(spared) == 0 {
		return "the cache is empty and the disk is too full"
	}
	count := map[string]int{}
	var order []string
	for _, s := range spared {
		if count[s.Reason]++; count[s.Reason] == 1 {
			order = append(order, s.Reason)
		}
	}
	parts := make([]string, 0, 4)
	for _, r := range order[:min(len(order), 4)] {
		parts = append(parts, fmt.Sprintf("%d %s", count[r], r))
	}
	return "nothing more may be evicted (" + strings.Join(parts, ", ") + ")"
}

// runSpace keeps the reserve of free space when others fill the disk.
func (c *Cache) runSpace(ctx context.Context) error {
	tick := time.NewTicker(c.o.SpaceCheck)
	defer tick.Stop()
	for {
		c.CheckSpace()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// CheckSpace evicts what policy allows until the reserve of free space holds again, and the quota. Run calls it every
// few seconds.
func (c *Cache) CheckSpace() {
	c.space.Lock()
	defer c.space.Unlock()
	c.retryLimbo()
	tried := map[asset.ID]bool{}
	for {
		short, err := c.shortOf(0)
		if err != nil {
			c.o.Log.Error("free space unknown", "err", err)
			return
		}
		if short <= 0 {
			c.o.Health.Clear(CodeReserve)
			return
		}
		plan := c.plan(short, nil, tried)
		if len(plan.Steps) == 0 {
			c.o.Health.Raise(health.Warning{
				Code: CodeReserve, Severity: health.Warn,
				Text:   "The disk is fuller than the reserve allows and nothing more may be evicted.",
				Action: "Free space on the disk, or unpin something.",
			})
			return
		}
		for _, s := range plan.Steps {
			if err := c.evict(s); err != nil {
				c.o.Log.Warn("not evicted", "asset", s.ID, "err", err)
				tried[s.ID] = true
			}
		}
	}
}

// retryLimbo must be called with space held.
func (c *Cache) retryLimbo() {
	c.mu.Lock()
	list := c.limbo
	c.limbo = nil
	c.mu.Unlock()
	for _, e := range list {
		if err := c.tryRemoveFiles(e); err != nil {
			c.mu.Lock()
			c.limbo = append(c.limbo, e)
			c.mu.Unlock()
			continue
		}
		c.freed(e)
	}
}
