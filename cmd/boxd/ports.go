package main

import (
	"context"
	"net"
	"net/netip"
	"net/url"

	"boxd/internal/config"
	"boxd/internal/control"
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
	return nil
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
	u, err := url.Parse(d.url(d.cfg.Fleet.Tracker, "/announce"))
	if err != nil || !d.id.Enrolled() {
		return false
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		addrs = append(addrs, a)
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname()); err != nil {
		return false
	}
	for _, a := range addrs {
		if a = a.Unmap(); !a.IsLoopback() && !d.lan.IsLAN(a) {
			return true
		}
	}
	return false
}

// externalPort is by which port boxes of other homes can connect.
func (d *daemon) externalPort() int {
	if d.ports == nil {
		return d.swarmPort()
	}
	return d.ports.External()
}

// portMapping is what the doctor asks about the router; nil when it is not asked for anything.
func (d *daemon) portMapping() func() control.PortMapping {
	if d.ports == nil {
		return nil
	}
	return func() control.PortMapping {
		m := d.ports.Mapping()
		return control.PortMapping{
			Protocol: m.Protocol, External: m.External, Address: m.Address, Behind: m.Behind(), Err: m.Err,
		}
	}
}
