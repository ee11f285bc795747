package cache

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
	"weak"

	"boxd/internal/asset"
	"boxd/internal/durable"
)

// entry is one asset in the cache. What is above mu never changes.
type entry struct {
	c          *Cache
	id         asset.ID
	length     int64
	pieceLen   int64
	n          int // pieces
	torrentLen int64
	releaseFn  func() // e.release, made once

	mu       sync.Mutex // guards the fields below
	idle     *sync.Cond // on mu: a piece has no writer or hasher any more, or a lease was given back
	changed  chan struct{}
	gone     bool
	leaving  bool // the OnEvict callbacks are told: no new handle is given until it is decided
	gen      uint32
	alloc    int64
	sparse   bool
	have     bitset          // verified: may be served
	durable  bitset          // what the index says, or will say again after a crash
	stale    bool            // durable has pieces that have has lost: see forget
	pending  map[int]uint64  // in have, not in durable; a number that tells this verification from another
	progress map[int]*piece  // being written
	unknown  bitset          // may be right, to be hashed: only after the index was lost
	accepts  uint64          // the last such number
	lostSeq  uint64          // counts losses, so that a read finds out that a piece was lost under it
	leases   map[*lease]bool // spans that the kernel is sending
	readers  map[*Reader]bool
	pace     readPace
	after    []following
	order    map[[2]string][]int32 // files by folder and kind, as people count; made when it is needed
	holds    int
	attr     Attr
	created  time.Time
	lastUse  time.Time
	scrubbed time.Time
	checked  int64 // read back by the Verify that is running
	file     durable.File
	fileRefs int
	handle   weak.Pointer[Asset]
	damaged  bool         // its metainfo is: nobody can be given it until it is written again
	broken   map[int]bool // pieces that were lost to a read error and are not back
	unread   time.Time    // its metainfo could not be read then
}

func (c *Cache) newEntry(id asset.ID, r *row) *entry {
	e := &entry{
		c: c, id: id, length: r.length, pieceLen: r.pieceLen, n: pieces(r.length, r.pieceLen), torrentLen: r.torrentLen,
		gen: r.gen, alloc: r.alloc, sparse: r.sparse, have: r.have, durable: r.have.clone(),
		attr: r.attr, created: r.created, lastUse: r.lastUse, scrubbed: r.scrubbed,
	}
	e.unknown = newBits(e.n)
	e.idle = sync.NewCond(&e.mu)
	e.releaseFn = e.release
	return e
}

func (e *entry) span(i int) (off, length int64) {
	off = int64(i) * e.pieceLen
	return off, min(e.pieceLen, e.length-off)
}

// allocPieces is how many pieces from the front have space. mu must be held, or the entry not shared yet.
func (e *entry) allocPieces() int { return pieces(e.alloc, e.pieceLen) }

// cost is what the entry counts for in Usage.Used. mu must be held, or the entry not shared yet.
func (e *entry) cost() int64 { return e.alloc + e.torrentLen }

// taken is how much of the disk the entry has, as far as is known. mu must be held.
func (e *entry) taken() int64 {
	if e.sparse {
		return e.bytesOf(&e.have) + e.torrentLen
	}
	return e.cost()
}

// bytesOf is the length of the pieces of a set. mu must be held.
func (e *entry) bytesOf(b *bitset) int64 {
	total := int64(b.ones) * e.pieceLen
	if b.get(e.n - 1) {
		_, last := e.span(e.n - 1)
		total -= e.pieceLen - last
	}
	return total
}

// status must be called with mu held.
func (e *entry) status() Status {
	return Status{
		ID: e.id, Attr: e.attr, Length: e.length, Reserved: e.alloc, Bytes: e.bytesOf(&e.have), Pieces: e.n,
		Have: e.have.ones, PieceLength: e.pieceLen, Complete: e.have.full() && !e.damaged,
		Durable: len(e.pending) == 0 && !e.stale,
		Pinned:  e.c.pinned(e.id), Readers: len(e.readers), Held: e.holds > 0, Unknown: e.unknown.ones,
		Created: e.created, LastUse: e.lastUse, Scrubbed: e.scrubbed, Checked: e.checked,
	}
}

