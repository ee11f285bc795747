// Package fetch makes the cache match the plan: it drives the swarm, the origin and the rates.
//
// Invariants: one goroutine, Run's, owns all state; others ask it. Space is reserved before the first byte. Only the
// courier of an asset uses the tracker, WAN peers and the origin; one follower may when the courier will miss the
// deadline. An asset leaves the swarm before it leaves the cache. Every byte that arrives is counted once, under the
// source it came from. A store that failed is dropped and tried again later, never served. Every retry has a back-off
// with jitter.
package fetch

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/origin"
	"boxd/internal/schedule"
)

// Fetcher makes the cache match the plan.
type Fetcher struct {
	o      Options
	log    *slog.Logger
	swarm  Swarm
	peerID [20]byte
	home   atomic.Pointer[map[string]bool] // boxes of the household

	calls   chan func(now time.Time) // run by the owner of the state
	poke    chan struct{}            // something may have changed
	stopped chan struct{}            // closed when Run has returned

	limitsMu sync.Mutex // guards the three below: others set them
	limits   Limits
	paused   bool
	playback bool

	families families
	servers  origin.Servers
	holds    holds
	status   atomic.Pointer[Status]
	plan     atomic.Pointer[schedule.Input] // what the last decision was made from
	changed  atomic.Pointer[chan struct{}]

	yield    *yielder
	usesWAN  atomic.Bool  // something was asked for over the access line, or is sent
	heat     atomic.Int32 // courtesy.Heat
	lineRate atomic.Int64 // bytes per second, as measured so far
	watching atomic.Bool  // a player plays what is being fetched
	afar     atomic.Int64 // when bytes of a player last crossed the home beside the swarm, since begun; 0: never
	begun    time.Time
	hurry    atomic.Bool // a deadline needs all of the line

	// Owned by Run's goroutine:
	items    map[asset.ID]*item
	totals   totals
	wanBoxes map[string]given // of torrents that have left the swarm
	reach    reach
	urgent   map[*item]bool // somebody waits for them; see urgents
	next     time.Time      // of the plan
	asking   time.Duration  // the cache for space, in this step
	hurried  time.Time      // when it last looked at once, for a player

	withdrawn   map[asset.ID]bool // of the catalog that withdrawnBy is
	withdrawnBy *catalog.Snapshot

	running  sync.WaitGroup
	jobs     context.Context //nolint:containedctx // of Run, for the goroutines that it starts
	sched    schedule.Input
	measured meter
	lastSave time.Time

	habit       habit
	habitLoaded bool
	habitSaved  time.Time
}

// New checks the options and starts nothing.
func New(o Options) (*Fetcher, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Location == nil {
		o.Location = time.Local
	}
	if o.Origin == nil {
		o.Origin = origin.Client(nil)
	}
	if o.Taken == nil {
		o.Taken = taken
	}
	if o.Tracker == nil {
		o.Tracker = o.Origin
	}
	f := &Fetcher{
		o: o, log: o.Log, peerID: newPeerID(), limits: o.Limits, begun: time.Now(),
		calls: make(chan func(time.Time)), poke: make(chan struct{}, 1), stopped: make(chan struct{}),
		items: map[asset.ID]*item{}, wanBoxes: map[string]given{}, holds: holds{
			free: map[asset.ID]func(){}, last: map[asset.ID]engine.Stats{}, taken: map[asset.ID]bool{},
		},
	}
	f.status.Store(&Status{})
	ch := make(chan struct{})
	f.changed.Store(&ch)
	f.home.Store(&map[string]bool{})
	f.yield = newYielder(f)
	f.swarm = o.NewSwarm(Hooks{Lazy: f.lazy, OnFailure: f.failed, IsLAN: f.isLAN, Home: f.isHome, Sockets: f.yield.sockets})
	return f, nil
}

func (f *Fetcher) isLAN(a netip.Addr) bool {
	if f.o.LAN == nil {
		return a.IsLoopback()
	}
	return f.o.LAN.IsLAN(a)
}

func (f *Fetcher) isHome(box string) bool { return (*f.home.Load())[box] }

// Swarm is the engine, for what measures it.
func (f *Fetcher) Swarm() Swarm { return f.swarm }

// Run fetches until ctx ends. An error means that fetching cannot go on at all.
func (f *Fetcher) Run(ctx context.Context) error {
	defer close(f.stopped)
	jobs, cancel := context.WithCancel(ctx)
	defer cancel()
	f.jobs = jobs
	f.loadTotals()
	f.o.Cache.OnEvict(f.evict)

	var swarmErr error
	swarmDone := make(chan struct{}) // closed once swarmErr is set
	go func() { defer close(swarmDone); swarmErr = f.swarm.Run(jobs) }()
	select {
	case <-f.swarm.Ready():
	case <-swarmDone:
		return swarmErr
	}
	f.running.Go(func() { f.yield.run(jobs) })
	early := f.loop(jobs, swarmDone)
	cancel()
	f.running.Wait()
	f.finish()
	<-swarmDone
	err := swarmErr
	if early && err == nil {
		err = errors.New("the swarm engine ended by itself")
	}
	f.farewell()
	return err
}

