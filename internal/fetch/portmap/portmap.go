// Package portmap asks the home's router to let boxes outside reach the swarm's port: PCP (RFC 6887) and NAT-PMP
// (RFC 6886) first, because each is one datagram, then UPnP-IGD.
//
// Over IPv6 no address is translated, but the router's firewall lets nobody in that it was not asked to: there PCP opens it.
//
// Invariants: a mapping is leased and renewed at half its life, never permanent, and given back at the end; one whose
// renewal fails is kept until its lease ends. Only the router of the default route is asked and believed; what it answers is
// bounded in bytes and in time. A router that knows none of them is asked again only rarely, and at once when the box
// gets another one.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	natpmp "github.com/jackpal/go-nat-pmp"
)

const (
	lease    = time.Hour
	giveUp   = 30 * time.Minute // until a router that knows no mapping is asked again
	look     = 30 * time.Second // how often the default route is looked at
	timeout  = 2 * time.Second  // of one question
	fromFile = "/proc/net/route"
	from6    = "/proc/net/ipv6_route"
)

// Mapper keeps one TCP port mapped.
type Mapper struct {
	Port    int                            // that the box listens on
	IPv6    bool                           // of its public IPv6 address
	Name    string                         // of the box: boxes of one home that ask for one port agree on others
	Gateway func() (netip.Addr, error)     // nil: the default route's
	Needed  func(ctx context.Context) bool // nil: always; false: nothing is asked of the router
	Changed func(Mapping)                  // told after each attempt; may be nil
	Log     *slog.Logger

	ssdp int                                                        // port; 0: ssdpPort
	ask  func(ctx context.Context, gw netip.Addr, want int) Mapping // nil: try

	retry time.Duration // after which a renewal that failed is tried again; Run's
	nonce pcpNonce      // Run's

	mu  sync.Mutex // guards the field below
	now Mapping
}

// Mapping is how the box is reached from outside.
type Mapping struct {
	Protocol string     // "PCP", "NAT-PMP", "UPnP"; empty: nothing is mapped
	External int        // port; 0: nothing is mapped
	Address  netip.Addr // of the router, outside; zero: not known
	Err      error      // why nothing is mapped; nil before the first attempt

	life    time.Duration // as granted; 0: lease
	ends    time.Time
	gateway netip.Addr
	from    netip.Addr // our address, with IPv6
	undo    func(context.Context) error
}

// Behind reports that the router has no public address itself, so that the mapping leads to another router only.
func (m Mapping) Behind() bool {
	cgnat := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10) // RFC 6598
	return m.Address.IsValid() && (m.Address.IsPrivate() || cgnat.Contains(m.Address) || m.Address.IsLinkLocalUnicast())
}

// External is the port by which the box is reached from outside; its own when nothing is mapped.
func (m *Mapper) External() int {
	if p := m.Mapping().External; p > 0 {
		return p
	}
	return m.Port
}

