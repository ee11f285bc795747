package lan

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// Bounds of the table of addresses that may be neighbours.
const (
	maxCandidates   = 512
	maxPerAddress   = 8  // ports of one address
	maxPerOwn       = 64 // ports of an address of this machine: several boxes on one machine
	maxHintAddrs    = 8  // addresses that one mDNS answer may bring
	hintLife        = 3 * time.Minute
	lostLife        = 24 * time.Hour // a box that was here once is looked for so long
	lostFresh       = time.Hour      // and so long often, so that a split that heals is noticed at once
	retryFirst      = time.Second
	retryHint       = time.Minute
	retryStatic     = 15 * time.Second
	retryFresh      = 4 * time.Second
	retryLost       = 30 * time.Second
	dialsAtOnce     = 8
	retryImmediate  = 250 * time.Millisecond
	retryAtLeast    = 100 * time.Millisecond
	maxBackoffShift = 8
)

// candidate is an address where a box of this fleet may listen.
type candidate struct {
	at     netip.AddrPort
	hint   string // the box id that mDNS or the last admission gave, "" unknown
	static bool
	good   time.Time // last admitted there, zero never
	lost   time.Time // when that ended
	seen   time.Time // last hint
	next   time.Time // not to be dialled before
	fails  int
}

// candidates is the bounded table. Names mean little, as anybody can say them: what is kept is addresses and ports.
// For every address the fleet's own port has a place that no flood can take.
type candidates struct {
	ownPort uint16
	by      map[netip.AddrPort]*candidate
	per     map[netip.Addr]int
}

func newCandidates() *candidates {
	return &candidates{by: map[netip.AddrPort]*candidate{}, per: map[netip.Addr]int{}}
}

// add takes a hint. It reports false when there is no place for it.
func (c *candidates) add(at netip.AddrPort, hint string, static, own bool, now time.Time) bool {
	if k, ok := c.by[at]; ok {
		k.seen, k.static = now, k.static || static
		if k.good.IsZero() {
			k.hint = hint
		}
		return true
	}
	limit := maxPerAddress
	if own {
		limit = maxPerOwn
	}
	if c.per[at.Addr()] >= limit && !c.evict(func(k *candidate) bool { return k.at.Addr() == at.Addr() }) {
		return false
	}
	if len(c.by) >= maxCandidates && !c.evict(func(*candidate) bool { return true }) {
		return false
	}
	c.by[at] = &candidate{at: at, hint: hint, static: static, seen: now, next: now}
	c.per[at.Addr()]++
	return true
}

// evict makes room by dropping one, at random, of those that match and were never any good.
func (c *candidates) evict(match func(*candidate) bool) bool {
	for _, k := range c.by { // the order of a map is random
		if !k.static && k.good.IsZero() && k.at.Port() != c.ownPort && match(k) {
			c.drop(k)
			return true
		}
	}
	return false
}

func (c *candidates) drop(k *candidate) {
	delete(c.by, k.at)
	if c.per[k.at.Addr()]--; c.per[k.at.Addr()] == 0 {
		delete(c.per, k.at.Addr())
	}
}

// admitted notes where a box was met. What else was known of the box is of no more use.
func (c *candidates) admitted(id string, at netip.AddrPort, now time.Time) {
	c.add(at, id, false, true, now)
	k, ok := c.by[at]
	if !ok {
		return
	}
	k.hint, k.good, k.lost, k.fails, k.seen = id, now, time.Time{}, 0, now
}

// lost makes a box that went away due for a look very soon.
func (c *candidates) lost(id string, now time.Time) {
	for _, k := range c.by {
		if k.hint == id {
			k.next, k.fails = now.Add(jitter(retryImmediate)), 0
			if !k.good.IsZero() {
				k.lost = now
			}
		}
	}
}

// failed plans the next attempt, with full jitter.
func (c *candidates) failed(at netip.AddrPort, now time.Time) {
	k, ok := c.by[at]
	if !ok {
		return
	}
	limit := retryHint
	switch {
	case !k.good.IsZero() && now.Sub(k.lost) < lostFresh:
		limit = retryFresh
	case k.static:
		limit = retryStatic
	case !k.good.IsZero():
		limit = retryLost
	}
	k.fails++
	k.next = now.Add(jitter(min(retryFirst<<min(k.fails, maxBackoffShift), limit)))
}

// all makes everything due: the network has changed.
func (c *candidates) all(now time.Time) {
	for _, k := range c.by {
		k.next, k.fails = now.Add(jitter(retryImmediate)), 0
	}
}

// expire drops what has not been heard of for long.
func (c *candidates) expire(now time.Time, linked func(id string) bool) {
	for _, k := range c.by {
		switch {
		case k.static, k.hint != "" && linked(k.hint):
		case k.good.IsZero() && now.Sub(k.seen) > hintLife,
			!k.good.IsZero() && now.Sub(k.seen) > hintLife && now.Sub(k.lost) > lostLife:
			c.drop(k)
		}
	}
}

// due returns what to dial now, at most n, the most promising first, one address for each box.
func (c *candidates) due(now time.Time, n int, busy func(*candidate) bool) []*candidate {
	var list []*candidate
	for _, k := range c.by {
		if !k.next.After(now) && !busy(k) {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b *candidate) int {
		return cmp.Or(
			compareBool(a.good.IsZero(), b.good.IsZero()),
			compareBool(!a.static, !b.static),
			cmp.Compare(a.fails, b.fails),
			compareBool(!a.at.Addr().Is4(), !b.at.Addr().Is4()),
			a.next.Compare(b.next))
	})
	seen := map[string]bool{}
	list = slices.DeleteFunc(list, func(k *candidate) bool {
		twice := k.hint != "" && seen[k.hint]
		seen[k.hint] = true
		return twice
	})
	return list[:min(len(list), n)]
}

// jitter is a random time up to d, not quite zero.
func jitter(d time.Duration) time.Duration {
	return retryAtLeast + rand.N(max(d-retryAtLeast, 1))
}
