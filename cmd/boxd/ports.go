package main

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"boxd/internal/config"
	"boxd/internal/control"
	"boxd/internal/fetch"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/portmap"
	"boxd/internal/health"
	"boxd/internal/identity"
)

// openMux shares the swarm's port between the swarm and household talk; of a test fleet without transport security,
// unsecured connections too.
func (d *daemon) openMux() {
	l := engine.Wires(d.swarm)
	if d.cfg.Swarm.Insecure {
		d.split = engine.NewSplit(l)
		l = d.split.TLS()
		d.health.Raise(health.Warning{
			Code: "swarm-insecure", Severity: health.Critical,
			Text:   "Transport security is off: media are exchanged unencrypted, with anybody who connects.",
			Action: "Take swarm.insecure out of the configuration, unless this box is on a bench.",
		})
	}
	d.mux = d.id.NewMux(l)
}

// swarmListener is where the engine gets its connections, and its identity; nil when there is no transport security.
func (d *daemon) swarmListener() (net.Listener, *identity.Identity) {
	if d.split != nil {
		return d.split.Plain(), nil
	}
	return d.mux.Listener(identity.ALPNSwarm), d.id
}

// openPorts prepares the mapping of the swarm's port on the home's router, if boxes of other homes may connect at all.
func (d *daemon) openPorts(context.Context) error {
	a, err := netip.ParseAddrPort(d.swarm.Addr().String())
	if err != nil || a.Addr().IsLoopback() || !letsIn(d.cfg) {
		return nil //nolint:nilerr // an address that is no IP's has no port to map
	}
	d.ports = &portmap.Mapper{
		Port: d.swarmPort(), Name: d.id.BoxID(), Needed: d.trackerIsOutside, Log: d.named("portmap"),
	}
	if _, six := families(d.trackerHost()); six && a.Addr().Is6() {
		d.ports6 = &portmap.Mapper{Port: d.swarmPort(), IPv6: true, Needed: d.trackerIsOutside, Log: d.named("portmap6")}
	}
	return nil
}

// families says over which families of addresses a host may be reached, as far as its name tells.
func families(host string) (four, six bool) {
	a, err := netip.ParseAddr(host)
	return err != nil || a.Unmap().Is4(), err != nil || a.Unmap().Is6()
}

func (d *daemon) trackerURL() string { return d.url(d.cfg.Fleet.Tracker, "/announce") }

func (d *daemon) trackerHost() string {
	u, err := url.Parse(d.trackerURL())
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// announceOver sets how the box announces: a tracker with a name over both families, so that it learns both addresses of the
// box; one with an address over that one's.
func (d *daemon) announceOver(o *fetch.Options) {
	o.ExternalPort, o.ExternalPort6 = external(d.ports, d.swarmPort()), external(d.ports6, d.swarmPort())
	four, six := families(d.trackerHost())
	switch {
	case four && six:
		o.Tracker, o.Tracker6 = d.trackerClient("tcp4"), d.trackerClient("tcp6")
	case six:
		o.Tracker, o.ExternalPort = d.trackerClient("tcp6"), o.ExternalPort6
	default:
		o.Tracker = d.trackerClient("tcp4")
	}
}

// trackerClient announces over one family.
func (d *daemon) trackerClient(network string) *http.Client {
	dialer := net.Dialer{Timeout: trackerDial, KeepAlive: trackerTimeout}
	c := d.id.HTTPClient(trackerTimeout)
	c.Transport = d.id.Transport(&http.Transport{
		TLSHandshakeTimeout: trackerDial, ForceAttemptHTTP2: true, ResponseHeaderTimeout: trackerTimeout, IdleConnTimeout: time.Minute,
		MaxIdleConns: 2, MaxConnsPerHost: 4, MaxResponseHeaderBytes: 16 << 10,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
	})
	return c
}

// letsIn says that boxes of other homes may connect: never to a box without transport security, which would let in anybody.
func letsIn(c *config.Config) bool {
	return c.Swarm.PortMapping && !c.Swarm.Insecure && !sendsNothing(c)
}

// sendsNothing says that the configuration lets nothing go to other homes.
func sendsNothing(c *config.Config) bool {
	return c.Limits.WANUp.Set && c.Limits.WANUp.Value == 0 || c.Limits.UploadRatio == 0 || c.Limits.UploadSlots == 0
}

// trackerIsOutside says that the tracker is behind the access line: else there are no boxes of other homes to let in.
func (d *daemon) trackerIsOutside(ctx context.Context) bool {
	host := d.trackerHost()
	if host == "" || !d.id.Enrolled() {
		return false
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return false
	}
	for _, a := range addrs {
		if a = a.Unmap(); !a.IsLoopback() && !d.lan.IsLAN(a) {
			return true
		}
	}
	return false
}

// external is by which port boxes of other homes can connect.
func external(m *portmap.Mapper, port int) func() int {
	if m == nil {
		return func() int { return port }
	}
	return m.External
}

// portMapping is what the doctor asks about the router; nil when it is not asked for anything.
func portMapping(mapper *portmap.Mapper) func() control.PortMapping {
	if mapper == nil {
		return nil
	}
	return func() control.PortMapping {
		m := mapper.Mapping()
		return control.PortMapping{
			Protocol: m.Protocol, External: m.External, Address: m.Address, Behind: m.Behind(), Err: m.Err,
		}
	}
}
