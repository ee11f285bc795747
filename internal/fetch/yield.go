package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"boxd/internal/fetch/pace"
)

// Probe says how the access line is watched, so that its queue stays empty.
type Probe struct {
	Off    bool                     // only the limits hold
	NoEcho bool                     // send no echo requests: only our own connections tell
	Target netip.Addr               // what to ping; zero: the first router behind the access line
	Do     func(func() error) error // runs socket calls, for tests in another network namespace; nil: here
	Trace  func(Trace)              // told of every decision, by one goroutine; nil: nobody is
}

// Trace is one decision about the downlink.
type Trace struct {
	At       time.Time
	Rate     int64   // bytes per second
	Line     float64 // what the line gives, as far as it is known
	Queue    time.Duration
	Arrived  int64 // bytes since the last decision
	Read     int64
	Phase    string
	Signal   string // what it goes by
	UpRate   int64
	UpLine   float64
	Sent     int64 // bytes that arrived at the other end since the last decision
	UpPhase  string
	UpActive bool
}

// yielder keeps the access line's queue empty: it measures the line while it is used, and sets how fast both directions
// may go. It has a goroutine of its own, because it must not wait for the owner of the state.
type yielder struct {
	f       *Fetcher
	sockets *pace.Sockets
	exempt  atomic.Bool // the fleet is not behind an access line, or nobody may measure

	mu   sync.Mutex // guards the fields down to wait
	down *pace.Yield
	up   *pace.Yield
	live bool          // the line is used and measured
	over pace.Spread   // connections to the origin
	wait time.Duration // before the next probe, if this one fails, too

	next   time.Time  // when the line may be probed
	hops   int        // away that the probe's target is looked for
	counts bool       // the kernel counts what arrives: Linux 4.1 and later
	blind  blind      // whether the probe's target sees the line's queue
	aimed  netip.Addr // the probe's last target. Guarded by mu
	reject func()     // ends the present probe, whose target does not; nil: there is none. Guarded by mu

	looked time.Time      // when it was looked last whether the fleet is behind the line
	looks  sync.WaitGroup // such looks
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	probeSoon = 5 * time.Second        // after the line could not be probed for the first time
	probeLate = 5 * time.Minute        // and after many
	nearHops  = 2                      // to the first router behind the line, in most homes
	farHops   = 4                      // where the fleet itself is asked
	lineIdle  = 10 * time.Second       // without traffic, after which measuring ends
	lineWatch = 100 * time.Millisecond // how often it is looked whether the line is used
)

func newYielder(f *Fetcher) *yielder {
	y := &yielder{f: f, sockets: pace.NewSockets(), down: pace.NewYield(0), up: pace.NewYield(0).Patient(), hops: nearHops}
	y.lookup = net.DefaultResolver.LookupNetIP
	y.exempt.Store(f.o.Probe.Off)
	return y
}

// run measures while the line is used, until ctx ends.
func (y *yielder) run(ctx context.Context) {
	if y.f.o.Probe.Off {
		y.sockets.Look(time.Now(), 0, 0)
		return
	}
	far, err := y.far()
	if err != nil {
		y.f.log.Info("the access line is not watched; only the limits hold", "err", err)
		y.spare(true)
		return
	}
	defer y.looks.Wait()
	t := time.NewTicker(lineWatch)
	defer t.Stop()
	var passed int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		p := y.passed()
		if p != passed || y.f.usesWAN.Load() {
			y.relook(ctx, far, homeSoon)
			if !y.exempt.Load() {
				y.measure(ctx, far)
			}
		}
		passed = p
	}
}

func (y *yielder) passed() int64 { return y.f.swarm.Down().Passed() + y.f.swarm.Up().Passed() }

// measure watches the line until it has been idle for a while.
func (y *yielder) measure(ctx context.Context, far string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	line := float64(y.f.lineRate.Load())
	y.mu.Lock()
	y.down, y.up, y.live, y.over = y.down.Again(line), y.up.Again(y.up.Line()), true, pace.Spread{}
	if y.f.watching.Load() {
		y.down.Hurry()
	}
	y.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { y.echo(ctx, func() error { return y.probe(ctx, far) }) })
	y.steer(ctx, far)
	cancel()
	wg.Wait()
	y.mu.Lock()
	y.live = false
	y.mu.Unlock()
	if y.exempt.Load() {
		y.sockets.Look(time.Now(), 0, 0)
	}
	y.f.applyRates()
}

// echo probes until ctx ends, and after a failure again later, somebody else. Without it our own connections have to tell.
func (y *yielder) echo(ctx context.Context, probe func() error) {
	if y.f.o.Probe.NoEcho {
		return
	}
	for {
		if left := time.Until(y.next); left > 0 {
			t := time.NewTimer(left)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
		err := probe()
		if ctx.Err() != nil {
			return
		}
		y.f.log.Info("the access line cannot be probed; our own connections tell how long its queue is", "err", err)
		y.mu.Lock()
		y.wait = min(max(2*y.wait, probeSoon), probeLate)
		if y.hops++; y.hops > farHops {
			y.hops = nearHops
			if errors.Is(err, errBlind) { // all of them
				y.wait = probeLate
			}
		}
		y.next = time.Now().Add(y.wait)
		y.mu.Unlock()
	}
}

// probe asks the first router behind the line for echoes until ctx ends.
func (y *yielder) probe(ctx context.Context, far string) error {
	target, err := y.target(ctx, far)
	if err != nil {
		return err
	}
	p, err := pace.OpenProbe(target, y.f.o.Probe.Do)
	y.permitted(err)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }() // nothing to lose
	y.aim(target)
	err = y.watch(ctx, func(ctx context.Context) error {
		return p.Run(ctx, pace.Interval, func(now time.Time, rtt time.Duration) {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.answered(now, rtt)
		}, func(time.Time) {})
	})
	if err != nil {
		return fmt.Errorf("probe %s: %w", target, err)
	}
	return nil
}

