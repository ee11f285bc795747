package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/fetch/pace"
	"boxd/internal/health"
	"boxd/internal/lan"
)

type bareSwarm struct {
	Swarm
	down, up *pace.Bucket
}

func (s bareSwarm) Down() *pace.Bucket { return s.down }
func (s bareSwarm) Up() *pace.Bucket   { return s.up }

type privateLAN struct{ LAN }

func (privateLAN) Neighbours() []lan.Neighbour { return nil }

func (privateLAN) IsLAN(a netip.Addr) bool {
	return netip.MustParsePrefix("192.168.1.0/24").Contains(a)
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func bareYielder() *yielder {
	f := &Fetcher{log: slog.New(slog.DiscardHandler)}
	f.o.OriginURLs, f.o.LAN, f.o.Probe.NoEcho = []string{"https://origin.example/"}, privateLAN{}, true
	f.swarm = bareSwarm{down: pace.NewBucket(1), up: pace.NewBucket(1)}
	f.yield = newYielder(f)
	return f.yield
}

// A router whose line is not up yet answers every name with an address of its own: that holds no longer than the next look.
func TestTheFleetIsAtHomeOnlyAsLongAsItSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		y := bareYielder()
		var answer atomic.Pointer[[]netip.Addr]
		tell := func(list ...string) {
			a := addrs(list...)
			answer.Store(&a)
		}
		y.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
			if a := *answer.Load(); len(a) > 0 {
				return a, nil
			}
			return nil, errors.New("no such host")
		}
		ctx, cancel := context.WithCancel(t.Context())
		tell("192.168.1.1")
		y.f.usesWAN.Store(true)
		var ran sync.WaitGroup
		defer ran.Wait()
		defer cancel()
		ran.Go(func() { y.run(ctx) })
		paced := func(want bool, step string, within time.Duration) {
			t.Helper()
			time.Sleep(within)
			synctest.Wait()
			down, up := y.rates()
			if (down < pace.Unlimited) != want || (up < pace.Unlimited) != want {
				t.Errorf("%s: %d and %d bytes per second", step, down, up)
			}
		}
		paced(false, "all names are the router's", time.Second)
		tell("203.0.113.7")
		paced(true, "the line is up", homeSoon+time.Second)
		tell()
		paced(true, "nobody answers", 2*homeLate)
		tell("203.0.113.7", "192.168.1.1")
		paced(true, "at home, too", 2*homeLate)
		tell("192.168.1.4", "127.0.0.1")
		paced(false, "the fleet is at home", homeLate+time.Second)
		y.f.usesWAN.Store(false)
		time.Sleep(time.Hour)
		tell("203.0.113.7")
		y.f.usesWAN.Store(true)
		paced(true, "it has moved", time.Second)
	})
}

// Behind a second router the second hop is still at home.
func TestTheProbeLooksBeyondTheHome(t *testing.T) {
	t.Parallel()
	end := netip.MustParseAddr("203.0.113.7")
	for _, c := range []struct {
		name string
		hops []string // from the second on
		want string
	}{
		{"one router", []string{"100.64.0.1", "198.51.100.1"}, "100.64.0.1"},
		{"a provider that uses private addresses", []string{"10.20.0.1", "198.51.100.1"}, "10.20.0.1"},
		{"two routers", []string{"192.168.178.1", "100.64.0.1"}, "100.64.0.1"},
		{"two routers, IPv6", []string{"fd12::1", "2001:db8::1"}, "2001:db8::1"},
		{"on the same link", []string{"192.168.1.1", "198.51.100.1"}, "198.51.100.1"},
		{"many routers", []string{"192.168.178.1", "172.16.0.1"}, "203.0.113.7"},
		{"a silent hop", []string{"", "198.51.100.1"}, "198.51.100.1"},
		{"silent hops", []string{"", ""}, end.String()},
		{"a fleet two hops away, in a network as homes have them", []string{end.String()}, end.String()},
	} {
		y := bareYielder()
		got := y.nearest(end, func(hops int) (netip.Addr, error) {
			if s := c.hops[hops-nearHops]; s != "" {
				return netip.MustParseAddr(s), nil
			}
			return netip.Addr{}, errors.New("no answer")
		})
		if got.String() != c.want {
			t.Errorf("%s: %v; want %s", c.name, got, c.want)
		}
	}
}

// A probe that sees no queue while our own connections stand in one is on this side of the line: the next hop is asked, and
// when none of them sees it, our connections alone tell.
func TestAProbeThatSeesNoQueueIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		y := bareYielder()
		y.f.o.Probe.NoEcho = false
		ctx, cancel := context.WithCancel(t.Context())
		var asked []int                // guarded by y.mu, as is queue
		queue := 23 * time.Millisecond // of our own connections
		var ran sync.WaitGroup
		ran.Go(func() {
			y.echo(ctx, func() error {
				y.mu.Lock()
				asked = append(asked, y.hops)
				y.mu.Unlock()
				return y.watch(ctx, func(ctx context.Context) error {
					for ctx.Err() == nil {
						time.Sleep(pace.Interval)
						now := time.Now()
						y.mu.Lock()
						y.answered(now, 20*time.Millisecond)
						y.down.Tick(now, 0, y.up)
						y.mistrust(now, pace.Look{Known: true, Queue: queue}, int64(0.5*perTick(y.down.Rate())), 0)
						y.mu.Unlock()
					}
					return nil
				})
			})
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		y.mu.Lock()
		if len(asked) != 3 || asked[0] != nearHops || asked[1] != nearHops+1 || asked[2] != farHops {
			t.Errorf("asked %v hops away", asked)
		}
		queue = 5 * time.Millisecond
		y.mu.Unlock()
		time.Sleep(2 * probeLate)
		synctest.Wait()
		y.mu.Lock()
		if len(asked) != 4 || asked[3] != nearHops {
			t.Errorf("later %v", asked)
		}
		y.mu.Unlock()
		cancel()
		ran.Wait()
	})
}

// A kernel that keeps boxd from sending echoes is no secret.
func TestAForbiddenProbeIsTold(t *testing.T) {
	t.Parallel()
	y := bareYielder()
	y.f.o.Health = health.New(nil)
	y.permitted(fmt.Errorf("open a ping socket: %w", syscall.ENETDOWN))
	if y.f.o.Health.Has(CodeNoProbe) {
		t.Error("warned of something else")
	}
	y.permitted(fmt.Errorf("open a ping socket: %w", syscall.EACCES))
	if !y.f.o.Health.Has(CodeNoProbe) {
		t.Error("nobody is told")
	}
	y.permitted(nil)
	if y.f.o.Health.Has(CodeNoProbe) {
		t.Error("the warning stays")
	}
}
