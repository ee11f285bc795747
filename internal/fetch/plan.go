package fetch

import (
	"errors"
	"log/slog"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/pace"
	"boxd/internal/schedule"
)

// step looks at everything once and acts.
func (f *Fetcher) step(mono time.Time) {
	now, trusted := f.o.Identity.Now()
	f.evicted()
	f.sync()
	f.observe(mono)
	f.count(now)
	f.learnHabit(now, trusted)
	f.sched = f.input(now, mono, trusted)
	f.decide(now)
	f.load(mono)
	f.urgent = f.urgents()
	for _, it := range f.ordered() {
		f.drive(it, mono)
	}
	f.tellLAN()
	f.applyRates()
	f.save(now, false)
	f.publish(now)
}

// sync makes an item for every asset that the catalog or the cache names, and lets go of the others.
func (f *Fetcher) sync() {
	snap := f.o.Catalog.Snapshot()
	wanted := map[asset.ID]*listed{}
	box, groups := f.o.Identity.BoxID(), []string{f.o.Identity.Group()}
	for i := range snap.Campaigns {
		c := &snap.Campaigns[i]
		if !c.Includes(box, groups) {
			continue
		}
		for _, r := range c.Assets {
			if a, ok := snap.Assets[r.ID]; ok {
				wanted[r.ID] = &listed{a.Torrent, a.Name, a.Version, a.Publisher}
				f.item(r.ID, a.Info)
			}
		}
	}
	here := map[asset.ID]bool{}
	for _, id := range f.o.Cache.IDs() {
		here[id] = true
		if a, ok := f.o.Cache.Asset(id); ok {
			f.adopt(f.item(id, a.Info()), a)
		}
	}
	if snap != f.withdrawnBy {
		f.withdrawn, f.withdrawnBy = make(map[asset.ID]bool, len(snap.Withdrawn)), snap
		for _, id := range snap.Withdrawn {
			f.withdrawn[id] = true
		}
	}
	for id, it := range f.items {
		it.meta = wanted[id]
		if it.store != nil && !here[id] {
			f.release(id)
			f.left(it)
		}
		if f.withdrawn[id] {
			f.withdraw(it)
		}
		if it.store == nil && it.meta == nil {
			f.forget(it)
		}
	}
}

func (f *Fetcher) item(id asset.ID, info *asset.Info) *item {
	it, ok := f.items[id]
	if !ok {
		it = &item{id: id, info: info, state: Accepted, runs: map[*originRun]bool{}, made: time.Now()}
		f.loadRecord(it)
		if it.rec.Accepted.IsZero() {
			it.rec.Accepted, _ = f.o.Identity.Now()
		}
		f.items[id] = it
		f.adoptCounted(it)
	}
	return it
}

// adopt takes the cache's asset, watching it for as long as it is there.
func (f *Fetcher) adopt(it *item, a Asset) {
	if it.store != nil {
		return
	}
	it.store = a
}

func (f *Fetcher) forget(it *item) {
	f.unload(it)
	f.forgetCounted(it)
	delete(f.items, it.id)
	if f.o.State != nil {
		if err := f.o.State.Delete(bucketAssets, it.id[:]); err != nil {
			f.log.Warn("forgetting an asset's counters failed", "asset", it.id.Short(), "err", err)
		}
	}
}

// withdraw takes an asset that was called back out of the swarm and the cache. A pin does not keep it. While somebody still
// reads it, it stays, and nobody else is told of it or gets it.
func (f *Fetcher) withdraw(it *item) {
	it.meta = nil
	it.want = schedule.Want{ID: it.id.String(), Reason: schedule.Reason{
		Code: "withdrawn", Text: "It was withdrawn, and is erased as soon as nobody reads it.",
	}}
	it.alone = it.want
	f.unload(it)
	if it.store == nil {
		return
	}
	if f.o.Cache.Pinned(it.id) {
		if err := f.o.Cache.Pin(it.id, false); err != nil {
			return // the state file cannot be written: at the next look
		}
		f.log.Info("a withdrawn asset is pinned no more", "asset", it.id.Short())
	}
	mono := time.Now()
	if mono.Before(it.eraseAt) {
		return
	}
	if err := f.o.Cache.Remove(it.id, "withdrawn"); err != nil {
		it.eraseFailed(err, mono, f.log)
		return
	}
	it.store, it.eraseAt, it.eraseWait = nil, time.Time{}, 0
}