// Mapping is the present one.
func (m *Mapper) Mapping() Mapping {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Run maps and renews until ctx ends, then gives the mapping back.
func (m *Mapper) Run(ctx context.Context) error {
	if m.Log == nil {
		m.Log = slog.New(slog.DiscardHandler)
	}
	m.nonce = newNonce()
	t := time.NewTimer(0)
	defer t.Stop()
	var again time.Time
	idle := time.Second
	for {
		select {
		case <-ctx.Done():
			return m.release()
		case <-t.C:
		}
		t.Reset(look)
		idle = min(2*idle, look)
		gw, err := m.gateway()
		if was := m.Mapping(); err == nil && gw == was.gateway && time.Now().Before(again) && (!m.IPv6 || public6() == was.from) {
			continue
		}
		if err == nil && m.Needed != nil && !m.Needed(ctx) {
			t.Reset(idle) // it may be soon, as in a box that is just being enrolled
			continue
		}
		again = time.Now().Add(m.renew(ctx, gw, err))
	}
}

func (m *Mapper) gateway() (netip.Addr, error) {
	if m.Gateway != nil {
		return m.Gateway()
	}
	if m.IPv6 {
		return defaultGateway6()
	}
	return defaultGateway()
}

// renew maps anew and returns when to do so again.
func (m *Mapper) renew(ctx context.Context, gw netip.Addr, err error) time.Duration {
	was := m.Mapping()
	next := Mapping{Err: err}
	if err == nil {
		ask := m.ask
		if ask == nil {
			ask = m.try
		}
		next = ask(ctx, gw, max(was.External, 0))
	}
	if ctx.Err() != nil && next.External == 0 {
		return look // it keeps what it has, to give it back
	}
	if left := time.Until(was.ends); next.External == 0 && was.External > 0 && was.gateway == gw && left > 0 {
		m.retry = max(2*m.retry, look)
		m.Log.Info("the mapped port was not renewed; its lease goes on", "left", left.Round(time.Second), "err", next.Err)
		return min(m.retry, left)
	}
	m.retry = 0
	next.gateway = gw
	if m.IPv6 {
		next.from = public6()
	}
	if next.life <= 0 || next.life > lease {
		next.life = lease
	}
	next.ends = time.Now().Add(next.life)
	if next.External == 0 && was.External > 0 && was.gateway == gw {
		m.Log.Info("the router has forgotten the mapped port", "err", next.Err)
	}
	m.mu.Lock()
	m.now = next
	m.mu.Unlock()
	if m.Changed != nil {
		m.Changed(next)
	}
	if next.External == 0 {
		m.Log.Debug("the router maps no port", "err", next.Err)
		return giveUp + rand.N(giveUp/4) //nolint:gosec // jitter
	}
	if was.External != next.External {
		m.Log.Info("the router maps a port", "external", next.External, "protocol", next.Protocol)
	}
	return next.life/2 - rand.N(next.life/8) //nolint:gosec // jitter
}

// release gives the mapping back, without waiting long.
func (m *Mapper) release() error {
	was := m.Mapping()
	if was.undo == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := was.undo(ctx); err != nil {
		m.Log.Debug("giving the port mapping back failed", "err", err) // the lease ends by itself
	}
	m.mu.Lock()
	m.now = Mapping{}
	m.mu.Unlock()
	return nil
}

// try maps the port by the first protocol that the router knows; want is the external port that was mapped last, if any.
func (m *Mapper) try(ctx context.Context, gw netip.Addr, want int) Mapping {
	if want == 0 {
		want = m.Port
	}
	got, pcpErr := m.pcp(ctx, gw, want)
	if pcpErr == nil {
		return got
	}
	if m.IPv6 {
		return Mapping{Err: fmt.Errorf("PCP: %w", pcpErr)}
	}
	got, pmpErr := m.pmp(gw, want)
	if pmpErr == nil {
		return got
	}
	got, upnpErr := m.igd(ctx, gw, want)
	if upnpErr == nil {
		return got
	}
	return Mapping{Err: errors.Join(fmt.Errorf("PCP: %w", pcpErr), fmt.Errorf("NAT-PMP: %w", pmpErr), fmt.Errorf("UPnP: %w", upnpErr))}
}

func (m *Mapper) pmp(gw netip.Addr, want int) (Mapping, error) {
	c := natpmp.NewClientWithTimeout(gw.AsSlice(), timeout)
	res, err := c.AddPortMapping("tcp", m.Port, want, int(lease.Seconds()))
	if err != nil {
		return Mapping{}, err
	}
	if res.MappedExternalPort == 0 {
		return Mapping{}, errors.New("the router mapped port 0")
	}
	got := Mapping{
		Protocol: "NAT-PMP", External: int(res.MappedExternalPort),
		life: time.Duration(res.PortMappingLifetimeInSeconds) * time.Second,
		undo: func(context.Context) error {
			_, err := c.AddPortMapping("tcp", m.Port, 0, 0) // RFC 6886, section 3.4
			return err
		},
	}
	if out, err := c.GetExternalAddress(); err == nil {
		got.Address = netip.AddrFrom4(out.ExternalIPAddress)
	}
	return got, nil
}

func (m *Mapper) igd(ctx context.Context, gw netip.Addr, want int) (Mapping, error) {
	port := m.ssdp
	if port == 0 {
		port = ssdpPort
	}
	d, err := findDevice(ctx, gw, port)
	if err != nil {
		return Mapping{}, err
	}
	if d.local, err = localTo(gw); err != nil {
		return Mapping{}, err
	}
	for try := range 4 {
		if try > 0 {
			want = m.other(try)
		}
		var refusal *soapError
		err = d.add(ctx, want, m.Port)
		if err == nil {
			external := want
			return Mapping{
				Protocol: "UPnP", External: external, Address: d.address(ctx),
				undo: func(ctx context.Context) error { return d.remove(ctx, external) },
			}, nil
		}
		if !errors.As(err, &refusal) || refusal.Code == errOnlyPermanent {
			break
		}
	}
	return Mapping{}, err
}

// other is another external port for a box whose own is taken, most likely by another box of the home.
func (m *Mapper) other(try int) int {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s/%d/%d", m.Name, m.Port, try)
	return 20_000 + int(h.Sum32()%40_000)
}

// localTo is our address on the way to the router.
func localTo(gw netip.Addr) (string, error) {
	c, err := net.Dial("udp4", netip.AddrPortFrom(gw, ssdpPort).String()) // sends nothing
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	return ap.Addr().String(), err
}
