//go:build linux

// Package netlab builds homes out of network namespaces for tests and benches: a WAN namespace where the operator's
// servers run, and any number of homes, each with a router (NAT), a bridge and some boxes, behind an access line
// whose rate, delay, queue and loss are set, and which counts every byte that crosses it.
//
//	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{{Boxes: 4, Line: netlab.LineConfig{Down: 50e6, Up: 10e6}}}})
//	ln, err := lab.WAN.Listen("tcp", netip.AddrPortFrom(lab.FleetIP, 8443).String())
//	err = lab.Homes[0].Boxes[2].Command(ctx, "boxd", "run").Run()
//	copies := float64(lab.Homes[0].Line.Counters().Down.Bytes) / float64(assetBytes)
//
// Invariants: needs root and Linux; nothing leaves the namespaces; namespaces carry the pid of their maker, and those
// of dead makers are removed by the next lab, so a crashed test leaves nothing behind for long; labs of several
// processes, or several in one, do not meet; children die with the test process.
package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
)

// Config says what to build.
type Config struct {
	Homes []HomeConfig
}

// HomeConfig is one home. Every home behind NAT has the same 192.168.1.0/24, as homes do.
type HomeConfig struct {
	Boxes int
	Line  LineConfig
	Open  bool        // no NAT: the home has 10.<index>.0.0/24 and its boxes can be reached from the WAN
	IPv6  bool        // boxes also get fd00:<index>::/64 addresses (in the home only)
	Net6  bool        // the home has a public prefix of IPv6, see six.go
	Wifi  bool        // boxes get a second interface on the same LAN, 192.168.1.<100+n>
	Maps  PortMapping // the router behind NAT opens ports when a box asks it
}

// Lab is a WAN and its homes.
type Lab struct {
	WAN     *NS
	FleetIP netip.Addr // an address of the WAN namespace that every home reaches: serve here
	// FleetIP6 is another one, for homes with Net6.
	FleetIP6 netip.Addr
	Homes    []*Home

	prefix string
	all    []*NS
	ends   []func() // of daemons
	dirs   []string // of theirs
}

// Home is a router and its boxes.
type Home struct {
	Router *NS
	Boxes  []*Box
	Line   *Line

	index int
	mtu   int
}

// Box is a network namespace with one address in the home.
type Box struct {
	*NS
	IP   netip.Addr
	IP6  netip.Addr // zero without HomeConfig.IPv6 or Net6
	port string     // the bridge's end of its cable, in the router's namespace
	home *Home
}

var labs atomic.Int32

// ErrUnprivileged says that namespaces cannot be made here.
var ErrUnprivileged = errors.New("network namespaces need root")

// Start builds a lab for a test and takes it down with it. The test is skipped with -short and without root; `make
// test` insists on root and sets BOXD_REQUIRE, so that nothing is skipped silently there.
func Start(t testing.TB, cfg Config) *Lab {
	t.Helper()
	if testing.Short() {
		t.Skip("network namespaces are not for -short")
	}
	lab, err := New(cfg)
	if errors.Is(err, ErrUnprivileged) && os.Getenv("BOXD_REQUIRE") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// New builds a lab; Close it.
func New(cfg Config) (_ *Lab, err error) {
	if os.Getuid() != 0 {
		return nil, ErrUnprivileged
	}
	sweep()
	lab := &Lab{
		prefix:  fmt.Sprintf("nl%d-%d-", os.Getpid(), labs.Add(1)),
		FleetIP: netip.AddrFrom4([4]byte{198, 18, 0, 1}), FleetIP6: netip.MustParseAddr("2001:db8:ffff::1"),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.Close())
		}
	}()
	if lab.WAN, err = lab.newNS("wan"); err != nil {
		return nil, err
	}
	if err = lab.WAN.IP(fmt.Sprintf("addr add %s/32 dev lo", lab.FleetIP)); err != nil {
		return nil, err
	}
	if err = lab.WAN.sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return nil, err
	}
	for i, hc := range cfg.Homes {
		home, err := lab.newHome(i, hc)
		if err != nil {
			return nil, fmt.Errorf("home %d: %w", i, err)
		}
		lab.Homes = append(lab.Homes, home)
	}
	return lab, nil
}

