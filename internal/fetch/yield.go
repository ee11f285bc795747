package fetch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"boxd/internal/fetch/pace"
)

// Probe says how the round-trip time over the access line is measured.
type Probe struct {
	Off    bool
	Target netip.Addr               // what to ping; zero: the first router behind the access line
	Do     func(func() error) error // runs socket calls, for tests in another network namespace; nil: here
}

// yielder keeps the access line's queue empty: it measures the line while it is used, and sets how fast both directions
// may go. It has a goroutine of its own, because it must not wait for the owner of the state.
type yielder struct {
	f    *Fetcher
	mu   sync.Mutex // guards the fields below
	down *pace.Yield
	up   *pace.Yield
	live bool // samples come
	next time.Time
}

// probeAgain is how long to wait after the line could not be measured.
const probeAgain = 5 * time.Minute

// run measures while the line is used, until ctx ends.
func (y *yielder) run(ctx context.Context) {
	if y.f.o.Probe.Off {
		return
	}
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			if !y.f.usesWAN.Load() || now.Before(y.next) {
				continue
			}
		}
		if err := y.measure(ctx); err != nil && ctx.Err() == nil {
			y.f.log.Info("the access line's delay cannot be measured; only the limits hold", "err", err)
			y.next = time.Now().Add(probeAgain)
		}
	}
}

// measure probes until the line has been idle for a while.
func (y *yielder) measure(ctx context.Context) error {
	target, err := y.target(ctx)
	if err != nil {
		return err
	}
	p, err := pace.OpenProbe(target, y.f.o.Probe.Do)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	line := y.f.lineRate.Load()
	y.mu.Lock()
	y.down, y.up = pace.NewYield(float64(line)), pace.NewYield(0)
	y.mu.Unlock()
	defer func() {
		y.mu.Lock()
		y.live = false
		y.mu.Unlock()
		y.f.applyRates()
	}()
	silent := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { y.steer(ctx, cancel, &silent) })
	err = p.Run(ctx, pace.Interval, func(now time.Time, rtt time.Duration) {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.live, silent = true, now
		y.down.Sample(now, rtt)
		y.up.Sample(now, rtt)
	}, func(now time.Time) {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.down.Lost(now)
		y.up.Lost(now)
	})
	cancel()
	wg.Wait()
	y.mu.Lock()
	defer y.mu.Unlock()
	if err == nil && !y.live {
		err = errors.New("nothing answers the probe")
	}
	return err
}

// steer sets the rates, and ends the measurement when the line is idle or nothing answers.
func (y *yielder) steer(ctx context.Context, stop func(), silent *time.Time) {
	t := time.NewTicker(pace.Interval)
	defer t.Stop()
	down, up := y.f.swarm.Down().Passed(), y.f.swarm.Up().Passed()
	used := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			d, u := y.f.swarm.Down().Passed(), y.f.swarm.Up().Passed()
			y.mu.Lock()
			if d-down > 2<<10 || y.down.Rate() < 1<<20 {
				y.down.Tick(now, d-down, y.up.Busy())
			}
			if u-up > 2<<10 || y.up.Rate() < 1<<18 {
				y.up.Tick(now, u-up, y.down.Busy())
			}
			quiet := now.Sub(*silent)
			y.mu.Unlock()
			if d-down+u-up > 4<<10 || y.f.usesWAN.Load() {
				used = now
			}
			down, up = d, u
			y.f.applyRates()
			if now.Sub(used) > 10*time.Second || quiet > 5*time.Second {
				y.mu.Lock()
				y.live = y.live && quiet <= 5*time.Second
				y.mu.Unlock()
				stop()
				return
			}
		}
	}
}

// rates are the present rates that keep the queue empty; pace.Unlimited while they are not known.
func (y *yielder) rates() (down, up int64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.live || y.down == nil {
		return pace.Unlimited, pace.Unlimited
	}
	return y.down.Rate(), y.up.Rate()
}

// line is the rate at which the downlink's queue begins, as far as it is known.
func (y *yielder) line() float64 {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.live || y.down == nil {
		return 0
	}
	return y.down.Line()
}

// target finds what to ping: the first router behind the access line on the way to the fleet's servers.
func (y *yielder) target(ctx context.Context) (netip.Addr, error) {
	if y.f.o.Probe.Target.IsValid() {
		return y.f.o.Probe.Target, nil
	}
	host, err := y.fleetHost()
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
		if err != nil || len(ips) == 0 {
			return netip.Addr{}, errors.Join(errors.New("the fleet's address is not known"), err)
		}
		a = ips[0]
	}
	if a = a.Unmap(); !a.Is4() || y.f.isLAN(a) || a.IsLoopback() {
		return netip.Addr{}, errors.New("the fleet is not behind the access line")
	}
	return pace.Hop(ctx, a, 2, y.f.o.Probe.Do)
}

func (y *yielder) fleetHost() (string, error) {
	for _, s := range append([]string{y.f.o.TrackerURL}, y.f.o.OriginURLs...) {
		if u, err := url.Parse(s); err == nil && u.Hostname() != "" {
			return u.Hostname(), nil
		}
	}
	return "", errors.New("no tracker or origin names the fleet")
}