// aim forgets how long the way to another target was.
func (y *yielder) aim(target netip.Addr) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if target != y.aimed {
		y.aimed = target
		y.down.Elsewhere()
		y.up.Elsewhere()
	}
}

// answered takes an answer to the probe. mu is held.
func (y *yielder) answered(now time.Time, rtt time.Duration) {
	y.wait = 0
	y.down.Sample(now, rtt)
	y.up.Sample(now, rtt)
}

// steer sets the rates until the line is idle.
func (y *yielder) steer(ctx context.Context, far string) {
	t := time.NewTicker(pace.Interval)
	defer t.Stop()
	down, up := y.f.swarm.Down().Passed(), y.f.swarm.Up().Passed()
	use := usage{since: time.Now()}
	home := float64(y.f.othersWAN())
	for ticks := 1; ; ticks++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now() // the ticker's own may be long past
		d, u := y.f.swarm.Down().Passed(), y.f.swarm.Up().Passed()
		y.decide(now, d-down, u-up)
		if ticks%neighboursEvery == 0 {
			others := float64(y.f.othersWAN())
			y.freed(home - others)
			home = others
		}
		idle := use.idle(now, d-down+u-up, y.f.usesWAN.Load())
		down, up = d, u
		y.f.applyRates()
		y.relook(ctx, far, homeLate)
		if idle || y.exempt.Load() {
			return
		}
	}
}

// neighboursEvery is how many decisions pass between two looks at what neighbours say: it is smoothed over seconds.
const neighboursEvery = 10

// freed tells the controller how much of the line the home's other boxes have given up, if it is worth it.
func (y *yielder) freed(rate float64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if rate > 0.1*y.down.Line() {
		y.down.Freed(rate)
	}
}

// usage tells when the line was used last: what was merely wished for does not count, as it may never come.
type usage struct {
	since time.Time
	moved int64 // bytes since then, which may be no more than connections that are kept alive
}

func (u *usage) idle(now time.Time, moved int64, asked bool) bool {
	if u.moved += moved; u.moved > 4<<10 || asked {
		*u = usage{since: now}
	}
	return now.Sub(u.since) > lineIdle
}

// decide takes what was read and written since the last decision, and what the kernel knows.
func (y *yielder) decide(now time.Time, read, written int64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	look := y.sockets.Look(now, float64(y.down.Rate()), y.down.Slack())
	arrived, sent := y.moved(look, read, written)
	if look.Known {
		y.down.SampleOwn(now, look.Queue)
		y.up.SampleOwn(now, look.Queue)
	}
	free := y.down.Free() && look.Sockets > 0
	y.over.Tick(now, look.Lossy, free, float64(min(y.down.Rate(), y.f.swarm.Down().Rate())), float64(arrived)/pace.Interval.Seconds())
	y.down.Tick(now, arrived, y.up)
	y.up.Tick(now, sent, y.down)
	y.mistrust(now, look, arrived, sent)
	if y.f.o.Probe.Trace != nil {
		y.f.o.Probe.Trace(Trace{
			At: now, Rate: y.down.Rate(), Line: y.down.Line(), Queue: y.down.Queue(), Arrived: arrived, Read: read,
			Phase: y.down.Phase(), Signal: y.down.Signal(now), UpRate: y.up.Rate(), UpActive: y.up.Busy(),
			UpLine: y.up.Line(), Sent: sent, UpPhase: y.up.Phase(),
		})
	}
}

// moved is how much came and went: what is read may have waited in memory, so the kernel's count is the better one, if it
// has any. mu is held.
func (y *yielder) moved(look pace.Look, read, written int64) (arrived, sent int64) {
	y.counts = y.counts || look.Received > 0
	if look.Sockets > 0 && y.counts {
		return look.Received, look.Acked
	}
	return read, written
}

// rates are the present rates that keep the queue empty.
func (y *yielder) rates() (down, up int64) {
	if y.exempt.Load() {
		return pace.Unlimited, pace.Unlimited
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.live { // whoever begins before the line is measured does not begin with a burst
		down := y.down.Again(float64(y.f.lineRate.Load()))
		if y.f.watching.Load() {
			down.Hurry()
		}
		return down.Rate(), y.up.Again(y.up.Line()).Rate()
	}
	return y.down.Rate(), y.up.Rate()
}

// connections is how many an asset should be fetched over that comes from the origin alone.
func (y *yielder) connections() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.over.Connections(time.Now())
}

// line is what the downlink gives, as far as it is known.
func (y *yielder) line() float64 {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.live || !y.down.Sure() { // what it takes for the line while it rises may be somebody else's queue
		return 0
	}
	return y.down.Line()
}
