package main

import (
	"sync"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/control"
)

// recheck knows which assets are hashed again because the index was lost. Until it is known how much of them is here, the
// box does not say that it does not hold them.
type recheck struct {
	mu   sync.Mutex // guards open
	open map[asset.ID]bool
}

// newRecheck must be made before the cache begins to hash.
func newRecheck(list []cache.Status) *recheck {
	r := &recheck{open: map[asset.ID]bool{}}
	for i := range list {
		if list[i].Unknown > 0 {
			r.open[list[i].ID] = true
		}
	}
	return r
}

// done reports whether what a snapshot says is held is all that is held. list is the cache as it was found after the snapshot.
func (r *recheck) done(s *control.Snapshot, list func() []cache.Status) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) == 0 {
		return true
	}
	ready := make(map[asset.ID]bool, len(s.Assets))
	for i := range s.Assets {
		ready[s.Assets[i].ID] = s.Assets[i].State == control.Ready
	}
	left := map[asset.ID]bool{}
	for _, st := range list() {
		// A whole one is held once its bits are durable again and the snapshot says so; one with a gap is lost.
		if r.open[st.ID] && (st.Unknown > 0 || st.Complete && !ready[st.ID]) {
			left[st.ID] = true
		}
	}
	r.open = left
	return len(left) == 0
}
