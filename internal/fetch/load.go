package fetch

import (
	"context"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/pace"
)

func (f *Fetcher) shouldLoad(it *item, mono time.Time) bool {
	switch {
	case it.store == nil, f.withdrawn[it.id], f.rests(it, mono):
		return false
	case !it.store.Complete():
		return it.want.Fetch && it.store.Unknown() == 0
	}
	if len(it.live.Peers) > 0 {
		it.lastUse = mono
	}
	return it.loaded && mono.Sub(it.lastUse) < idleSeed // who wants it has it loaded, by naming it
}

func (f *Fetcher) loadItem(it *item) bool {
	if it.bucket == nil {
		it.bucket, it.originRate = pace.NewBucket(pace.Unlimited), pace.NewBucket(pace.Unlimited)
	}
	it.policy = f.policyOf(it)
	if err := f.swarm.Load(it.store, it.policy, it.bucket); err != nil {
		f.log.Warn("loading a torrent failed", "asset", it.id.Short(), "err", err)
		return false
	}
	if it.state == Failed {
		it.state, it.code, it.codeText = Accepted, "", ""
	}
	if !f.holds.put(it.id, it.store.Hold) {
		f.swarm.Drop(it.id)
		return false
	}
	it.loaded, it.prio, it.have = true, nil, nil
	it.lastUse = time.Now()
	ctx, cancel := context.WithCancel(f.jobs)
	it.stopWatch = cancel
	store := it.store
	f.running.Go(func() { f.watch(ctx, store) })
	return true
}

// watch wakes the owner when pieces or demand of a loaded asset change.
func (f *Fetcher) watch(ctx context.Context, a Asset) {
	for ch := a.Changed(); ; ch = a.Changed() {
		f.wake()
		select {
		case <-ctx.Done():
			return
		case <-ch:
		}
	}
}

// unload takes a torrent out of the swarm and ends what fetches it.
func (f *Fetcher) unload(it *item) {
	for r := range it.runs {
		r.cancel()
	}
	if !it.loaded {
		return
	}
	f.release(it.id)
	f.unloaded(it)
}

// unloaded notes that a torrent has left the swarm.
func (f *Fetcher) unloaded(it *item) {
	f.holds.mu.Lock()
	if st, ok := f.holds.last[it.id]; ok {
		it.live = st
		delete(f.holds.last, it.id)
	}
	f.holds.mu.Unlock()
	f.settleBoxes(it.live.Boxes)
	it.fold()
	it.loaded, it.wanOn = false, false
	it.stopWatch()
	f.saveRecord(it)
}

// holds are the loaded torrents: the cache may take one away at any moment, on a goroutine of its own.
type holds struct {
	mu    sync.Mutex // guards the fields below
	free  map[asset.ID]func()
	last  map[asset.ID]engine.Stats // what the engine had counted when it let go
	taken map[asset.ID]bool         // by the cache, and the owner does not know yet
}

// put holds a torrent's files, unless the cache is taking them away.
func (h *holds) put(id asset.ID, hold func() (release func())) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken[id] {
		return false
	}
	h.free[id] = hold()
	return true
}

// release drops a torrent from the swarm and lets go of its files. Any goroutine may call it.
func (f *Fetcher) release(id asset.ID) {
	st, ok := f.swarm.Drop(id)
	f.holds.mu.Lock()
	free := f.holds.free[id]
	delete(f.holds.free, id)
	if ok {
		f.holds.last[id] = st
	}
	f.holds.mu.Unlock()
	if free != nil {
		free()
	}
}

// evict is called by the cache before files go: the torrent leaves the swarm first. The owner of the state may be waiting
// for the cache at this moment, so it is not asked; it finds out by itself.
func (f *Fetcher) evict(id asset.ID) {
	f.holds.mu.Lock()
	f.holds.taken[id] = true
	f.holds.mu.Unlock()
	f.release(id)
	f.wake()
}

// evicted catches up with what the cache has taken away.
func (f *Fetcher) evicted() {
	f.holds.mu.Lock()
	taken := f.holds.taken
	f.holds.taken = map[asset.ID]bool{}
	f.holds.mu.Unlock()
	for id := range taken {
		if it, ok := f.items[id]; ok {
			f.left(it)
		}
	}
}

// left notes that the cache has an asset no more: it may be fetched anew.
func (f *Fetcher) left(it *item) {
	for r := range it.runs {
		r.cancel()
	}
	if it.loaded {
		f.unloaded(it)
	}
	it.store, it.src, it.have = nil, nil, nil
	it.growErr, it.growAt, it.attr = nil, time.Time{}, Attr{}
	it.rec.Completed = time.Time{}
	it.state = Accepted
}

// lazy loads a complete torrent that a dialler named.
func (f *Fetcher) lazy(ctx context.Context, id asset.ID) bool {
	var ok bool
	f.do(ctx, func(mono time.Time) {
		it, found := f.items[id]
		if !found || it.store == nil || f.withdrawn[id] {
			return
		}
		if !it.loaded && f.makeRoom() {
			it.lastUse = mono
			f.loadItem(it)
		}
		ok = it.loaded
	})
	return ok
}

// makeRoom unloads the complete torrent that was asked for least lately, if there are too many.
func (f *Fetcher) makeRoom() bool {
	limits, _, _ := f.wishes()
	most := limits.MaxLoaded
	if most <= 0 {
		most = defaultMaxLoaded
	}
	n := 0
	var oldest *item
	for _, it := range f.items {
		if !it.loaded {
			continue
		}
		n++
		if it.complete() && (oldest == nil || it.lastUse.Before(oldest.lastUse)) {
			oldest = it
		}
	}
	if n < most {
		return true
	}
	if oldest == nil {
		return false
	}
	f.unload(oldest)
	return true
}