// eraseFailed says when the cache is asked again to remove what was withdrawn: soon when somebody reads it, else later and
// later, as each try makes the cache tell everybody of it.
func (it *item) eraseFailed(err error, mono time.Time, log *slog.Logger) {
	if it.eraseWait = min(max(2*it.eraseWait, eraseFirst), eraseMost); errors.Is(err, cache.ErrInUse) {
		it.eraseWait = eraseFirst
	} else if it.eraseWait == eraseFirst {
		log.Warn("a withdrawn asset cannot be erased", "asset", it.id.Short(), "err", err)
	}
	it.eraseAt = mono.Add(it.eraseWait)
}

// Between tries to erase what was withdrawn.
const (
	eraseFirst = 2 * time.Second
	eraseMost  = 10 * time.Minute
)

// observe reads the engine's counters and the readers' demand.
func (f *Fetcher) observe(mono time.Time) {
	var wan int64
	failed, asked, uses, watching := false, false, false, false
	for _, it := range f.items {
		failed = failed || it.state == Failed
		uses = uses || it.loaded && (len(it.runs) > 0 || it.rates.sends.Peer > 0)
		if it.loaded {
			if st, ok := f.swarm.Stats(it.id); ok {
				if st.Useful[engine.LAN] != it.live.Useful[engine.LAN] {
					it.lanProgress = mono
				}
				it.live = st
			}
		}
		it.demand = nil
		if it.store != nil && !it.store.Complete() && !f.withdrawn[it.id] {
			it.demand = it.store.Demand()
		}
		it.player.look(it.demand, it.rates.smooth.Total() < int64(f.line()/2), f.isAtHome(it, it.demand), mono)
		it.rates.update(mono, it.bytes(), it.sent())
		watching = watching || it.playing() || len(f.neighbourDemand(it)) > 0
		wan += it.rates.smooth.WAN()
		asked = asked || len(it.runs) > 0 && it.want.Origin == schedule.OriginUrgent && it.bucket.Rate() == pace.Unlimited
		f.progress(it)
	}
	if !failed {
		f.o.Health.Clear("fetch-store")
	}
	f.measured.best = max(f.measured.best, f.totals.LineRate)
	f.measured.update(mono, wan, asked && f.swarm.Down().Rate() == pace.Unlimited)
	if line := f.yield.line(); line > 0 {
		f.measured.believe(line, mono, asked)
	}
	f.totals.LineRate = f.measured.best
	f.lineRate.Store(int64(f.measured.best))
	f.usesWAN.Store(uses)
	f.watching.Store(watching)
}

// progress moves an asset through its states.
func (f *Fetcher) progress(it *item) {
	if it.store == nil {
		return
	}
	now, _ := f.o.Identity.Now()
	switch {
	case it.store.Complete():
		if it.rec.Completed.IsZero() {
			it.rec.Completed = now
			f.saveRecord(it)
		}
		it.state = Verified
		if it.store.Durable() {
			it.state = Ready
		}
		it.code, it.codeText = "", ""
	case it.state == Failed:
	case it.store.HaveCount() > 0 || it.bytes().Total() > 0:
		it.state = Fetching
		it.rec.Completed = time.Time{}
	default:
		it.state = Accepted
	}
}

// input tells the schedule what this box knows.
func (f *Fetcher) input(now, mono time.Time, trusted bool) schedule.Input {
	limits, paused, _ := f.wishes()
	snap := f.o.Catalog.Snapshot()
	in := schedule.Input{
		BoxID: f.o.Identity.BoxID(), ClockTrusted: trusted, CatalogFresh: snap.Fresh(now), Paused: paused,
		Location: f.o.Location, WANDown: limits.WANDown, Budget: limits.Budget, BudgetUsed: f.totals.MonthWAN,
		LineRate: f.measured.best, Habit: f.habit.known(), PlayOpensWAN: !limits.PlaybackOff, MaxActive: limits.MaxActive,
	}
	box, groups := f.o.Identity.BoxID(), []string{f.o.Identity.Group()}
	prefix := map[asset.ID]int64{}
	for i := range snap.Campaigns {
		c := &snap.Campaigns[i]
		if c.Paused || !c.Includes(box, groups) {
			continue
		}
		in.Campaigns = append(in.Campaigns, campaign(c))
		for _, r := range c.Assets {
			prefix[r.ID] = max(prefix[r.ID], r.PrefixBytes)
		}
	}
	for _, it := range f.items {
		if f.withdrawn[it.id] {
			continue
		}
		in.Assets = append(in.Assets, f.describe(it, prefix[it.id], now, mono))
	}
	return in
}

