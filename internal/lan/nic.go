package lan

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// nic is an interface of this machine that leads into the home.
type nic struct {
	net.Interface
	addrs []netip.Prefix
	radio bool
}

// systemNICs returns the interfaces that are up, have a carrier and an address and can multicast, or those of the
// given names that are up and have an address.
func systemNICs(names []string) ([]nic, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var list []nic
	for _, ifi := range all {
		const up = net.FlagUp | net.FlagRunning
		if ifi.Flags&up != up || len(names) > 0 && !slices.Contains(names, ifi.Name) {
			continue
		}
		usual := ifi.Flags&net.FlagMulticast != 0 && ifi.Flags&(net.FlagLoopback|net.FlagPointToPoint) == 0
		if len(names) == 0 && !usual {
			continue
		}
		n := nic{Interface: ifi, radio: isRadio(sysNet, ifi.Name)}
		addrs, err := ifi.Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				n.addrs = append(n.addrs, p)
			}
		}
		if len(n.addrs) > 0 {
			list = append(list, n)
		}
	}
	return list, nil
}

// sysNet is where Linux describes its interfaces.
const sysNet = "/sys/class/net"

// isRadio reports whether an interface is Wi-Fi, as Linux tells it.
func isRadio(dir, name string) bool {
	for _, mark := range []string{"wireless", "phy80211"} {
		if _, err := os.Stat(filepath.Join(dir, name, mark)); err == nil {
			return true
		}
	}
	return false
}

// readNICs learns what is on-link and reports whether that changed; the caller holds the mutex.
func (l *LAN) readNICs() bool {
	nics, err := l.opt.nics()
	if err != nil {
		l.log.Warn("read the interfaces", "err", err)
		return false
	}
	var onlink []netip.Prefix
	own := map[netip.Addr]bool{}
	for _, n := range nics {
		for _, p := range n.addrs {
			own[p.Addr().Unmap()] = true
			if private(p.Addr()) && !slices.Contains(onlink, p.Masked()) {
				onlink = append(onlink, p.Masked())
			}
		}
	}
	changed := !slices.Equal(onlink, l.onlink) || len(own) != len(l.own)
	for a := range own {
		changed = changed || !l.own[a]
	}
	l.onlink, l.own = onlink, own
	l.radio = len(nics) > 0 && !slices.ContainsFunc(nics, func(n nic) bool { return !n.radio })
	return changed
}

// private reports whether an on-link prefix with this address is a home. A public IPv4 network on the link is not:
// it is the provider's, and the neighbours there are other people. IPv6 networks are given to one home each.
func private(a netip.Addr) bool {
	a = a.Unmap()
	return !a.Is4() || a.IsPrivate() || a.IsLinkLocalUnicast()
}

func (l *LAN) isLAN(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast():
		return false
	case a.IsLoopback() || l.own[a]:
		return true
	case a.Is6() && a.IsLinkLocalUnicast():
		return len(l.onlink) > 0
	}
	contains := func(p netip.Prefix) bool { return p.Contains(a) }
	return slices.ContainsFunc(l.onlink, contains) || slices.ContainsFunc(l.opt.Prefixes, contains)
}