// Close stops the access lines and removes the namespaces with everything in them. Processes that a caller started
// are the caller's to end; what still runs is killed.
func (lab *Lab) Close() error {
	var errs []error
	for _, h := range lab.Homes {
		if h.Line != nil {
			h.Line.close()
		}
	}
	for _, end := range lab.ends {
		end()
	}
	for _, dir := range lab.dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	lab.ends, lab.dirs = nil, nil
	for _, n := range lab.all {
		errs = append(errs, n.close())
	}
	lab.all = nil
	return errors.Join(errs...)
}

func (lab *Lab) newHome(index int, hc HomeConfig) (*Home, error) {
	h := &Home{index: index}
	var err error
	if h.Router, err = lab.newNS(fmt.Sprintf("h%dr", index)); err != nil {
		return nil, err
	}
	wan := fmt.Sprintf("home%d", index)
	if h.Line, err = newLine(lab.WAN, wan, h.Router, "wan", hc.Line); err != nil {
		return nil, err
	}
	lan := netip.AddrFrom4([4]byte{192, 168, 1, 0})
	if hc.Open {
		lan = netip.AddrFrom4([4]byte{10, byte(index), 0, 0})
	}
	up, down := fmt.Sprintf("100.64.%d.1", index), fmt.Sprintf("100.64.%d.2", index)
	if h.mtu = hc.Line.MTU; h.mtu == 0 {
		h.mtu = usualMTU
	}
	steps := []error{
		lab.WAN.IP(fmt.Sprintf("addr add %s/30 dev %s", up, wan), fmt.Sprintf("link set %s up mtu %d", wan, h.mtu)),
		h.Router.IP("addr add "+down+"/30 dev wan", fmt.Sprintf("link set wan up mtu %d", h.mtu), "route add default via "+up,
			"link add br0 type bridge mcast_snooping 0", fmt.Sprintf("addr add %s/24 dev br0", last(lan, 1)),
			fmt.Sprintf("link set br0 up mtu %d", h.mtu)),
		h.Router.sysctl("net/ipv4/ip_forward", "1"),
	}
	switch {
	case hc.Open:
		steps = append(steps, lab.WAN.IP(fmt.Sprintf("route add %s/24 via %s", lan, down)))
	case hc.Maps != "":
		steps = append(steps, h.Router.Nft(mappedRules), lab.mapPorts(h, hc.Maps))
	default:
		steps = append(steps, h.Router.Nft(natRules))
	}
	if hc.Net6 {
		steps = append(steps, lab.net6(h, wan, !hc.Open && hc.Maps == ""))
	}
	if err := errors.Join(steps...); err != nil {
		return nil, err
	}
	for n := range hc.Boxes {
		box, err := lab.newBox(h, hc, lan, n)
		if err != nil {
			return nil, fmt.Errorf("box %d: %w", n, err)
		}
		h.Boxes = append(h.Boxes, box)
	}
	return h, nil
}

// natRules make a router as homes have them: out is masqueraded, in is only what was asked for.
const natRules = `table ip home {
	chain masq { type nat hook postrouting priority 100; oifname "wan" masquerade; }
	chain forward {
		type filter hook forward priority 0
		iifname "wan" ct state established,related accept
		iifname "wan" drop
	}
}`

