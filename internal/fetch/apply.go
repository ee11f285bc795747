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
	"boxd/internal/fetch/pace"
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
	f.asking = 0
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
	if f.o.Taken(err) {
		return // nothing is wrong with the disk: what it has no space for is not asked for the next time
	}
	if it.store != nil {
		have := it.store.HaveCount()
		if have > it.failedHad {
			it.failures = 0 // it worked between
		}
		it.failedHad = have
	}
	it.failures++
	wait := min(2*time.Second<<min(it.failures, 9), 10*time.Minute)
	it.failedAt = mono
	it.state, it.code, it.codeText, it.retryAt = Failed, failCode(err), err.Error(), mono.Add(wait)
	f.log.Warn("an asset's store failed", "asset", id.Short(), "err", err, "retry_in", wait)
	f.o.Health.Raise(health.Warning{
		Code: "fetch-store", Severity: health.Warn,
		Text:   fmt.Sprintf("Fetched bytes could not be kept on the disk (%s).", it.code),
		Action: "Look at the disk: boxd doctor.",
	})
}

// playerRetry is how soon a store that failed is tried again while somebody waits for what it should keep.
const playerRetry = 5 * time.Second

// rests says that an asset whose store failed is left alone for now.
func (f *Fetcher) rests(it *item, mono time.Time) bool {
	if it.state != Failed || !mono.Before(it.retryAt) {
		return false
	}
	return mono.Sub(it.failedAt) < playerRetry || !it.playing() && len(f.neighbourDemand(it)) == 0
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
	up := !f.withdrawn[it.id] && !limits.UploadOff && !limits.WANUp.Stopped() && !paused &&
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
		if f.withdrawn[it.id] {
			continue
		}
		if it.complete() {
			self.Holds = append(self.Holds, it.id)
			continue
		}
		if it.store == nil || !it.want.Fetch {
			continue
		}
		self.Wants = append(self.Wants, lan.Want{
			ID: it.id, InFlight: it.store.HaveCount() > 0, Have: it.store.HaveCount(), NoWAN: !it.alone.WAN || !it.loaded,
			WANBytes: it.bytes().WAN(), WANRate: it.rates.smooth.WAN(), Paced: f.paced(it), Stalled: f.stalled(it),
		})
		for _, d := range it.demand {
			self.Demand = append(self.Demand, lan.Demand{ID: it.id, First: d.First, Last: d.End - 1, Soon: d.Soon})
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
	r := f.hold(pacing{down, up, pace.Unlimited}, playback)
	limit := func(l schedule.Limit) int64 {
		if l.Set {
			return l.Value
		}
		return pace.Unlimited
	}
	r.most(limit(limits.WANDown), limit(limits.WANUp), limit(limits.LAN))
	f.swarm.Down().SetRate(r.down)
	f.swarm.Up().SetRate(r.up)
	if b := f.lanBucket(); b != nil {
		b.SetRate(r.home)
	}
}

// lanBucket is what all bytes within the home go through; nil for the scripted swarm, which has no connections.
func (f *Fetcher) lanBucket() *pace.Bucket {
	if s, ok := f.swarm.(interface{ LAN() *pace.Bucket }); ok {
		return s.LAN()
	}
	return nil
}

// PayLAN waits until n bytes for a player, beside the swarm's, may pass within the home, or done closes.
func (f *Fetcher) PayLAN(n int, done <-chan struct{}) error {
	b := f.lanBucket()
	if b == nil {
		return nil
	}
	f.watchAfar()
	return b.Take(n, done)
}

// finish drops everything and saves the counters.
func (f *Fetcher) finish() {
	now, _ := f.o.Identity.Now()
	for _, it := range f.items {
		f.unload(it)
	}
	f.count(now)
	f.totals.dirty = true
	f.save(now, true)
	f.saveHabit(now)
	f.publish(now)
}
