package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"boxd/internal/asset"
	"boxd/internal/health"
)

// counters are read by Stats; all only grow, but pending and openFiles.
type counters struct {
	pending, openFiles, readers                    atomic.Int64
	written, verified, lost                        atomic.Int64
	hashedInline, hashedReread                     atomic.Int64
	syncs, indexCommits                            atomic.Int64
	evictions, evictedBytes, refusals              atomic.Int64
	scrubbed, rotten, readErrors, sendfile, copied atomic.Int64
	writeFailing, readFailing, indexFailing        atomic.Bool
}

// Stats is what the cache did since it was opened.
type Stats struct {
	WrittenBytes      int64 `json:"written_bytes"`       // into blobs
	VerifiedPieces    int64 `json:"verified_pieces"`     //
	LostPieces        int64 `json:"lost_pieces"`         // verified once, then taken back
	HashedInlineBytes int64 `json:"hashed_inline_bytes"` // while they arrived
	HashedRereadBytes int64 `json:"hashed_reread_bytes"` // read back for it, mostly from the page cache
	DataSyncs         int64 `json:"data_syncs"`          // fdatasync of blobs
	IndexCommits      int64 `json:"index_commits"`       // transactions, two syncs each
	Evictions         int64 `json:"evictions"`
	EvictedBytes      int64 `json:"evicted_bytes"`
	Refusals          int64 `json:"refusals"`
	ScrubbedBytes     int64 `json:"scrubbed_bytes"`
	RottenPieces      int64 `json:"rotten_pieces"`
	ReadErrors        int64 `json:"read_errors"`
	SendfileBytes     int64 `json:"sendfile_bytes"` // to players, by the kernel
	CopiedBytes       int64 `json:"copied_bytes"`   // to players and peers, through memory
}

// Stats is what the cache did since it was opened.
func (c *Cache) Stats() Stats {
	s := &c.stats
	return Stats{
		WrittenBytes: s.written.Load(), VerifiedPieces: s.verified.Load(), LostPieces: s.lost.Load(),
		HashedInlineBytes: s.hashedInline.Load(), HashedRereadBytes: s.hashedReread.Load(), DataSyncs: s.syncs.Load(),
		IndexCommits: s.indexCommits.Load(), Evictions: s.evictions.Load(), EvictedBytes: s.evictedBytes.Load(),
		Refusals: s.refusals.Load(), ScrubbedBytes: s.scrubbed.Load(), RottenPieces: s.rotten.Load(),
		ReadErrors: s.readErrors.Load(), SendfileBytes: s.sendfile.Load(), CopiedBytes: s.copied.Load(),
	}
}

const (
	retryFirst = time.Second
	retryMax   = time.Minute
)

// runCommits commits when a group is full, when the oldest piece has waited long enough, and again after a failure.
func (c *Cache) runCommits(ctx context.Context) error {
	// Not with idle priority, as runWriteback: others wait for commitMu, and for what is synced with it held.
	retry := retryFirst
	var timer <-chan time.Time
	c.setRunning(true)
	defer c.setRunning(false)
	for {
		select {
		case <-ctx.Done():
			if err := c.Flush(); err != nil {
				c.o.Log.Error("last group not committed", "err", err)
			}
			return nil
		case <-c.arm:
			if timer == nil {
				timer = time.After(c.o.GroupInterval)
			}
			continue
		case <-c.kick:
		case <-timer:
		}
		timer = nil
		if err := c.Flush(); err != nil {
			// Full jitter: several boxes on one broken hub need not try together.
			timer = time.After(time.Duration(rand.Int64N(int64(retry)) + 1)) //nolint:gosec // jitter
			retry = min(2*retry, retryMax)
		} else {
			retry = retryFirst
		}
	}
}

func (c *Cache) setRunning(v bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = v
	c.wakeFlushed()
}

// wakeFlushed must be called with mu held.
func (c *Cache) wakeFlushed() {
	close(c.flushed)
	c.flushed = make(chan struct{})
}

// throttle makes whoever verifies pieces wait for the disk when it does not keep up, so that a crash never costs more
// than a group, and what is dirty in memory stays bounded. It does not wait for an index that cannot be written.
func (c *Cache) throttle() {
	for {
		c.mu.Lock()
		ch, running := c.flushed, c.running
		c.mu.Unlock()
		if !running || c.stats.pending.Load() < c.o.GroupBytes || c.stats.indexFailing.Load() {
			return
		}
		c.poke(c.kick)
		<-ch
	}
}

