package fetch

import (
	"time"

	"boxd/internal/asset"
	"boxd/internal/lan"
)

const (
	courierWatch = 15 * time.Second // a courier that has just begun says little about when it will be ready
	courierStuck = 45 * time.Second // without progress; longer than the household takes to vote such a courier down
)

// courierSeen is what this box has seen of the box that carries an asset for the home.
type courierSeen struct {
	box   string
	since time.Time
	mark  int64 // its progress
	moved time.Time
}

// look takes what the courier announces.
func (c *courierSeen) look(box string, w lan.Want, mono time.Time) {
	mark := w.WANBytes + int64(w.Have)
	if c.box != box {
		*c = courierSeen{box: box, since: mono, mark: mark, moved: mono}
	} else if mark != c.mark {
		c.mark, c.moved = mark, mono
	}
}

func (c *courierSeen) stuck(mono time.Time) bool { return mono.Sub(c.moved) >= courierStuck }

// eta is when the courier will have the asset at the rate that it announces; zero when that cannot be told.
func (c *courierSeen) eta(w lan.Want, info *asset.Info, now, mono time.Time) time.Time {
	if w.WANRate <= 0 || mono.Sub(c.since) < courierWatch {
		return time.Time{}
	}
	left := min(int64(max(info.NumPieces()-w.Have, 0))*info.PieceLength, info.Length)
	seconds := min(float64(left)/float64(w.WANRate), 1e9)
	return now.Add(time.Duration(seconds * float64(time.Second)))
}

// watchCourier tells a follower when the courier will be ready, and whether it moves at all. Only one of the followers
// is told, so that no more than one more copy crosses the access line when the courier is too late.
func (f *Fetcher) watchCourier(it *item, now, mono time.Time) (eta time.Time, stuck bool) {
	var courier *lan.Want
	first := true
	for _, n := range f.o.LAN.Neighbours() {
		for i := range n.Wants {
			w := &n.Wants[i]
			switch {
			case w.ID != it.id:
			case n.ID == it.courier:
				courier = w
			case n.WAN && !w.NoWAN && n.ID < f.o.Identity.BoxID():
				first = false
			}
		}
	}
	if courier == nil {
		it.seen = courierSeen{}
		return time.Time{}, false
	}
	it.seen.look(it.courier, *courier, mono)
	if !first {
		return time.Time{}, false
	}
	return it.seen.eta(*courier, it.info, now, mono), it.seen.stuck(mono)
}

func (f *Fetcher) isNeighbour(box string) bool {
	for _, n := range f.o.LAN.Neighbours() {
		if n.ID == box {
			return true
		}
	}
	return false
}

// othersWAN is what the other boxes of the home get over the access line now, in bytes per second. They say it once a
// second, and at once when one has ended. Any goroutine may call it.
func (f *Fetcher) othersWAN() (sum int64) {
	if f.o.LAN == nil {
		return 0
	}
	for _, n := range f.o.LAN.Neighbours() {
		for _, w := range n.Wants {
			if w.Acting {
				sum += w.WANRate
			}
		}
	}
	return sum
}
