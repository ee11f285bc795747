// Package cache holds every media byte on the disk: it reserves space before a download, takes blocks, checks pieces,
// commits what was checked, serves it to the player and to peers, evicts, scrubs and rebuilds.
//
// Invariants: no byte is served whose piece was not hash-verified by this package, or by this package before a restart.
// The index never says more than the disk holds: data is synced first, then the piece bits are committed. Within one
// generation of a blob (a random number in its file name) bits only go from 0 to 1; whatever takes bytes away gives the
// blob a new generation first, so that no old or damaged index row can claim them. Used never passes the quota, and
// own reservations never cross the reserve of free space. An asset that a Reader has open is not evicted; one that is
// held is given to the OnEvict callbacks first and spared if it is still held afterwards.
//
// Locks, in the order in which they are taken: Cache.space, Cache.commitMu, Cache.mu, entry.mu. Files are read and
// written with none of the last two held.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
	"boxd/internal/state"

	"golang.org/x/sync/errgroup"
)

// What callers branch on.
var (
	ErrNoSpace     = errors.New("no space in the cache")
	ErrNeverFits   = fmt.Errorf("%w: larger than the whole quota", ErrNoSpace)
	ErrInUse       = errors.New("asset is in use")
	ErrPinned      = errors.New("asset is pinned")
	ErrNotFound    = errors.New("not in the cache")
	ErrVerified    = errors.New("piece is verified already")
	ErrNotVerified = errors.New("piece is not verified")
	ErrNotReserved = errors.New("no space is reserved for this part of the asset")
	ErrHash        = errors.New("piece does not have the hash that was published")
	ErrGone        = errors.New("asset was removed from the cache")
	ErrClosed      = errors.New("cache is closed")
)

// The health codes that this package raises.
const (
	CodeNoSpace = "cache-no-space" // an asset was refused
	CodeReserve = "cache-reserve"  // free space is below the reserve and nothing more may be evicted
	CodeWrite   = "cache-write"    // a block could not be written
	CodeSync    = "cache-sync"     // data could not be synced; unsynced pieces were discarded
	CodeIndex   = "cache-index"    // the index could not be written or opened
	CodeRead    = "cache-read"     // a read failed; the pieces are fetched again
	CodeMeta    = "cache-metainfo" // an asset's metainfo is damaged: it cannot be given to anybody
	CodeRot     = "cache-rot"      // the scrub found pieces that had changed on the disk
	CodeRebuilt = "cache-rebuilt"  // the index was lost and is being rebuilt from the files
)

// Options of Open. Dir and StateDir are required.
type Options struct {
	Dir      string       // blobs and metainfo; "<Dir>/assets" is used
	StateDir string       // index.db
	State    *state.DB    // pins and reasons of eviction; nil keeps them in memory only
	FS       durable.FS   // nil is the machine's
	Quota    int64        // bytes of all reservations together; 0 is no quota (the reserve still holds)
	Reserve  int64        // bytes of the file system that must stay free for others
	Log      *slog.Logger // nil is silent
	Health   *health.Set

	GroupBytes    int64         // a crash costs at most so much: a group is committed at half of it; default 128 MiB
	GroupInterval time.Duration // or when the oldest piece of the group has waited so long; default 10 s

	KeepPrefix int64         // bytes at the front worth keeping when a large asset must go; default 16 MiB; -1 none
	RepairWait time.Duration // how long a read waits for bytes that an I/O error took; default 30 s

	// Bytes ahead of a reader that Demand asks for at least and at most, whatever its speed; default 4 and 64 MiB.
	ReadAhead, ReadAheadMost int64

	ScrubPeriod time.Duration // everything is read and hashed again at least once in it; default 14 days; <0 never
	ScrubRate   int64         // bytes per second that the scrub may read; default 4 MiB/s
	SpaceCheck  time.Duration // how often free space is looked at; default 3 s

	MaxOpenFiles int                      // idle blobs kept open; default 32
	Now          func() (time.Time, bool) // the time and whether it is trusted; nil is the machine's, trusted

	inFlight  int64                          // tests put less than the kernel's limits here
	leaseWait time.Duration                  // and less than half a minute here
	openRows  func() (rowStore, bool, error) // tests put an index in memory here
}

func (o *Options) setDefaults() {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	dur := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	if o.FS == nil {
		o.FS = durable.OS()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = func() (time.Time, bool) { return time.Now(), true }
	}
	if o.MaxOpenFiles == 0 {
		o.MaxOpenFiles = 32
	}
	def(&o.GroupBytes, 128<<20)
	def(&o.KeepPrefix, 16<<20)
	def(&o.ReadAhead, 4<<20)
	def(&o.ReadAheadMost, 16*o.ReadAhead)
	def(&o.ScrubRate, 4<<20)
	dur(&o.GroupInterval, 10*time.Second)
	dur(&o.RepairWait, 30*time.Second)
	dur(&o.ScrubPeriod, 14*24*time.Hour)
	dur(&o.SpaceCheck, 3*time.Second)
}

// Validate joins all faults of the options.
func (o *Options) Validate() error {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("cache directory is not set"))
	}
	if o.StateDir == "" && o.openRows == nil {
		errs = append(errs, errors.New("state directory is not set"))
	}
	if o.Quota < 0 {
		errs = append(errs, fmt.Errorf("cache quota is %d bytes", o.Quota))
	}
	if o.Reserve < 0 {
		errs = append(errs, fmt.Errorf("cache reserve is %d bytes", o.Reserve))
	}
	if o.GroupBytes < 0 || o.GroupInterval < 0 {
		errs = append(errs, fmt.Errorf("group commit of %d bytes or %s", o.GroupBytes, o.GroupInterval))
	}
	if o.ScrubRate < 0 {
		errs = append(errs, fmt.Errorf("scrub rate is %d bytes/s", o.ScrubRate))
	}
	return errors.Join(errs...)
}