// Flush makes durable what is verified: it syncs the blobs, then commits their bits. When the sync of a blob fails, all
// its pieces that were not durable yet are discarded and Flush goes on with the others. When the index cannot be
// written, the pieces stay servable and Flush can be called again.
func (c *Cache) Flush() error {
	c.commitMu.Lock()
	defer func() {
		c.commitMu.Unlock()
		c.mu.Lock()
		c.wakeFlushed()
		c.mu.Unlock()
	}()
	c.mu.Lock()
	batch := c.dirty
	c.dirty = map[*entry]struct{}{}
	c.mu.Unlock()

	type job struct {
		pieces map[int]uint64
		bits   bitset
	}
	jobs := map[*entry]job{}
	rows := map[asset.ID][]byte{}
	var failed error
	for e := range batch {
		if e.stale0() {
			if err := e.forgetLocked(nil); err != nil {
				c.indexFailed(err)
				c.mark(e)
				failed = errors.Join(failed, err)
				continue
			}
		}
		pieces, err := e.syncPending()
		if err != nil {
			c.syncFailed(e, err)
			pieces = nil
		}
		e.mu.Lock()
		if !e.gone {
			bits := e.durable.clone()
			for i, seq := range pieces {
				if e.pending[i] == seq { // not lost meanwhile, nor written again since the sync
					bits.set(i)
				}
			}
			jobs[e] = job{pieces, bits}
			rows[e.id] = e.row(bits).encode(e.id)
		}
		e.mu.Unlock()
	}
	if len(rows) == 0 {
		return failed
	}
	err := c.rows.apply(rows, nil)
	c.stats.indexCommits.Add(1)
	if err != nil {
		c.mu.Lock()
		for e := range jobs {
			c.dirty[e] = struct{}{}
		}
		c.mu.Unlock()
		c.indexFailed(err)
		return fmt.Errorf("commit %d assets: %w", len(rows), err)
	}
	if failed == nil {
		c.indexWorks()
		c.claimDir()
	}
	arrived := false
	for e, j := range jobs {
		arrived = e.committed(j.pieces, j.bits) || arrived
	}
	if arrived {
		c.mu.Lock()
		c.wake()
		c.mu.Unlock()
	}
	return failed
}

func (e *entry) stale0() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stale
}

// syncPending syncs the blob when it has pieces to make durable, and says which.
func (e *entry) syncPending() (map[int]uint64, error) {
	e.mu.Lock()
	list := maps.Clone(e.pending)
	e.mu.Unlock()
	if len(list) == 0 {
		return nil, nil
	}
	f, release, err := e.acquire(true)
	if err != nil {
		return nil, err
	}
	defer release()
	e.c.stats.syncs.Add(1)
	return list, f.Sync()
}

// syncFailed discards every piece of an asset that no sync has secured: the kernel may have dropped their pages while
// they still read well. Pieces under way are written again before they are judged.
func (c *Cache) syncFailed(e *entry, err error) {
	e.mu.Lock()
	n := len(e.pending)
	for i := range e.pending {
		e.lose(i)
	}
	for _, pc := range e.progress {
		pc.tainted = true
	}
	e.mu.Unlock()
	c.o.Log.Error("sync failed, unsynced pieces discarded", "asset", e.id, "pieces", n, "err", err)
	c.o.Health.Raise(health.Warning{
		Code: CodeSync, Severity: health.Critical,
		Text:   "The cache could not secure data on its disk (" + cause(err) + "); it is fetched again.",
		Action: "Check the storage: it is full, read-only or failing.",
	})
	c.mu.Lock()
	c.wake()
	c.mu.Unlock()
}

// committed takes note that the index says bits, and says whether that was the last that the asset lacked. commitMu is held.
func (e *entry) committed(done map[int]uint64, bits bitset) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.durable = bits
	for i, seq := range done {
		if e.pending[i] == seq {
			delete(e.pending, i)
			_, n := e.span(i)
			e.c.addPending(-n)
		} else if bits.get(i) {
			e.stale = true // lost between the sync and the commit
		}
	}
	if len(done) == 0 {
		return false
	}
	e.c.o.Health.Clear(CodeSync)
	e.notify()
	return len(e.pending) == 0 && e.have.full()
}

func (c *Cache) indexFailed(err error) {
	c.stats.indexFailing.Store(true)
	c.o.Log.Error("index not written", "err", err)
	c.o.Health.Raise(health.Warning{
		Code: CodeIndex, Severity: health.Critical,
		Text: "The index of the cache cannot be written (" + cause(err) +
			"): what arrives now will be checked again after a restart.",
		Action: "Check the storage of the state directory: it is full, read-only or failing.",
	})
}

func (c *Cache) indexWorks() {
	if c.stats.indexFailing.CompareAndSwap(true, false) {
		c.o.Health.Clear(CodeIndex)
	}
}
