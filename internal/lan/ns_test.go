//go:build linux

package lan

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"boxd/internal/asset"
	"boxd/internal/netlab"
)

func ecKey(i *testIdentity) *ecdsa.PrivateKey { return i.cert.PrivateKey.(*ecdsa.PrivateKey) }

// startHome runs a box in each namespace of the first home and waits until all see all.
func startHome(t *testing.T, cfg netlab.HomeConfig, prepare func(*netlab.Box)) (*netlab.Home, []*nsBox) {
	t.Helper()
	t.Parallel()
	home := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{cfg}}).Homes[0]
	ca := newCA(t, "acme")
	var boxes []*nsBox
	for i, b := range home.Boxes {
		if prepare != nil {
			prepare(b)
		}
		boxes = append(boxes, startNSBox(t, b.NS, ca.box(t, fmt.Sprintf("box-%d", i))))
	}
	took := until(t, "all see all", func() bool { return allSeeAll(boxes) }, boxes...)
	t.Logf("%d boxes see each other after %v", len(boxes), took)
	return home, boxes
}

func allSeeAll(boxes []*nsBox) bool {
	for i, b := range boxes {
		var others []string
		for j, o := range boxes {
			if i != j {
				others = append(others, o.id)
			}
		}
		if !b.sees(others...) {
			return false
		}
	}
	return true
}

func carriers(boxes []*nsBox, id asset.ID) (who []int) {
	for i, b := range boxes {
		if b.carries(id) {
			who = append(who, i)
		}
	}
	return who
}

// oneCourier waits until all agree on one and returns it.
func oneCourier(t *testing.T, boxes []*nsBox, id asset.ID) (int, time.Duration) {
	t.Helper()
	var who []int
	took := until(t, "exactly one courier", func() bool {
		who = carriers(boxes, id)
		return len(who) == 1
	}, boxes...)
	return who[0], took
}

func TestNSCourierKilledFrozenUnplugged(t *testing.T) {
	home, boxes := startHome(t, netlab.HomeConfig{Boxes: 4, IPv6: true}, nil)
	id := testID(4)
	for _, b := range boxes {
		b.setSelf(moving(id))
	}
	first, _ := oneCourier(t, boxes, id)

	t.Run("frozen", func(t *testing.T) {
		if err := boxes[first].cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		rest := slices.Delete(slices.Clone(boxes), first, first+1)
		_, took := oneCourier(t, rest, id)
		t.Logf("frozen courier replaced after %v", took)
		if err := boxes[first].cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		until(t, "one courier after the thaw",
			func() bool { return allSeeAll(boxes) && len(carriers(boxes, id)) == 1 }, boxes...)
	})
	t.Run("unplugged", func(t *testing.T) {
		now, _ := oneCourier(t, boxes, id)
		if err := home.Boxes[now].Unplug(); err != nil {
			t.Fatal(err)
		}
		rest := slices.Delete(slices.Clone(boxes), now, now+1)
		_, took := oneCourier(t, rest, id)
		t.Logf("unplugged courier replaced after %v", took)
		if err := home.Boxes[now].Plug(); err != nil {
			t.Fatal(err)
		}
		took = until(t, "one courier after the cable is back",
			func() bool { return allSeeAll(boxes) && len(carriers(boxes, id)) == 1 }, boxes...)
		t.Logf("whole again %v after the cable is back", took)
	})
	t.Run("split", func(t *testing.T) {
		if err := home.Partition(2); err != nil {
			t.Fatal(err)
		}
		until(t, "a courier on each side", func() bool { return len(carriers(boxes, id)) == 2 }, boxes...)
		if err := home.Partition(0); err != nil {
			t.Fatal(err)
		}
		_, took := oneCourier(t, boxes, id)
		t.Logf("one courier %v after the heal", took)
	})
	t.Run("killed", func(t *testing.T) {
		now, _ := oneCourier(t, boxes, id)
		if err := boxes[now].cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		rest := slices.Delete(slices.Clone(boxes), now, now+1)
		_, took := oneCourier(t, rest, id)
		t.Logf("killed courier replaced after %v", took)
	})
}