func (f *Fetcher) describe(it *item, prefix int64, now, mono time.Time) schedule.Asset {
	a := schedule.Asset{
		ID: it.id.String(), Length: it.info.Length, Missing: it.missing(), Playing: it.playing() || len(f.neighbourDemand(it)) > 0,
		Starved: it.player.starved(mono), Started: it.wanSince, Since: it.rec.Started, Swarm: f.swarmSize(it, mono),
		PeerRate: float64(it.rates.smooth.Peer), PeersKnown: it.ann.known,
	}
	if prefix > 0 {
		a.PrefixMissing = it.missingOf(prefix)
	}
	for _, p := range it.live.Peers {
		if p.Class == engine.WAN && p.Pieces > 0 {
			a.Peers++
		}
	}
	if it.ann.known && a.Peers == 0 {
		a.Peers = min(len(it.ann.answer.Peers), it.live.Known) // not connected yet, but there
	}
	switch {
	case it.state == Rejected:
		a.Rejected = it.codeText
	case it.growErr != nil && it.store != nil && it.missingOf(it.store.Reserved()) == 0:
		a.Rejected = it.growErr.Error() // of the rest, and all else is here: it must not keep others waiting
	}
	if f.o.LAN != nil {
		box, self := f.o.LAN.Courier(it.id)
		if self && !it.carries {
			it.heir = it.lastCourier != "" && it.lastCourier != box && !f.isNeighbour(it.lastCourier)
		}
		if box != "" {
			it.lastCourier = box
		}
		it.courier, it.carries = box, self
		a.Follower = !self
		a.CourierETA, a.CourierStuck = f.watchCourier(it, now, mono)
	} else {
		it.carries = true
	}
	return a
}

// swarmSize is how many boxes are known to fetch or hold the asset outside of the home, and this one. Those that the tracker
// counts and that cannot be reached do not help.
func (f *Fetcher) swarmSize(it *item, mono time.Time) int {
	n := 1
	for _, p := range it.live.Peers {
		if p.Class == engine.WAN {
			n++
		}
	}
	if n > 1 || it.wanOn && mono.Sub(it.wanSince) < aloneAfter && !it.heir && !f.first(it) {
		a := &it.ann.answer
		n = max(n, a.ShareOf, a.Complete+a.Incomplete)
	}
	return n
}

func campaign(c *catalog.Campaign) schedule.Campaign {
	s := schedule.Campaign{
		ID: c.ID, NotBefore: c.NotBefore, Deadline: c.Deadline, KeepUntil: c.KeepUntil, Priority: c.Priority,
		Spread: time.Duration(c.Spread), MissedStops: c.MissedStops,
		Origin: schedule.OriginPolicy{
			Never: c.Origin.Never, Delay: time.Duration(c.Origin.Delay), Floor: float64(c.Origin.FloorBytesPerSecond),
		},
	}
	for _, r := range c.Assets {
		s.Assets = append(s.Assets, schedule.Ref{ID: r.ID.String(), PrefixBytes: r.PrefixBytes})
	}
	for _, w := range c.Windows {
		from, to := w.Minutes()
		s.Windows = append(s.Windows, schedule.Window{
			Days: w.Weekdays(), From: from, To: to, Rate: limitOf(w.RateBytesPerSecond),
		})
	}
	return s
}

// decide asks the schedule twice: what to do, and what each asset would be allowed if this box had to carry it, which is
// what the household's election needs to know.
func (f *Fetcher) decide(now time.Time) {
	plan := schedule.Decide(now, f.sched)
	f.next = plan.Next
	hurry := false
	f.take(plan.Wants, func(it *item, w schedule.Want) {
		it.want = w
		hurry = hurry || it.wanOn && w.Danger && w.Origin == schedule.OriginUrgent && !w.OriginRate.Set && !it.playing()
	})
	f.hurry.Store(hurry)
	alone := f.sched
	alone.MaxActive = len(alone.Assets) + 1
	alone.Assets = append([]schedule.Asset(nil), alone.Assets...)
	for i := range alone.Assets {
		a := &alone.Assets[i]
		a.Follower = false
		if id, err := asset.ParseID(a.ID); err == nil && f.neighbourCannot(id) {
			a.Playing = true
		}
	}
	plan = schedule.Decide(now, alone)
	if !plan.Next.IsZero() && (f.next.IsZero() || plan.Next.Before(f.next)) {
		f.next = plan.Next // a window opens for what nobody carries yet
	}
	f.take(plan.Wants, func(it *item, w schedule.Want) { it.alone = w })
	f.ownReasons()
}

func (f *Fetcher) take(wants []schedule.Want, set func(*item, schedule.Want)) {
	for i, w := range wants {
		id, err := asset.ParseID(w.ID)
		if it, ok := f.items[id]; err == nil && ok {
			set(it, w)
			it.rank = i
		}
	}
}

// wishes is what others have set.
func (f *Fetcher) wishes() (l Limits, paused, playback bool) {
	f.limitsMu.Lock()
	defer f.limitsMu.Unlock()
	return f.limits, f.paused, f.playback
}
