//go:build linux

package lan

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"boxd/internal/netlab"
)

var mdnsGroup = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}

// overhear gives every mDNS packet on a home's bridge, but for those sent by what it returns, to heard until the test ends.
func overhear(t *testing.T, home *netlab.Home, heard func(packet []byte)) (c *net.UDPConn) {
	t.Helper()
	err := home.Router.Do(func() error {
		br, err := net.InterfaceByName("br0")
		if err == nil {
			c, err = net.ListenMulticastUDP("udp4", br, mdnsGroup)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 9000)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			heard(buf[:n])
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	return c
}

// TestNSGoodbyeIsSaid: who ends in order takes its announcement back, for whoever else browses.
func TestNSGoodbyeIsSaid(t *testing.T) {
	home, boxes := startHome(t, netlab.HomeConfig{Boxes: 2}, nil)
	said := make(chan struct{}, 1)
	overhear(t, home, func(packet []byte) {
		var m dns.Msg
		if m.Unpack(packet) != nil {
			return
		}
		for _, rr := range m.Answer {
			if ptr, ok := rr.(*dns.PTR); ok && ptr.Hdr.Ttl == 0 && strings.HasPrefix(ptr.Ptr, "box-1.") {
				select {
				case said <- struct{}{}:
				default:
				}
			}
		}
	})
	if err := boxes[1].cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	took := until(t, "the neighbour is gone", func() bool { return boxes[0].sees() }, boxes[0])
	t.Logf("gone for its neighbour after %v", took)
	select {
	case <-said:
	case <-time.After(patience):
		t.Error("the announcement was not taken back")
	}
}

// TestNSReflector: the routers of two homes that reach each other carry mDNS from one to the other, as reflectors do. The
// boxes hear of each other and have nothing to do with each other.
func TestNSReflector(t *testing.T) {
	t.Parallel()
	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{{Boxes: 2, Open: true}, {Boxes: 2, Open: true}}})
	var mu sync.Mutex
	var mouths [2]*net.UDPConn
	carried := [2]int{}
	for i, home := range lab.Homes {
		c := overhear(t, home, func(packet []byte) {
			mu.Lock()
			defer mu.Unlock()
			if mouths[1-i] == nil {
				return
			}
			if _, err := mouths[1-i].WriteTo(packet, mdnsGroup); err == nil {
				carried[i]++
			}
		})
		mu.Lock()
		mouths[i] = c
		mu.Unlock()
	}
	ca := newCA(t, "acme")
	var boxes []*nsBox
	for _, home := range lab.Homes {
		for _, b := range home.Boxes {
			boxes = append(boxes, startNSBox(t, b.NS, ca.box(t, "box-"+b.IP.String())))
		}
	}
	until(t, "each home sees itself, and hears of the other", func() bool {
		for i, b := range boxes {
			v, _ := b.look()
			if !b.sees(boxes[i^1].id) || v.Stats.HintsIgnored == 0 {
				return false
			}
		}
		return true
	}, boxes...)
	mu.Lock()
	defer mu.Unlock()
	if carried[0] == 0 || carried[1] == 0 {
		t.Errorf("the reflector carried %v packets: the test shows nothing", carried)
	}
}

// TestNSStaticList: a network that carries no multicast at all; the configuration names the neighbours.
func TestNSStaticList(t *testing.T) {
	t.Parallel()
	home := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{{Boxes: 3}}}).Homes[0]
	var static []string
	for _, b := range home.Boxes {
		if err := b.MulticastLoss(100); err != nil {
			t.Fatal(err)
		}
		static = append(static, netip.AddrPortFrom(b.IP, simPort).String())
	}
	ca := newCA(t, "acme")
	var boxes []*nsBox
	for _, b := range home.Boxes {
		boxes = append(boxes, startNSBox(t, b.NS, ca.box(t, "box-"+b.IP.String()), static...))
	}
	took := until(t, "all see all", func() bool { return allSeeAll(boxes) }, boxes...)
	t.Logf("3 boxes see each other after %v", took)
}