func (lab *Lab) newBox(h *Home, hc HomeConfig, lan netip.Addr, n int) (*Box, error) {
	ns, err := lab.newNS(fmt.Sprintf("h%db%d", h.index, n))
	if err != nil {
		return nil, err
	}
	b := &Box{NS: ns, IP: last(lan, 11+n), port: fmt.Sprintf("p%d", n), home: h}
	if err := b.wire(b.port, "eth0", fmt.Sprintf("%s/24", b.IP)); err != nil {
		return nil, err
	}
	if err := b.NS.IP("route add default via " + last(lan, 1).String()); err != nil {
		return nil, err
	}
	// As systemd sets it: boxd measures the line's delay by ping, without any privilege.
	if err := b.NS.sysctl("net/ipv4/ping_group_range", "0 2147483647"); err != nil {
		return nil, err
	}
	if hc.IPv6 {
		b.IP6 = netip.MustParseAddr(fmt.Sprintf("fd00:%x::%x", h.index+1, 11+n))
		if err := b.NS.IP(fmt.Sprintf("addr add %s/64 dev eth0 nodad", b.IP6)); err != nil {
			return nil, err
		}
	}
	if hc.Net6 {
		if err := b.net6(11 + n); err != nil {
			return nil, err
		}
	}
	if hc.Wifi {
		err = b.wire(fmt.Sprintf("w%d", n), "wlan0", fmt.Sprintf("%s/24", last(lan, 101+n)))
	}
	return b, err
}

// wire lays a cable from the bridge to the box.
func (b *Box) wire(port, dev, addr string) error {
	router := b.home.Router
	return errors.Join(
		router.IP(fmt.Sprintf("link add %s type veth peer name %s netns %s", port, dev, b.NS.Name),
			fmt.Sprintf("link set %s master br0 up mtu %d", port, b.home.mtu)),
		b.NS.IP(fmt.Sprintf("addr add %s dev %s", addr, dev), fmt.Sprintf("link set %s up mtu %d", dev, b.home.mtu)))
}

// Line is the access line of the box's home.
func (b *Box) Line() *Line { return b.home.Line }

// Unplug pulls the box's cable: the other end sees no carrier and no packet any more.
func (b *Box) Unplug() error { return b.home.Router.IP("link set " + b.port + " down") }

// Plug puts the cable back.
func (b *Box) Plug() error { return b.home.Router.IP("link set " + b.port + " up") }

// MulticastLoss drops this share (0 to 100) of the multicast packets that arrive at the box.
func (b *Box) MulticastLoss(percent int) error {
	rules := "table inet mcast\ndelete table inet mcast\n"
	if percent > 0 {
		rules += fmt.Sprintf(`table inet mcast { chain arrive { type filter hook input priority 0;
	ip daddr 224.0.0.0/4 numgen random mod 100 <= %[1]d drop
	ip6 daddr ff02::fb numgen random mod 100 <= %[1]d drop
}
}`, percent-1)
	}
	return b.NS.Nft(rules)
}

// LimitWAN polices what the box gets from the WAN to this many bytes a second (0 lifts it): a box on a bad radio link.
func (b *Box) LimitWAN(bytesPerSecond int64) error {
	name := "slow" + b.port
	rule := fmt.Sprintf("table ip %[1]s\ndelete table ip %[1]s\n", name)
	if bytesPerSecond > 0 {
		rule += fmt.Sprintf(`table ip %s { chain forward { type filter hook forward priority 1;
	iifname "wan" ip daddr %s limit rate over %d bytes/second burst 30000 bytes drop
}
}`, name, b.IP, bytesPerSecond)
	}
	return b.home.Router.Nft(rule)
}

// Partition stops all traffic between the first n boxes and the others; everybody still reaches the router. It heals
// with n 0.
func (h *Home) Partition(n int) error {
	rules := "table bridge split\ndelete table bridge split\n"
	if n > 0 {
		var a, b string
		for i, box := range h.Boxes {
			if i < n {
				a += box.port + ","
			} else {
				b += box.port + ","
			}
		}
		rules += fmt.Sprintf(`table bridge split { chain forward { type filter hook forward priority 0;
	iifname {%[1]s} oifname {%[2]s} drop
	iifname {%[2]s} oifname {%[1]s} drop
}
}`, a, b)
	}
	return h.Router.Nft(rules)
}

// last is the address with this last byte.
func last(a netip.Addr, b int) netip.Addr {
	four := a.As4()
	four[3] = byte(b)
	return netip.AddrFrom4(four)
}