func TestNSAvahiSeesUs(t *testing.T) {
	home, _ := startHome(t, netlab.HomeConfig{Boxes: 3}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	script := `
mkdir -p /run/dbus /run/avahi-daemon
mount -t tmpfs tmpfs /run/dbus; mount -t tmpfs tmpfs /run/avahi-daemon
dbus-daemon --system --nopidfile --fork
avahi-daemon --no-drop-root --no-chroot --no-rlimits 2>/dev/null &
for try in $(seq 60); do
	avahi-browse -rpt _boxd._tcp > /run/dbus/out 2>/dev/null && [ $(grep -c '^=.*box-' /run/dbus/out) -ge 3 ] && break
	sleep 1
done
cat /run/dbus/out; kill %1`
	cmd := home.Router.Command(ctx, "unshare", "-m", "bash", "-ec", script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, b := range home.Boxes {
		line := fmt.Sprintf(";box-%d;_boxd._tcp;local;box-%d.local;%s;%d;", i, i, b.IP, simPort)
		if !strings.Contains(string(out), line) || !strings.Contains(string(out), `"f=`+fleetHash("acme")+`"`) {
			t.Errorf("avahi-browse does not resolve %s:\n%s", line, out)
		}
	}
}

func TestNSIPv6Only(t *testing.T) {
	_, boxes := startHome(t, netlab.HomeConfig{Boxes: 2}, func(b *netlab.Box) {
		if _, err := b.NS.Exec(t.Context(), "ip", "-4", "addr", "flush", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
	})
	until(t, "the neighbour is at its link-local address", func() bool {
		v, _ := boxes[0].look()
		if len(v.Neighbours) != 1 {
			return false
		}
		a := v.Neighbours[0].Addr.Addr()
		return a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "eth0"
	}, boxes...)
}

func TestNSMulticastLoss(t *testing.T) {
	startHome(t, netlab.HomeConfig{Boxes: 4}, func(b *netlab.Box) {
		if err := b.MulticastLoss(30); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNSInterfacesComeAndGo(t *testing.T) {
	home, boxes := startHome(t, netlab.HomeConfig{Boxes: 2, Wifi: true}, nil)
	for _, b := range boxes {
		b.setSelf(moving(testID(1))) // while nobody wants anything, silence may last longer
	}
	box := home.Boxes[1]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// The cable goes and the network daemon takes its address away, as those do; the radio stays.
	must(box.Unplug())
	must(box.NS.IP("addr flush dev eth0"))
	wifi := netip.MustParseAddr("192.168.1.102")
	via := func(a netip.Addr) func() bool {
		return func() bool {
			v, _ := boxes[0].look()
			return len(v.Neighbours) == 1 && v.Neighbours[0].Addr.Addr() == a
		}
	}
	if via(wifi)() {
		t.Log("was on the radio already")
	}
	t.Logf("on the radio after %v", until(t, "neighbour on the radio", via(wifi), boxes...))
	// The radio goes, too: alone. The cable comes back with another address.
	must(box.NS.IP("addr flush dev wlan0", "link set wlan0 down"))
	until(t, "alone", func() bool { return boxes[0].sees() && boxes[1].sees() }, boxes...)
	must(box.Plug())
	must(box.NS.IP("addr add 192.168.1.77/24 dev eth0"))
	took := until(t, "back at its new address", via(netip.MustParseAddr("192.168.1.77")), boxes...)
	t.Logf("back at its new address after %v", took)
}

// mdnsAnswer is an mDNS response that announces a box.
func mdnsAnswer(name string, addr net.IP, port uint16, fleet string) []byte {
	instance := name + "._boxd._tcp.local."
	hdr := func(n string, typ uint16) dns.RR_Header {
		return dns.RR_Header{Name: n, Rrtype: typ, Class: dns.ClassINET, Ttl: 3200}
	}
	m := dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}, Answer: []dns.RR{
		&dns.PTR{Hdr: hdr("_boxd._tcp.local.", dns.TypePTR), Ptr: instance},
		&dns.SRV{Hdr: hdr(instance, dns.TypeSRV), Port: port, Target: name + ".local."},
		&dns.TXT{Hdr: hdr(instance, dns.TypeTXT), Txt: []string{"v=1", "f=" + fleetHash(fleet)}},
		&dns.A{Hdr: hdr(name+".local.", dns.TypeA), A: addr},
	}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func TestNSFloodAndGarbage(t *testing.T) {
	home, boxes := startHome(t, netlab.HomeConfig{Boxes: 4}, nil)
	if err := boxes[3].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	pc, err := home.Router.ListenPacket("udp4", "192.168.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	before, _ := boxes[0].look()
	var peak boxView
	flood := func(names int) {
		group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}
		for i := range names {
			addr := net.IPv4(192, 168, 1, byte(i))
			if i%3 == 0 {
				addr = home.Boxes[i%4].IP.AsSlice() // wrong ports of real boxes
			}
			packet := mdnsAnswer(fmt.Sprintf("fake-%d", i), addr, uint16(1024+i), "acme")
			if i%10 == 0 {
				for j := range packet {
					packet[j] ^= byte(rand.Uint32() >> (rand.Uint32() % 16))
				}
			}
			if _, err := pc.WriteTo(packet, group); err != nil {
				t.Fatal(err)
			}
			if i%20 == 0 {
				<-time.After(4 * time.Millisecond) // some thousand packets a second
			}
			if v, _ := boxes[0].look(); v.HeapBytes > peak.HeapBytes {
				peak = v
			}
		}
	}
	flood(5000)
	// A box that starts in the middle of it still finds its home.
	ident := boxes[0].ca.box(t, "box-late")
	late := startNSBox(t, home.Boxes[3].NS, ident)
	flood(5000)
	took := until(t, "a late box finds its home in the flood", func() bool {
		return late.sees("box-0", "box-1", "box-2") && boxes[0].sees("box-1", "box-2", "box-late")
	}, boxes[0], late)
	after, _ := boxes[0].look()
	t.Logf("late box at home %v after the flood; heap %d KiB before, %d at most, %d after; %d goroutines before, %d after; %d candidates",
		took, before.HeapBytes>>10, peak.HeapBytes>>10, after.HeapBytes>>10, before.Goroutines, after.Goroutines,
		after.Stats.Candidates)
	if after.Stats.Candidates > maxCandidates || peak.HeapBytes > 32<<20 || after.Goroutines > before.Goroutines+60 {
		t.Errorf("the flood grew the box: %+v", after)
	}
}

// TestNSPortScanner: a host in the home without a certificate connects to the port in many ways and gets nothing.
func TestNSPortScanner(t *testing.T) {
	home, boxes := startHome(t, netlab.HomeConfig{Boxes: 3}, nil)
	if err := boxes[2].cmd.Process.Kill(); err != nil { // its place is the scanner's
		t.Fatal(err)
	}
	until(t, "two are left", func() bool { return boxes[0].sees("box-1") })
	before, _ := boxes[0].look()
	at := netip.AddrPortFrom(home.Boxes[0].IP, simPort).String()
	var conns []net.Conn
	for i := range 200 {
		c, err := home.Boxes[2].Dial(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		switch i % 3 {
		case 0:
			_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		case 1:
			garbage := make([]byte, 3000)
			for j := range garbage {
				garbage[j] = byte(rand.Uint32())
			}
			_, _ = c.Write(garbage)
		}
	}
	for i, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err == nil && buf[0] != 21 { // a TLS alert says no more than no
			t.Fatalf("connection %d read %q", i, buf[:n])
		}
		_ = c.Close()
	}
	out, err := exec.LookPath("openssl")
	if err == nil {
		said, _ := home.Boxes[2].Command(t.Context(), out, "s_client", "-connect", at, "-alpn", ALPN, "-tls1_3").CombinedOutput()
		if strings.Contains(string(said), `"kind"`) {
			t.Errorf("a client without certificate reads household messages:\n%s", said)
		}
	}
	until(t, "the connections are gone", func() bool {
		v, _ := boxes[0].look()
		return v.Goroutines <= before.Goroutines+3 && boxes[0].sees("box-1")
	}, boxes[0])
}
