package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"
	"time"

	"boxd/internal/asset"
	"boxd/internal/health"
)

// metaSlack is kept beside every reservation for what the file system and the index need themselves.
const metaSlack = 256 << 10

// refusalFades is how long a refusal is worth a warning when nobody asks again.
const refusalFades = 15 * time.Minute

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
	return target == ErrNoSpace || e.never && target == ErrNeverFits
}

// What was freed may show in the free space only later: XFS, btrfs and UBIFS give blocks back in the background, and a file
// that somebody has open stays until it is closed.
const (
	freeShows  = 10 * time.Second      // then what has not come free will not
	roomWait   = 2 * time.Second       // so long assets wait for what was evicted for them, all together
	roomLook   = 50 * time.Millisecond // and looks so often
	mostFaults = 3                     // evictions that a disk may fail before no more are tried
)

// owed is what was freed and does not show in the free space yet. Cache.space guards it.
type owed struct {
	seen   int64 // free space at the last look
	debts  []debt
	waited time.Duration // for these debts: who asks waits for each asset of many, one after the other
}

type debt struct {
	bytes int64
	until time.Time
}

// freeing is called before bytes are freed, and what it returns afterwards: what does not show then is owed.
func (c *Cache) freeing(bytes int64) (freed func()) {
	before, _, err := c.fs.Free(c.o.Dir)
	return func() {
		after, _, aerr := c.fs.Free(c.o.Dir)
		if err != nil || aerr != nil {
			return
		}
		if hidden := bytes - max(after-before, 0); hidden > 0 {
			c.owed.debts = append(c.owed.debts, debt{hidden, time.Now().Add(freeShows)})
		}
		c.owed.seen = after
	}
}

// look takes note of the free space, and returns what is still to come.
func (o *owed) look(free int64) (sum int64) {
	gained, now := free-o.seen, time.Now()
	o.seen = free
	keep := o.debts[:0]
	for _, d := range o.debts {
		paid := min(max(gained, 0), d.bytes)
		gained -= paid
		if d.bytes -= paid; d.bytes > 0 && now.Before(d.until) {
			keep = append(keep, d)
			sum += d.bytes
		}
	}
	o.debts = keep
	return sum
}

// makeRoom evicts until need more bytes fit under the quota and above the reserve. space must be held. whole is what
// the asset would need altogether, to tell what can never fit.
func (c *Cache) makeRoom(need, whole int64, in *Incoming) error {
	if c.o.Quota > 0 && whole > c.o.Quota && need > c.o.Quota {
		return c.refuse(&SpaceError{in.ID, need, need - c.o.Quota, "larger than the whole quota", true})
	}
	tried := map[asset.ID]bool{}
	for first := true; ; first = false {
		short, evict, err := c.shortOf(need)
		if err != nil {
			return fmt.Errorf("free space of %s: %w", c.o.Dir, err)
		}
		if first && len(c.owed.debts) == 0 {
			c.owed.waited = 0 // not later: on a disk that others fill as fast, one asset would wait without end
		}
		if short <= 0 {
			return nil
		}
		if evict <= 0 {
			if c.owed.waited >= roomWait {
				return c.refuse(&SpaceError{ID: in.ID, Need: need, Short: short, Reason: "what was evicted is not free yet"})
			}
			time.Sleep(roomLook)
			c.owed.waited += roomLook
			continue
		}
		plan := c.plan(evict, in, tried)
		if !plan.Enough {
			return c.refuse(&SpaceError{ID: in.ID, Need: need, Short: evict - plan.Frees, Reason: sparedText(plan.Spared)})
		}
		if err := c.evictAll(plan.Steps, tried); err != nil {
			return fmt.Errorf("make room for %s: %w", in.ID.Short(), err)
		}
	}
}

// evictAll does the steps and adds those that failed to tried. An error says that the disk lets nothing go: no more should be
// tried now. space must be held.
func (c *Cache) evictAll(steps []Step, tried map[asset.ID]bool) error {
	for _, s := range steps {
		err := c.evict(s)
		if err == nil {
			c.notEvicted = ""
			continue
		}
		tried[s.ID] = true
		if what := cause(err); what != c.notEvicted { // the same again is not news
			c.notEvicted = what
			c.o.Log.Warn("not evicted", "asset", s.ID, "err", err)
		}
		if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO) && len(tried) >= mostFaults {
			return err
		}
	}
	return nil
}

// shortOf says how many bytes must come free for need more, and how many of these must be evicted, as the others are
// freed already and do not show; zero or less is none. space must be held.
func (c *Cache) shortOf(need int64) (short, evict int64, err error) {
	free, total, err := c.fs.Free(c.o.Dir)
	if err != nil {
		return 0, 0, err
	}
	reserve := c.o.Reserve
	if need == 0 && c.vain(total) {
		reserve = 0
	}
	coming := c.owed.look(free)
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
	short = plus(reserve, -free)
	if need > 0 {
		short = plus(short, plus(need, metaSlack))
	}
	evict = short - coming
	if c.o.Quota > 0 {
		over := plus(used, need) - c.o.Quota
		short, evict = max(short, over), max(evict, over)
	}
	return short, evict, nil
}

// vain reports whether the reserve can never be kept on a disk of total bytes: a slip of the pen, for which nothing is evicted.
func (c *Cache) vain(total int64) bool { return total > 0 && c.o.Reserve >= total }

// plus adds, and stays at the largest number where the sum is larger.
func plus(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
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
		Pinned: e.c.pinned(e.id), Open: len(e.readers) > 0, Damaged: e.damaged,
	}
}

func (c *Cache) refuse(err *SpaceError) error {
	c.stats.refusals.Add(1)
	c.mu.Lock()
	c.refused = time.Now()
	c.mu.Unlock()
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
	c.mu.Lock()
	old := time.Since(c.refused) > refusalFades
	c.mu.Unlock()
	if old {
		c.o.Health.Clear(CodeNoSpace)
	}
	tried := map[asset.ID]bool{}
	for {
		short, evict, err := c.shortOf(0)
		if err != nil {
			c.o.Log.Error("free space unknown", "err", err)
			return
		}
		if short <= 0 {
			if _, total, err := c.fs.Free(c.o.Dir); err == nil && c.vain(total) {
				c.reserveBroken("no disk of this size could hold it: nothing is evicted for it, and nothing taken in")
			} else {
				c.o.Health.Clear(CodeReserve)
			}
			return
		}
		if evict <= 0 || time.Now().Before(c.evictAfter) {
			return // it comes free by itself; or the disk lets nothing go now
		}
		plan := c.plan(evict, nil, tried)
		if len(plan.Steps) == 0 {
			c.reserveBroken("nothing more may be evicted")
			return
		}
		if err := c.evictAll(plan.Steps, tried); err != nil {
			c.reserveBroken("nothing can be evicted: " + cause(err))
			return
		}
	}
}

func (c *Cache) reserveBroken(why string) {
	c.o.Health.Raise(health.Warning{
		Code: CodeReserve, Severity: health.Warn,
		Text:   "The disk is fuller than the reserve allows and " + why + ".",
		Action: "Free space on the disk, or unpin something.",
	})
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