// row must be called with mu held; have is what the row is to say is verified.
func (e *entry) row(have bitset) *row {
	return &row{
		gen: e.gen, length: e.length, pieceLen: e.pieceLen, alloc: e.alloc, torrentLen: e.torrentLen, sparse: e.sparse,
		created: e.created, lastUse: e.lastUse, scrubbed: e.scrubbed, attr: e.attr, have: have,
	}
}

// notify must be called with mu held.
func (e *entry) notify() {
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// wait returns the channel that the next notify closes. mu must be held.
func (e *entry) wait() <-chan struct{} {
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	return e.changed
}

// acquire gives the open blob; release must be called. mu must not be held. On a file system that is read-only, what is
// there can still be read: the file is then opened for this once, and is tried anew for the next.
func (e *entry) acquire(write bool) (f durable.File, release func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil, nil, ErrGone
	}
	if e.file == nil {
		f, err := e.open(e.c.fs.OpenRW)
		if errors.Is(err, syscall.EROFS) && !write {
			f, err = e.open(e.c.fs.Open)
			return f, func() { _ = f.Close() }, err // opened for reading: nothing to lose
		}
		if err != nil {
			return nil, nil, err
		}
		e.file = f
		e.c.countOpen(1)
	}
	e.fileRefs++
	return e.file, e.releaseFn, nil
}

// open opens the blob and takes note when it is shorter than it was made. mu must be held.
func (e *entry) open(open func(string) (durable.File, error)) (durable.File, error) {
	f, err := open(e.c.blobPath(e.id, e.gen))
	if err != nil {
		return nil, fmt.Errorf("open blob of %s: %w", e.id.Short(), err)
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close() // the first error says more
		return nil, fmt.Errorf("open blob of %s: %w", e.id.Short(), err)
	}
	if fi.Size() < e.alloc {
		e.shorter(fi.Size())
	}
	return f, nil
}

// shorter takes note that the blob has lost its end. mu must be held, or the entry not shared yet.
func (e *entry) shorter(size int64) {
	e.c.o.Log.Error("blob is too short", "asset", e.id, "bytes", size, "want", e.alloc)
	for i := int(size / e.pieceLen); i < e.n; i++ {
		e.lose(i)
		e.unknown.clear(i)
	}
	e.sparse = true // what is missing is not reserved
}

// release gives the file back; it is closed when nobody needs it and too many are open. mu must not be held.
func (e *entry) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fileRefs--
	if e.fileRefs > 0 || e.file == nil {
		return
	}
	// Pending pieces keep the file: an error of the disk is told to descriptors that were open when it happened.
	if e.gone || len(e.pending) == 0 && len(e.progress) == 0 && e.c.countOpen(0) > e.c.o.MaxOpenFiles {
		_ = e.closeFile() // nothing unsynced is in it
	}
}

// closeFile must be called with mu held.
func (e *entry) closeFile() error {
	if e.file == nil {
		return nil
	}
	f := e.file
	e.file = nil
	e.c.countOpen(-1)
	return f.Close()
}

// close is for Cache.Close.
func (e *entry) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	e.notify()
	e.idle.Broadcast()
	return e.closeFile()
}

func (c *Cache) countOpen(d int) int {
	n := c.stats.openFiles.Add(int64(d))
	return int(n)
}

// lose takes a piece out of what may be served. mu must be held.
func (e *entry) lose(i int) bool {
	if !e.have.clear(i) {
		return false
	}
	if _, ok := e.pending[i]; ok {
		delete(e.pending, i)
		_, n := e.span(i)
		e.c.addPending(-n)
	}
	if e.durable.get(i) {
		e.stale = true
	}
	e.lostSeq++
	e.c.stats.lost.Add(1)
	e.notify()
	return true
}

// mark says that the row of an entry differs from the index. No entry.mu may be held.
func (c *Cache) mark(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.dirty[e] = struct{}{}
	}
}

// addPending counts bytes that are verified and not durable. entry.mu may be held.
func (c *Cache) addPending(n int64) {
	total := c.stats.pending.Add(n)
	if n > 0 {
		c.poke(c.arm)
		if total >= c.o.GroupBytes/2 {
			c.poke(c.kick)
		}
	}
}

func (c *Cache) poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (c *Cache) pinned(id asset.ID) bool {
	_, ok := c.pins.Load(id)
	return ok
}
