package fetch

import (
	"hash/fnv"
	"time"

	"boxd/internal/fetch/engine"
)

// Followers of one courier all want each piece the moment it has come, and would all take it from the courier. So each
// piece has one follower that takes it at once; the others wait until it is in the home twice, and then find it at
// either. Nobody waits for long: what is at one box only for meshWait is taken by all.
const (
	meshWait = 700 * time.Millisecond
	meshTail = 8 // the last pieces are taken by all at once
)

// mesh knows since when pieces have been in the home. One asset has one.
type mesh struct {
	seen []time.Time // by piece; zero: not seen, or seen when the box came
	met  bool        // somebody who has pieces was seen
}

// look takes how many boxes of the home have each piece.
func (m *mesh) look(near []int, now time.Time) {
	if m.seen == nil {
		m.seen = make([]time.Time, len(near))
	}
	for i, n := range near {
		switch {
		case n > 0 && m.seen[i].IsZero() && m.met:
			m.seen[i] = now
		case n > 0 && m.seen[i].IsZero():
			m.seen[i] = now.Add(-meshWait) // it was there before this box: nobody is about to take it
		case n == 0:
			m.seen[i] = time.Time{}
		}
	}
	for _, n := range near {
		m.met = m.met || n > 0
	}
}

// waits says that a piece which somebody else takes first is left to that box for now.
func (m *mesh) waits(piece, near int, now time.Time) bool {
	return near == 0 || near == 1 && now.Sub(m.seen[piece]) < meshWait
}

// spread says which pieces this box leaves to other followers for now; nil: none.
func (f *Fetcher) spread(it *item, now time.Time) func(piece int) bool {
	if f.o.LAN == nil || it.carries || it.courier == "" || it.playing() || it.want.Danger || it.wanOn ||
		it.info.NumPieces()-it.store.HaveCount() <= meshTail {
		return nil
	}
	boxes := f.followers(it)
	near := f.swarm.Availability(it.id, engine.LAN)
	if len(boxes) == 0 || len(near) != it.info.NumPieces() {
		return nil
	}
	it.mesh.look(near, now)
	if !it.mesh.met {
		return nil
	}
	self := boxHash(f.o.Identity.BoxID())
	return func(i int) bool {
		return it.mesh.waits(i, near[i], now) && !takes(i, self, boxes)
	}
}

// followers are the other boxes of the home that wait for the courier, too, by hash.
func (f *Fetcher) followers(it *item) (boxes []uint64) {
	for _, n := range f.o.LAN.Neighbours() {
		if n.ID == it.courier {
			continue
		}
		for _, w := range n.Wants {
			if w.ID == it.id {
				boxes = append(boxes, boxHash(n.ID))
				break
			}
		}
	}
	return boxes
}

// takes says that of all followers this one takes the piece first: all of them come to the same.
func takes(piece int, self uint64, others []uint64) bool {
	own := place(piece, self)
	for _, o := range others {
		if place(piece, o) > own {
			return false
		}
	}
	return true
}

func boxHash(box string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(box)) // never fails
	return h.Sum64()
}

// place is the rendezvous weight of a box for a piece (splitmix64's mixer).
func place(piece int, box uint64) uint64 {
	x := box + uint64(piece)*0x9e3779b97f4a7c15 //nolint:gosec // pieces are not negative
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
