package cache

import (
	"context"
	"fmt"
	"strings"
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
