package lan

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/grandcat/zeroconf"
)

const (
	service = "_boxd._tcp"
	domain  = "local."
	// floodLimit ends a browse that brings more answers than a home has boxes many times over: zeroconf remembers
	// every name that it has told, for as long as the browse lasts.
	floodLimit = 4 * MaxNeighbours
	floodPause = 10 * time.Second
	browseMin  = 30 * time.Second
	browseSpan = 30 * time.Second
)

// firstBrowses are short, so that a lost packet at the start costs little: a fresh resolver asks twice.
var firstBrowses = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 10 * time.Second}

// multicastDNS is the discoverer of real networks. zeroconf freezes its interfaces, never tells of changes and goes
// quiet after a while: the caller runs this anew for each change, and here each browse is a fresh resolver.
func multicastDNS(ctx context.Context, ad advert, nics []nic, found func(hint)) error {
	var ifaces []net.Interface
	var ips []string
	var v6 []nic
	for _, n := range nics {
		ifaces = append(ifaces, n.Interface)
		for _, p := range n.addrs {
			ips = append(ips, p.Addr().WithZone("").String())
		}
		if slices.ContainsFunc(n.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
			v6 = append(v6, n)
		}
	}
	txt := []string{
		fmt.Sprintf("v=%d", protocolVersion), "f=" + ad.fleetHash, fmt.Sprintf("p=%d", ad.port), "g=" + ad.nonce,
	}
	server, err := zeroconf.RegisterProxy(ad.id, service, domain, ad.port, ad.id, ips, txt, ifaces)
	if err != nil {
		return fmt.Errorf("advertise by mDNS: %w", err)
	}
	defer server.Shutdown()
	traffic := zeroconf.IPv4AndIPv6
	if len(v6) == 0 {
		traffic = zeroconf.IPv4
	}
	for i := 0; ctx.Err() == nil; i++ {
		length := browseMin + rand.N(browseSpan)
		if i < len(firstBrowses) {
			length = firstBrowses[i]
		}
		flood, err := browse(ctx, length, ifaces, zeroconf.IPType(traffic), v6, found)
		if err != nil {
			return fmt.Errorf("browse by mDNS: %w", err)
		}
		if flood {
			select {
			case <-ctx.Done():
			case <-time.After(floodPause):
			}
		}
	}
	return nil
}

// browse asks once, and takes what comes for some time.
func browse(ctx context.Context, length time.Duration, ifaces []net.Interface, traffic zeroconf.IPType, v6 []nic,
	found func(hint),
) (flood bool, err error) {
	resolver, err := zeroconf.NewResolver(zeroconf.SelectIfaces(ifaces), zeroconf.SelectIPTraffic(traffic))
	if err != nil && traffic != zeroconf.IPv4 {
		resolver, err = zeroconf.NewResolver(zeroconf.SelectIfaces(ifaces), zeroconf.SelectIPTraffic(zeroconf.IPv4))
	}
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	entries := make(chan *zeroconf.ServiceEntry, 16)
	// Whatever Browse returns, its loop has started: the channel is drained until the loop closes it.
	err = resolver.Browse(ctx, service, domain, entries)
	n := 0
	for e := range entries {
		if n++; n <= floodLimit {
			found(hintOf(e, v6))
		} else if !flood {
			flood = true
			cancel()
		}
	}
	return flood, err
}

func hintOf(e *zeroconf.ServiceEntry, v6 []nic) hint {
	h := hint{id: e.Instance, port: e.Port}
	for _, t := range e.Text {
		if v, ok := strings.CutPrefix(t, "f="); ok {
			h.fleetHash = v
		}
	}
	for _, ip := range append(slices.Clone(e.AddrIPv4), e.AddrIPv6...) {
		a, ok := netip.AddrFromSlice(ip)
		if !ok || len(h.addrs) >= maxHintAddrs {
			continue
		}
		a = a.Unmap()
		if !a.Is6() || !a.IsLinkLocalUnicast() {
			h.addrs = append(h.addrs, a)
			continue
		}
		for _, n := range v6 { // mDNS does not say on which link a link-local address is
			h.addrs = append(h.addrs, a.WithZone(n.Name))
		}
	}
	return h
}
