//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"net/netip"
)

// A home with a public prefix of IPv6: 2001:db8:<index+1>::/64, whose router is fe80::1 for its boxes, as a router that
// advertises itself is. Nothing is translated; unless the home is open, the router lets in only what belongs to connections
// from inside, and what a box asked it to by PCP (Maps).

const firewall6 = `table ip6 home6 {
	chain forward {
		type filter hook forward priority 0
		iifname "wan" ct state established,related accept
		iifname "wan" meta l4proto ipv6-icmp accept
		iifname "wan" drop
	}
}`

// addr6 is an address of the home's prefix.
func (h *Home) addr6(host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%x", h.index+1, host))
}

// net6 gives the home its prefix.
func (lab *Lab) net6(h *Home, wan string, firewall bool) error {
	link := fmt.Sprintf("2001:db8:fffe:%x::", h.index)
	steps := []error{
		lab.WAN.IP(fmt.Sprintf("addr replace %s/128 dev lo nodad", lab.FleetIP6), fmt.Sprintf("addr add %s1/64 dev %s nodad", link, wan),
			fmt.Sprintf("route add %s/64 via %s2", h.addr6(0), link)),
		lab.WAN.sysctl("net/ipv6/conf/all/forwarding", "1"),
		h.Router.IP(fmt.Sprintf("addr add %s2/64 dev wan nodad", link), fmt.Sprintf("route add default via %s1", link),
			fmt.Sprintf("addr add %s/64 dev br0 nodad", h.addr6(1)), "addr add fe80::1/64 dev br0 nodad"),
		h.Router.sysctl("net/ipv6/conf/all/forwarding", "1"),
	}
	if firewall {
		steps = append(steps, h.Router.Nft(firewall6))
	}
	return errors.Join(steps...)
}

// net6 gives the box its public address.
func (b *Box) net6(host int) error {
	b.IP6 = b.home.addr6(host)
	return b.NS.IP(fmt.Sprintf("addr add %s/64 dev eth0 nodad", b.IP6), "route add default via fe80::1 dev eth0")
}
