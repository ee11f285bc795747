package fetch

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"syscall"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/engine"
	"boxd/internal/health"
	"boxd/internal/lan"
	"boxd/internal/schedule"
)

const (
	defaultMaxLoaded = 16
	defaultRatio     = 2.0
	idleSeed         = 2 * time.Minute // a complete torrent that nobody asks for is unloaded after so long
)

// ordered lists the items, most urgent first.
func (f *Fetcher) ordered() []*item {
	list := make([]*item, 0, len(f.items))
	for _, it := range f.items {
		list = append(list, it)
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].rank != list[j].rank {
			return list[i].rank < list[j].rank
		}
		return list[i].id.String() < list[j].id.String()
	})
	return list
}

// load reserves space for what is wanted, and loads what is to move, at most MaxLoaded torrents at a time.
func (f *Fetcher) load(mono time.Time) {
	limits, _, _ := f.wishes()
	most := limits.MaxLoaded
	if most <= 0 {
		most = defaultMaxLoaded
	}
	n := 0
	for _, it := range f.ordered() {
		f.reserve(it, mono)
		if !f.shouldLoad(it, mono) || n >= most {
			f.unload(it)
			continue
		}
		if it.loaded || f.loadItem(it) {
			n++
		}
	}
}

// reserve creates a wanted asset in the cache: admission precedes download.
func (f *Fetcher) reserve(it *item, mono time.Time) {
	if it.meta == nil {
		return
	}
	attr := Attr{
		Name: it.meta.name, Version: it.meta.version, Publisher: it.meta.publisher, Priority: it.want.Priority,
		Deadline: it.want.Deadline, KeepUntil: it.want.KeepUntil, NeighbourHolds: f.neighbourHolds(it.id),
	}
	if it.store != nil && (it.store.Reserved() >= it.info.Length || !it.want.Fetch) {
		if attr != it.attr {
			if err := f.o.Cache.SetAttr(it.id, attr); err == nil {
				it.attr = attr
			}
		}
		return
	}
	rejected := it.state == Rejected && mono.Before(it.retryAt)
	if rejected || !(it.want.Fetch || it.state == Rejected) {
		return
	}
	store, err := f.o.Cache.Create(it.meta.torrent, attr)
	if err != nil {
		it.state, it.code, it.codeText = Rejected, rejectCode(err), err.Error()
		it.retryAt = mono.Add(30 * time.Second)
		f.log.Info("an asset was refused by the cache", "asset", it.id.Short(), "err", err)
		return
	}
	if it.state == Rejected {
		it.state, it.code, it.codeText = Accepted, "", ""
	}
	it.attr = attr
	f.adopt(it, store)
	f.wake()
}

func (f *Fetcher) neighbourHolds(id asset.ID) bool {
	if f.o.LAN == nil {
		return false
	}
	for _, n := range f.o.LAN.Neighbours() {
		for _, h := range n.Holds {
			if h == id {
				return true
			}
		}
	}
	return false
}

// failed is called by the engine when a store refused to write or to mark a piece.
func (f *Fetcher) failed(id asset.ID, err error) {
	go f.do(context.Background(), func(mono time.Time) { f.fail(id, err, mono) })
}

func (f *Fetcher) fail(id asset.ID, err error, mono time.Time) {
	it, ok := f.items[id]
	if !ok {
		return
	}
	f.unload(it)
	it.failures++
	wait := min(2*time.Second<<min(it.failures, 9), 10*time.Minute)
	it.state, it.code, it.codeText, it.retryAt = Failed, failCode(err), err.Error(), mono.Add(wait)
	f.log.Warn("an asset's store failed", "asset", id.Short(), "err", err, "retry_in", wait)
	f.o.Health.Raise(health.Warning{
		Code: "fetch-store", Severity: health.Warn,
		Text:   fmt.Sprintf("Fetched bytes could not be kept on the disk (%s).", it.code),
		Action: "Look at the disk: boxd doctor.",
	})
}

// failCode names what a disk says in a word that operators can count.
func failCode(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "disk-full"
	case errors.Is(err, syscall.EROFS):
		return "disk-read-only"
	case errors.Is(err, syscall.EIO):
		return "disk-error"
	}
	return "store"
}

func rejectCode(err error) string {
	if c := failCode(err); c != "store" {
		return c
	}
	return "no-space"
}

