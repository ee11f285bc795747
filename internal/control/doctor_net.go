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
	switch a := local.Addr().Unmap(); {
	case a.IsLoopback():
		return ok("nat", "The fleet manager is on this machine.")
	case cgnat.Contains(a):
		return ok("nat", "%s is behind the provider's NAT: this box dials others, others cannot dial it.", a)
	case a.IsPrivate() || a.IsLinkLocalUnicast():
		return ok("nat",
			"%s is behind the home's router: this box dials others; others can dial it when "+
				"the router forwards the swarm port.", a)
	default:
		return ok("nat", "%s is a public address: other boxes can dial this one.", a)
	}
}
