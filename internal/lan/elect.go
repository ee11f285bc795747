package lan

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"boxd/internal/asset"
)

// bid is one box's claim to be the courier of one asset, as it announced it.
type bid struct {
	box    string
	hash   uint64 // boxHash(box)
	class  int
	acting bool // it already is, and something has moved
	yields bool // it cannot, says it or a neighbour: only when nobody else can either
}

// elect returns the courier among the bids, "" without bids. The order is total and depends on nothing but the bids,
// so boxes that know the same agree. Within the best class the box that already moves stays, as a change costs the
// requests under way; before the first byte the hash decides, so that not the first box to wake carries everything.
// Two that move (a split has healed) are told apart by the hash.
func elect(id asset.ID, bids []bid) string {
	if len(bids) == 0 {
		return ""
	}
	best := slices.MinFunc(bids, func(a, b bid) int {
		return cmp.Or(
			compareBool(a.yields, b.yields),
			cmp.Compare(a.class, b.class),
			compareBool(b.acting, a.acting),
			cmp.Compare(score(id, b.hash), score(id, a.hash)),
			cmp.Compare(a.box, b.box))
	})
	return best.box
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// score is the rendezvous weight of a box for an asset. The asset's id and the box's hash are both uniform already,
// so a strong mixer (splitmix64's) is enough.
func score(id asset.ID, box uint64) uint64 {
	x := binary.BigEndian.Uint64(id[:8]) ^ box
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func boxHash(box string) uint64 {
	sum := sha256.Sum256([]byte(box))
	return binary.BigEndian.Uint64(sum[:8])
}

type veto struct {
	id  asset.ID
	box string
}

// progress is how far a courier was, or this box with holders, and since when.
type progress struct {
	box   string
	mark  int64
	since time.Time
}

// courier elects; the caller holds the mutex.
func (l *LAN) courier(id asset.ID) string {
	if len(l.holders(id)) > 0 {
		return ""
	}
	won := elect(id, l.bids(id))
	if won != l.id {
		return won
	}
	now := l.opt.now()
	if !l.acting[id] && (now.Before(l.settled) || now.Before(l.heard[id]) && !l.allBid(id)) ||
		!l.ticked.IsZero() && slept(l.ticked, now) {
		return ""
	}
	return won
}

// allBid says that every neighbour has told that it would carry the asset: there is nobody left to be heard.
func (l *LAN) allBid(id asset.ID) bool {
	for _, k := range l.links {
		if w, ok := k.wants[id]; !ok || w.NoWAN {
			return false
		}
	}
	return true
}

// holders lists the neighbours that hold the asset whole and are not voted down, in order.
func (l *LAN) holders(id asset.ID) (boxes []string) {
	for box, k := range l.links {
		if k.holds[id] && !l.vetoed(id, box) {
			boxes = append(boxes, box)
		}
	}
	slices.Sort(boxes)
	return boxes
}

// bids collects who may be the courier of an asset.
func (l *LAN) bids(id asset.ID) []bid {
	var bids []bid
	if w, ok := l.want(id); ok && l.id != "" && l.self.WAN && !w.NoWAN {
		bids = append(bids, bid{
			box: l.id, hash: boxHash(l.id), class: l.class(id), acting: l.acting[id] && (w.Have > 0 || w.WANBytes > 0),
			yields: l.yielded[id] || l.vetoed(id, l.id),
		})
	}
	for box, k := range l.links {
		w, ok := k.wants[id]
		if !ok || !k.state.WAN || w.NoWAN {
			continue
		}
		bids = append(bids, bid{
			box: box, hash: k.hash, class: w.Class, acting: w.Acting && w.moved(),
			yields: w.Yields || l.vetoed(id, box),
		})
	}
	return bids
}

func (l *LAN) want(id asset.ID) (Want, bool) {
	for _, w := range l.self.Wants {
		if w.ID == id {
			return w, true
		}
	}
	return Want{}, false
}

// class is what this box announces for an asset: as it was when the asset's flight began.
func (l *LAN) class(id asset.ID) int {
	if c, ok := l.frozen[id]; ok {
		return c
	}
	return l.ownClass()
}

// ownClass is how good a courier this box would be: its own opinion, and worse by one without a cable, and by one when it
// was switched on lately, as who comes often goes, too.
func (l *LAN) ownClass() int {
	c := l.self.Class
	if l.radio {
		c++
	}
	if l.started.IsZero() || l.opt.now().Sub(l.started) < longPowered {
		c++
	}
	return min(c, worstClass)
}

// vetoed reports whether this box or a live neighbour voted against a courier.
func (l *LAN) vetoed(id asset.ID, box string) bool {
	if end, ok := l.vetoes[veto{id, box}]; ok && l.opt.now().Before(end) {
		return true
	}
	for _, k := range l.links {
		if k.vetoes[veto{id, box}] {
			return true
		}
	}
	return false
}

// forgetWants drops what is kept about assets that this box no longer wants, and freezes the class of new flights.
func (l *LAN) forgetWants() {
	wanted := make(map[asset.ID]bool, len(l.self.Wants))
	for _, w := range l.self.Wants {
		wanted[w.ID] = true
		if _, old := l.heard[w.ID]; !old {
			l.listen(w.ID)
		}
		if _, flying := l.frozen[w.ID]; w.InFlight && !flying {
			l.frozen[w.ID] = l.ownClass()
		} else if !w.InFlight {
			delete(l.frozen, w.ID)
		}
		if w.Stalled {
			l.yielded[w.ID] = true
		}
	}
	forget(l.heard, wanted)
	forget(l.frozen, wanted)
	forget(l.acting, wanted)
	forget(l.yielded, wanted)
	forget(l.slow, wanted)
	forget(l.watch, wanted)
	for v := range l.vetoes {
		if !wanted[v.id] {
			delete(l.vetoes, v)
		}
	}
}

// listen holds couriership of what is wanted anew back for a moment: all boxes hear of a campaign at about the same time, and
// each would take itself for the only one, and tell the tracker so, before it hears the others.
func (l *LAN) listen(id asset.ID) {
	l.heard[id] = time.Time{}
	if len(l.links) == 0 {
		return
	}
	l.heard[id] = l.opt.now().Add(hearTime)
	select {
	case l.anew <- struct{}{}:
	default:
	}
}

func forget[V any](m map[asset.ID]V, keep map[asset.ID]bool) {
	for id := range m {
		if !keep[id] {
			delete(m, id)
		}
	}
}