// Attr is what the operator wishes for an asset and what the box knows about it, as far as eviction cares.
type Attr struct {
	Name, Version, Publisher string
	Priority                 int       // higher stays longer
	Deadline                 time.Time // until then nothing that is due later may push it out; zero: none
	KeepUntil                time.Time // afterwards it goes first; zero: no promise and no expiry
	PrefixBytes              int64     // reserve and keep only so much from the front; 0 is all
	NeighbourHolds           bool      // a box in the home has it whole: cheap to have again. Not stored.
}

// Cache is an open cache. Its methods may be called from any goroutine.
type Cache struct {
	o    Options
	fs   durable.FS
	dir  string
	rows rowStore
	bufs chan []byte // bounded: who hashes or copies waits for one

	space      sync.Mutex // serialises what changes reservations: Create, Grow, eviction, removal; guards the next four
	owed       owed
	notEvicted string        // what the last eviction failed with, that the log was told
	evictAfter time.Time     // the disk fails evictions: none for others before then
	evictWait  time.Duration // and so long after the next failure

	commitMu sync.Mutex // serialises changes of the index and of blob generations; guards the next
	claim    string     // the id of our index, to be written down beside the blobs when it knows them all
	lock     *os.File   // keeps other processes out of the directory

	mu       sync.Mutex // guards the fields below
	entries  map[asset.ID]*entry
	limbo    []*entry // removed from the index, files still there because removing failed
	used     int64    // reserved bytes and metainfo of entries and limbo
	dirty    map[*entry]struct{}
	changed  chan struct{}
	waiting  chan struct{}
	onEvict  []func(asset.ID)
	events   []Event
	lastTick time.Time
	refused  time.Time // when an asset was last refused
	closed   bool
	running  bool          // runCommits is there to commit
	flushed  chan struct{} // closed when a Flush ends

	pins  sync.Map      // asset.ID of what is pinned, whether it is here or not
	arm   chan struct{} // there is something to commit
	kick  chan struct{} // a group is full
	check chan struct{} // there are pieces to re-hash, or one of them is wanted now
	soon  chan extent   // verified bytes that the kernel should begin to write
	quiet atomic.Bool   // work that nobody waits for rests
	stats counters
}

const bufSize = 128 << 10

// Open opens the cache and brings index and files into line. It reads no media: what the index does not know about a
// blob is hashed by Run.
func Open(o Options) (*Cache, error) {
	o.setDefaults()
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	c := &Cache{
		o: o, fs: o.FS, dir: filepath.Join(o.Dir, "assets"), bufs: make(chan []byte, 4), soon: make(chan extent, 64),
		entries: map[asset.ID]*entry{}, dirty: map[*entry]struct{}{}, changed: make(chan struct{}),
		flushed: make(chan struct{}), waiting: make(chan struct{}),
		arm: make(chan struct{}, 1), kick: make(chan struct{}, 1), check: make(chan struct{}, 1),
	}
	for range cap(c.bufs) {
		c.bufs <- make([]byte, bufSize)
	}
	err := c.lockDir()
	if err == nil {
		err = c.load()
	}
	if err != nil {
		c.unlockDir()
		return nil, fmt.Errorf("open cache %s: %w", o.Dir, err)
	}
	return c, nil
}

// Run commits in groups, watches the free space, re-hashes what is unknown and scrubs, until ctx ends; then it commits
// once more.
func (c *Cache) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.runCommits(ctx) })
	g.Go(func() error { return c.runSpace(ctx) })
	g.Go(func() error { return c.runChecks(ctx) })
	g.Go(func() error { return c.runWriteback(ctx) })
	g.Go(func() error { return c.runScrub(ctx) })
	return g.Wait()
}

// Close commits what is pending and closes all files. Run must have returned.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	err := c.Flush()
	c.mu.Lock()
	c.closed = true
	all := c.sorted()
	c.wake()
	c.mu.Unlock()
	for _, e := range all {
		err = errors.Join(err, e.close())
	}
	err = errors.Join(err, c.rows.close())
	c.unlockDir()
	return err
}

// Changed returns a channel that is closed at the next change of the set of assets, of a piece, or of the space.
func (c *Cache) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Waiting returns a channel that is closed when a reader comes to wait for bytes that are not here, other than those it
// waited for before.
func (c *Cache) Waiting() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

// wake must be called with mu held.
func (c *Cache) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// sorted must be called with mu held.
func (c *Cache) sorted() []*entry {
	list := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		list = append(list, e)
	}
	sort.Slice(list, func(i, j int) bool { return string(list[i].id[:]) < string(list[j].id[:]) })
	return list
}

// tick is the time for "last used": the clock, but never going back, so that a box that woke in 1970 keeps the order.
// It must be called with mu held.
func (c *Cache) tick() time.Time {
	now, _ := c.o.Now()
	now = now.Truncate(time.Second)
	if !now.After(c.lastTick) {
		now = c.lastTick
	}
	c.lastTick = now
	return now
}

// Asset returns the handle of an asset, or false when the cache does not have it or its metainfo cannot be read. While the
// OnEvict callbacks are told that it goes, it is not had.
func (c *Cache) Asset(id asset.ID) (*Asset, bool) {
	c.mu.Lock()
	e := c.entries[id]
	closed := c.closed
	c.mu.Unlock()
	if e == nil || closed || e.going() {
		return nil, false
	}
	a, err := e.asset()
	return a, err == nil
}