// policyOf says which links a torrent may use now.
func (f *Fetcher) policyOf(it *item) engine.Policy {
	limits, paused, _ := f.wishes()
	ratio := limits.UploadRatio
	if ratio <= 0 {
		ratio = defaultRatio
	}
	up := !limits.UploadOff && !limits.WANUp.Stopped() && !paused &&
		float64(it.sent().Peer) < ratio*float64(it.info.Length)
	return engine.Policy{Complete: it.complete(), WANDown: it.wanOn, WANUp: up}
}

// tellLAN tells the household what this box wants, holds and is asked for by its players.
func (f *Fetcher) tellLAN() {
	if f.o.LAN == nil {
		return
	}
	self := lan.Self{WAN: f.reach.ok(time.Now()), WANRate: int64(f.measured.best)}
	if f.o.Class != nil {
		self.Class = f.o.Class()
	}
	self.WANGot = f.totals.Bytes.WAN()
	for _, b := range f.boxStatus() {
		if b.LAN && b.Box != "" {
			self.Got = append(self.Got, lan.Got{Box: b.Box, Bytes: b.In})
		}
	}
	home := map[string]bool{}
	for _, n := range f.o.LAN.Neighbours() {
		home[n.ID] = true
	}
	f.closeGone(home)
	f.home.Store(&home)
	for _, it := range f.ordered() {
		if it.complete() {
			self.Holds = append(self.Holds, it.id)
			continue
		}
		if it.store == nil || !it.want.Fetch {
			continue
		}
		self.Wants = append(self.Wants, lan.Want{
			ID: it.id, InFlight: it.store.HaveCount() > 0, Have: it.store.HaveCount(), NoWAN: !it.alone.WAN,
			WANBytes: it.bytes().WAN(), WANRate: it.rates.smooth.WAN(), Paced: f.paced(it), Stalled: f.stalled(it),
		})
		for _, d := range it.demand {
			self.Demand = append(self.Demand, lan.Demand{ID: it.id, First: d.First, Last: d.End - 1})
		}
	}
	f.o.LAN.SetSelf(self)
}

// closeGone ends the connections to boxes that were neighbours and are no more.
func (f *Fetcher) closeGone(home map[string]bool) {
	swarm, ok := f.swarm.(interface{ CloseBox(box string) }) // the scripted one has no connections
	old := f.home.Load()
	if !ok || old == nil {
		return
	}
	for box := range *old {
		if !home[box] {
			swarm.CloseBox(box)
		}
	}
}

// stalled says that the WAN was asked and gives this box nothing, so that another should try.
func (f *Fetcher) stalled(it *item) bool {
	return it.carries && it.wanOn && it.want.Origin != schedule.OriginOff && it.srcErr != nil &&
		it.rates.smooth.WAN() == 0 && time.Since(it.wanSince) > 20*time.Second
}

// paced says that this box could take the asset faster over its way to the WAN: a limit, a player here or what peers have
// to give holds it back.
func (f *Fetcher) paced(it *item) bool {
	limits, _, playback := f.wishes()
	return it.want.Rate.Set || limits.WANDown.Set || playback || len(it.runs) == 0
}

// applyRates sets the buckets of the access line, from the limits, from what keeps its queue empty, and from what players
// on this box leave. Any goroutine may call it.
func (f *Fetcher) applyRates() {
	limits, _, playback := f.wishes()
	down, up := f.yield.rates()
	if playback {
		line := f.lineRate.Load()
		up = min(up, max(line/20, playbackFloor))
		if !f.watching.Load() { // what is watched must arrive
			down = min(down, max(line/4, playbackFloor))
		}
	}
	if limits.WANDown.Set {
		down = min(down, limits.WANDown.Value)
	}
	if limits.WANUp.Set {
		up = min(up, limits.WANUp.Value)
	}
	f.swarm.Down().SetRate(down)
	f.swarm.Up().SetRate(up)
}

// playbackFloor is what fetching keeps, in bytes per second, while a player plays something else on this box.
const playbackFloor = 128 << 10

// finish drops everything and saves the counters.
func (f *Fetcher) finish() {
	now, _ := f.o.Identity.Now()
	for _, it := range f.items {
		f.unload(it)
	}
	f.count(now)
	f.totals.dirty = true
	f.save(now, true)
	f.publish(now)
}