// How often everything is looked at when nothing tells of a change: while something moves or may, and else, when what is
// noticed late is a clock that was put right.
const (
	tick     = time.Second
	idleTick = 10 * time.Second
)

// loop looks, decides and acts until ctx ends; it reports whether the engine ended first.
func (f *Fetcher) loop(ctx context.Context, swarmDone <-chan struct{}) (early bool) {
	t := time.NewTimer(tick)
	defer t.Stop()
	plan := time.NewTimer(time.Hour)
	defer plan.Stop()
	for {
		catalogChanged, cacheChanged := f.o.Catalog.Changed(), f.o.Cache.Changed()
		swarmChanged, waiting := f.swarm.Changed(), f.o.Cache.Waiting()
		var lanChanged <-chan struct{}
		if f.o.LAN != nil {
			lanChanged = f.o.LAN.Changed()
		}
		f.step(time.Now())
		wait := time.Hour
		if !f.next.IsZero() {
			now, _ := f.o.Identity.Now()
			wait = max(f.next.Sub(now), 10*time.Millisecond)
		}
		plan.Reset(wait)
		if t.Reset(tick); f.idle() {
			t.Reset(idleTick)
		}
		select {
		case <-ctx.Done():
			return false
		case <-swarmDone:
			return ctx.Err() == nil
		case call := <-f.calls:
			call(time.Now())
		case <-f.poke:
		case <-t.C:
		case <-plan.C:
		case <-catalogChanged:
		case <-cacheChanged:
		case <-swarmChanged:
		case <-lanChanged:
		}
		f.settle(ctx, waiting)
	}
}

// idle reports that nothing moves, and that whatever could set something moving tells of it.
func (f *Fetcher) idle() bool {
	_, _, playback := f.wishes()
	for _, it := range f.items {
		if playback && it.store != nil && !it.complete() { // a player that reads what is here may soon need more
			return false
		}
		if it.wanOn || it.playing() || it.ann.busy || len(it.runs) > 0 || len(it.live.Peers) > 0 ||
			it.rates.smooth != (Sources{}) || it.eraseWait == eraseFirst {
			return false
		}
	}
	return true
}

// settleTime is how long what comes in bursts (pieces, peers) is let arrive before everything is looked at again.
const settleTime = 20 * time.Millisecond

// settle waits for that, but for a player who comes to wait, unless the last one came just before.
func (f *Fetcher) settle(ctx context.Context, waiting <-chan struct{}) {
	t := time.NewTimer(settleTime)
	defer t.Stop()
	if time.Since(f.hurried) < settleTime {
		waiting = nil
	}
	select {
	case <-ctx.Done():
	case call := <-f.calls:
		call(time.Now()) // who asks waits for what follows
	case <-waiting:
		f.hurried = time.Now()
	case <-t.C:
	}
}

// wake makes the owner look again.
func (f *Fetcher) wake() {
	select {
	case f.poke <- struct{}{}:
	default:
	}
}

// do runs call on the owner's goroutine and reports whether it did.
func (f *Fetcher) do(ctx context.Context, call func(now time.Time)) bool {
	done := make(chan struct{})
	select {
	case f.calls <- func(now time.Time) { defer close(done); call(now) }:
		<-done
		return true
	case <-f.stopped:
	case <-ctx.Done():
	}
	return false
}

// Alive answers when the owner's loop does; the watchdog asks.
func (f *Fetcher) Alive(ctx context.Context) bool { return f.do(ctx, func(time.Time) {}) }

// SetLimits replaces the limits.
func (f *Fetcher) SetLimits(l Limits) {
	f.limitsMu.Lock()
	f.limits = l
	f.limitsMu.Unlock()
	f.wake()
}

// SetPaused stops or goes on fetching. What is here is still shared in the home.
func (f *Fetcher) SetPaused(p bool) {
	f.limitsMu.Lock()
	f.paused = p
	f.limitsMu.Unlock()
	f.wake()
}

// SetPlayback says that a player is active on the box, or not: boxd then holds back.
func (f *Fetcher) SetPlayback(active bool) {
	f.limitsMu.Lock()
	f.playback = active
	f.limitsMu.Unlock()
	f.applyRates()
	f.wake()
}
