package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"time"

	"boxd/internal/fetch/pace"
	"boxd/internal/health"
)

// far names a server of the fleet, or what is to be pinged.
func (y *yielder) far() (string, error) {
	if y.f.o.Probe.Target.IsValid() {
		return y.f.o.Probe.Target.String(), nil
	}
	for _, s := range append([]string{y.f.o.TrackerURL}, y.f.o.OriginURLs...) {
		if u, err := url.Parse(s); err == nil && u.Hostname() != "" {
			return u.Hostname(), nil
		}
	}
	return "", errors.New("no tracker or origin names the fleet")
}

// How often it is looked whether the fleet is behind the line, while it is thought to be at home and while it is not.
const (
	homeSoon = 5 * time.Second
	homeLate = time.Minute
)

// relook looks beside everything else whether the fleet is behind the line at all, unless that was done a moment ago. One
// goroutine calls it.
func (y *yielder) relook(ctx context.Context, far string, every time.Duration) {
	now := time.Now()
	if y.f.o.Probe.Target.IsValid() || !y.looked.IsZero() && now.Sub(y.looked) < every {
		return
	}
	y.looked = now
	if a, err := netip.ParseAddr(far); err == nil {
		y.spare(y.atHome(a))
		return
	}
	y.looks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, every)
		defer cancel()
		ips, err := y.lookup(ctx, "ip", far)
		y.spare(err == nil && len(ips) > 0 && len(y.outside(ips)) == 0)
	})
}

// spare says that there is no access line to spare. It holds until the next look only: a router whose line is not up yet
// answers every name with an address of its own.
func (y *yielder) spare(exempt bool) {
	if y.exempt.Swap(exempt) == exempt {
		return
	}
	if exempt {
		y.f.log.Info("the fleet is not behind an access line: only the limits hold")
		y.sockets.Look(time.Now(), 0, 0)
	}
	y.f.applyRates()
}

func (y *yielder) atHome(a netip.Addr) bool {
	a = a.Unmap()
	return y.f.isLAN(a) || a.IsLoopback()
}

// outside leaves out the addresses at home.
func (y *yielder) outside(ips []netip.Addr) (out []netip.Addr) {
	for _, a := range ips {
		if !y.atHome(a) {
			out = append(out, a)
		}
	}
	return out
}

// inner are networks that homes use between two routers of their own, and providers hardly ever.
var inner = []netip.Prefix{
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("fc00::/7"),
}

// beyond says that a router may well be behind the access line.
func (y *yielder) beyond(a netip.Addr) bool {
	for _, p := range inner {
		if p.Contains(a.Unmap()) {
			return false
		}
	}
	return !y.atHome(a) && !a.IsLinkLocalUnicast()
}

// target finds what to ping: the first router behind the access line on the way to the fleet's servers.
func (y *yielder) target(ctx context.Context, far string) (netip.Addr, error) {
	if y.f.o.Probe.Target.IsValid() {
		return y.f.o.Probe.Target, nil
	}
	ips := []netip.Addr{}
	if a, err := netip.ParseAddr(far); err == nil {
		ips = append(ips, a)
	} else if ips, err = y.lookup(ctx, "ip", far); err != nil {
		return netip.Addr{}, fmt.Errorf("the fleet's address is not known: %w", err)
	}
	a := reachable(y.outside(ips), y.f.o.Probe.Do)
	if !a.IsValid() {
		return a, errors.New("there is no way to any of the fleet's addresses")
	}
	from := y.hops
	defer func() {
		if ctx.Err() != nil { // the line is idle: nothing was found out
			y.hops = from
		}
	}()
	return y.nearest(a, func(hops int) (netip.Addr, error) { return pace.Hop(ctx, a, hops, y.f.o.Probe.Do) }), ctx.Err()
}

// nearest is the first router on the way, as hop tells them, that may be behind the line; the other end if there is none, or
// none that says so.
func (y *yielder) nearest(end netip.Addr, hop func(hops int) (netip.Addr, error)) netip.Addr {
	for ; y.hops < farHops; y.hops++ {
		if a, err := hop(y.hops); err == nil && (a == end || y.beyond(a)) {
			return a
		}
	}
	return end
}

// reachable is the first address that this box has a way to, IPv4 before IPv6.
func reachable(ips []netip.Addr, do func(func() error) error) (first netip.Addr) {
	for _, a := range ips {
		if a = a.Unmap(); (!first.IsValid() || a.Is4() && !first.Is4()) && pace.Reachable(a, do) {
			first = a
		}
	}
	return first
}

var errBlind = errors.New("it does not see the queue that our connections wait in: it is on this side of the line")

// watch runs a probe until ctx ends, or its target turns out to be the wrong one.
func (y *yielder) watch(ctx context.Context, run func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	aim := func(reject func()) {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.reject, y.blind = reject, blind{}
	}
	aim(func() { cancel(errBlind) })
	defer aim(nil)
	err := run(ctx)
	if errors.Is(context.Cause(ctx), errBlind) {
		return errBlind
	}
	return err
}

// CodeNoProbe is the warning that the system lets boxd send no echo requests.
const CodeNoProbe = "line-no-probe"

// permitted tells whether a probe could be opened.
func (y *yielder) permitted(err error) {
	switch {
	case err == nil:
		y.f.o.Health.Clear(CodeNoProbe)
	case errors.Is(err, fs.ErrPermission):
		y.f.o.Health.Raise(health.Warning{
			Code: CodeNoProbe, Severity: health.Warn,
			Text: "The system lets boxd send no echo requests, so the access line's queue is only known from boxd's own " +
				"connections: others in the home notice it sooner.",
			Action: "Let the group of boxd into the sysctl net.ipv4.ping_group_range; the packages bring a file for it in sysctl.d.",
		})
	}
}

// mistrust gives the probe's target up when it does not see the line's queue, as one in the home does not: behind a second
// router the second hop is still there. mu is held.
func (y *yielder) mistrust(now time.Time, look pace.Look, arrived, sent int64) {
	if y.reject == nil || y.f.o.Probe.Target.IsValid() || y.down.Signal(now) != "probe" {
		return
	}
	down, up := perTick(y.down.Rate()), perTick(y.up.Rate())
	short := float64(arrived) < blindShort*down && float64(arrived) > 0.2*down ||
		float64(sent) < blindShort*up && float64(sent) > 0.2*up
	if y.blind.tick(look, y.down.Queue(), short) {
		y.reject()
		y.reject = nil
	}
}

func perTick(rate int64) float64 { return float64(rate) * pace.Interval.Seconds() }

const (
	blindQueue = 15 * time.Millisecond // of our own connections
	blindSees  = 3 * time.Millisecond  // of the probe
	blindShort = 0.9                   // of the rate: less arrives than we ask for
	blindFor   = int(5 * time.Second / pace.Interval)
)

// blind counts the ticks in which our own connections stood in a queue that the probe did not see, although less came than
// was asked for. What speaks against it counts twice.
type blind struct{ ticks int }

func (b *blind) tick(look pace.Look, probe time.Duration, short bool) bool {
	switch {
	case !look.Known:
	case look.Queue > blindQueue && probe <= blindSees && short:
		b.ticks++
	default:
		b.ticks = max(b.ticks-2, 0)
	}
	return b.ticks >= blindFor
}
