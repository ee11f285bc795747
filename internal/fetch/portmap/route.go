package portmap

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// defaultGateway reads the IPv4 default route from the kernel.
func defaultGateway() (netip.Addr, error) {
	b, err := os.ReadFile(fromFile)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("default route: %w", err)
	}
	return parseRoutes(string(b))
}

// parseRoutes finds the gateway of the default route in the format of /proc/net/route.
func parseRoutes(table string) (netip.Addr, error) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "00000000" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		if err != nil || len(b) != net.IPv4len {
			continue
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
		if gw := netip.AddrFrom4(a); !gw.IsUnspecified() {
			return gw, nil
		}
	}
	return netip.Addr{}, errors.New("there is no default route")
}

// defaultGateway6 reads the IPv6 default route from the kernel: most often an address of the link, which has a zone.
func defaultGateway6() (netip.Addr, error) {
	b, err := os.ReadFile(from6)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("default route: %w", err)
	}
	return parseRoutes6(string(b))
}

// parseRoutes6 finds the gateway of the default route with the least metric in the format of /proc/net/ipv6_route.
func parseRoutes6(table string) (best netip.Addr, err error) {
	var least uint64
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || f[1] != "00" || strings.Trim(f[0], "0") != "" || f[9] == "lo" {
			continue
		}
		b, err := hex.DecodeString(f[4])
		if err != nil || len(b) != net.IPv6len {
			continue
		}
		gw := netip.AddrFrom16([16]byte(b))
		m, err := hex.DecodeString(f[5])
		if err != nil || len(m) != 4 || gw.IsUnspecified() {
			continue
		}
		if gw.IsLinkLocalUnicast() {
			gw = gw.WithZone(f[9])
		}
		if metric := uint64(binary.BigEndian.Uint32(m)); !best.IsValid() || metric < least {
			best, least = gw, metric
		}
	}
	if !best.IsValid() {
		return best, errors.New("there is no default route")
	}
	return best, nil
}

// public6 is the public IPv6 address by which this box talks to others; the zero Addr when it has none.
func public6() netip.Addr {
	c, err := net.Dial("udp6", "[2000::1]:9") // sends nothing: the kernel chooses the address
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = c.Close() }()
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	if a := ap.Addr(); err == nil && a.IsGlobalUnicast() && !a.IsPrivate() {
		return a
	}
	return netip.Addr{}
}
