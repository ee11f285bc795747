package fetch

import (
	"sort"

	"boxd/internal/fetch/engine"
)

// BoxStatus is what this box and another have given each other, in bytes of blocks: over the LAN since the state file was
// made, over the access line since this run began.
type BoxStatus struct {
	Box string // empty: boxes beyond those that are counted by name
	LAN bool
	In  int64 // from it
	Out int64 // to it
}

// Given is bytes to and from one box.
type given struct {
	In  int64 `json:"in"`
	Out int64 `json:"out"`
}

func (g given) plus(b engine.BoxBytes) given { return given{g.In + b.In, g.Out + b.Out} }

const (
	maxHome     = 64  // boxes of the household that are remembered by name
	maxWANBoxes = 256 // others that are counted by name
)

// settleBoxes takes what a torrent that leaves the swarm has exchanged into the sums.
func (f *Fetcher) settleBoxes(list []engine.BoxBytes) {
	for _, b := range list {
		if b.Class == engine.LAN {
			if f.totals.Home == nil {
				f.totals.Home = map[string]given{}
			}
			addGiven(f.totals.Home, b, maxHome)
			f.totals.dirty = true
			continue
		}
		addGiven(f.wanBoxes, b, maxWANBoxes)
	}
}

func addGiven(m map[string]given, b engine.BoxBytes, most int) {
	if _, ok := m[b.Box]; !ok && len(m) >= most {
		b.Box = ""
	}
	m[b.Box] = m[b.Box].plus(b)
}

// boxes are the sums with what the loaded torrents have exchanged so far.
func (f *Fetcher) boxes() (home, wan map[string]given) {
	home, wan = map[string]given{}, map[string]given{}
	for box, g := range f.totals.Home {
		home[box] = g
	}
	for box, g := range f.wanBoxes {
		wan[box] = g
	}
	for _, it := range f.items {
		for _, b := range it.live.Boxes {
			if b.Class == engine.LAN {
				addGiven(home, b, maxHome)
			} else {
				addGiven(wan, b, maxWANBoxes)
			}
		}
	}
	return home, wan
}

// boxStatus lists the boxes of the home, then the others, each by name.
func (f *Fetcher) boxStatus() []BoxStatus {
	home, wan := f.boxes()
	list := make([]BoxStatus, 0, len(home)+len(wan))
	for box, g := range home {
		list = append(list, BoxStatus{Box: box, LAN: true, In: g.In, Out: g.Out})
	}
	for box, g := range wan {
		list = append(list, BoxStatus{Box: box, In: g.In, Out: g.Out})
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i], list[j]
		return a.LAN && !b.LAN || a.LAN == b.LAN && a.Box < b.Box
	})
	return list
}
