package control

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// mdnsGroup is the multicast group of mDNS (RFC 6762, section 3).
var mdnsGroup = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}

// cgnat is the address space of carrier-grade NAT (RFC 6598).
var cgnat = netip.MustParsePrefix("100.64.0.0/10")

// multicast joins the mDNS group on each interface that boxd would use.
func (d Doctor) multicast(context.Context) []Check {
	if !d.MDNS {
		if len(d.Static) == 0 {
			return bad("multicast", CheckWarn, "Set [lan] mdns = true, or name the neighbours in [lan] static.",
				"mDNS is off and no neighbours are named: this box finds no other box of the home.")
		}
		return ok("multicast", "mDNS is off; %d neighbours are named in the configuration.", len(d.Static))
	}
	nics, err := net.Interfaces()
	if err != nil {
		return bad("multicast", CheckFailed, "", "The network interfaces cannot be listed: %v", err)
	}
	var good, faults []string
	for _, nic := range nics {
		wanted := len(d.Interfaces) == 0 || slices.Contains(d.Interfaces, nic.Name)
		const flags = net.FlagUp | net.FlagMulticast
		if !wanted || nic.Flags&flags != flags || nic.Flags&net.FlagLoopback != 0 {
			continue
		}
		c, err := net.ListenMulticastUDP("udp4", &nic, mdnsGroup)
		if err != nil {
			faults = append(faults, nic.Name+": "+err.Error())
			continue
		}
		_ = c.Close() // nothing was sent
		good = append(good, nic.Name)
	}
	switch {
	case len(good) == 0 && len(faults) == 0:
		return bad("multicast", CheckWarn,
			"Connect the box to the home's network, or name the neighbours in [lan] static.",
			"No network interface is up that can multicast; boxes of the home are not found by themselves.")
	case len(good) == 0:
		return bad("multicast", CheckFailed, "Name the neighbours in [lan] static, or mend the network.",
			"The mDNS group cannot be joined: %s", strings.Join(faults, "; "))
	}
	text := "mDNS works on " + strings.Join(good, ", ") + "."
	if d.Live != nil && len(d.Live().Home) == 0 {
		return bad("multicast", CheckWarn,
			"If there are others: check that the Wi-Fi does not isolate clients and that switches forward multicast.",
			"%s No other box of the home has been found.", text)
	}
	return ok("multicast", "%s", text)
}

// PortMapping is how boxes of other homes reach this one through the home's router.
type PortMapping struct {
	Protocol string     // NAT-PMP or UPnP; empty: nothing is mapped
	External int        // port; 0: nothing is mapped
	Address  netip.Addr // of the router, outside; zero: not known
	Behind   bool       // that router is behind another one
	Err      error      // why nothing is mapped; nil before the first attempt
}

// nat looks at the address that the box would use towards the fleet.
func (d Doctor) nat(ctx context.Context) []Check {
	u, err := url.Parse(d.Fleet)
	if err != nil || u.Hostname() == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), "443")) // sends nothing
	if err != nil {
		return bad("nat", CheckFailed, "Check the cable or Wi-Fi and the router.", "There is no way to %s: %v",
			u.Hostname(), err)
	}
	defer conn.Close() // nothing was sent
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return nil
	}
	return d.reachable(local.Addr().Unmap())
}

// reachable says whether boxes of other homes can connect to one that has this address.
func (d Doctor) reachable(a netip.Addr) []Check {
	const dials = "this box dials others, they cannot dial it"
	switch {
	case a.IsLoopback():
		return ok("nat", "The fleet manager is on this machine.")
	case cgnat.Contains(a):
		return bad("nat", CheckWarn, "Nothing is broken. If other homes should get more from here: ask the provider for "+
			"a public address.", "%s is behind the provider's NAT: %s.", a, dials)
	case a.Is6() && !a.IsPrivate() && !a.IsLinkLocalUnicast():
		return d.pinhole(a)
	case !a.IsPrivate() && !a.IsLinkLocalUnicast():
		return ok("nat", "%s is a public address: other boxes can dial this one.", a)
	case d.Ports == nil:
		return ok("nat", "%s is behind the home's router, which is not asked to forward a port: %s.", a, dials)
	}
	switch m := d.Ports(); {
	case m.External > 0 && m.Behind:
		return bad("nat", CheckWarn, "Nothing is broken. If other homes should get more from here: ask the provider for "+
			"a public address, or put the router in front into bridge mode.",
			"The router forwards port %d (%s), but is itself behind another NAT (%s): %s.", m.External, m.Protocol, m.Address,
			dials)
	case m.External > 0:
		return ok("nat", "%s is behind the home's router, which forwards port %d (%s): other boxes can dial this one.", a,
			m.External, m.Protocol)
	case m.Err != nil:
		return bad("nat", CheckWarn, "Switch on UPnP or NAT-PMP on the router, or forward the swarm's TCP port to this box "+
			"there. Without it the box works, and gives other homes less.",
			"%s is behind the home's router, which forwards no port (%v): %s.", a, m.Err, dials)
	}
	return ok("nat", "%s is behind the home's router, which has not been asked to forward a port: there was no need yet.", a)
}

// pinhole says whether the router's firewall lets others in to a public IPv6 address.
func (d Doctor) pinhole(a netip.Addr) []Check {
	const maybe = "other boxes can dial this one if the router's firewall lets them in"
	if d.Ports6 == nil {
		return ok("nat", "%s is a public address: %s.", a, maybe)
	}
	switch m := d.Ports6(); {
	case m.External > 0:
		return ok("nat", "%s is a public address, and the router lets others in at port %d (%s).", a, m.External, m.Protocol)
	case m.Err != nil:
		return ok("nat", "%s is a public address. The router opens no port on request (%v): %s.", a, m.Err, maybe)
	}
	return ok("nat", "%s is a public address; the router has not been asked to let others in: there was no need yet.", a)
}
