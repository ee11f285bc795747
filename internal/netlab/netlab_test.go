//go:build linux

package netlab

import (
	"context"
	"io"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, ns *NS, addr string, n int64) string {
	t.Helper()
	ln, err := ns.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.CopyN(c, zeros{}, n)
			}()
		}
	}()
	return ln.Addr().String()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func pull(t *testing.T, ns *NS, addr string) (n int64, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	c, err := ns.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err = io.Copy(io.Discard, c)
	if err != nil {
		t.Fatal(err)
	}
	return n, time.Since(start)
}

func TestLineRateDelayAndCount(t *testing.T) {
	const size = 4 << 20
	lab := Start(t, Config{Homes: []HomeConfig{{
		Boxes: 1, Line: LineConfig{Down: 40e6, Up: 10e6, Delay: 10 * time.Millisecond},
	}}})
	addr := serve(t, lab.WAN, netip.AddrPortFrom(lab.FleetIP, 0).String(), size)
	line := lab.Homes[0].Line
	before := line.Counters()
	n, took := pull(t, lab.Homes[0].Boxes[0].NS, addr)
	got := line.Counters().Sub(before)
	if n != size {
		t.Fatalf("got %d bytes", n)
	}
	if over := float64(got.Down.Bytes) / size; over < 1 || over > 1.15 {
		t.Errorf("line counted %d bytes down for %d", got.Down.Bytes, size)
	}
	floor := time.Duration(size * 8 / 40e6 * float64(time.Second))
	if took < floor {
		t.Errorf("took %v, floor %v", took, floor)
	}
	// That a line is not slower than it says shows only while the machine is quiet: one of some tries has to.
	fastest := func(enough time.Duration) (best time.Duration) {
		best = time.Hour
		for try := 0; try < 10 && best > enough; try++ {
			_, took := pull(t, lab.Homes[0].Boxes[0].NS, addr)
			best = min(best, took)
		}
		return best
	}
	if took > 3*floor {
		took = fastest(3 * floor)
	}
	if took > 3*floor {
		t.Errorf("took %v at best, floor %v", took, floor)
	}
	line.Set(LineConfig{Down: 80e6, Up: 10e6, Delay: 10 * time.Millisecond})
	if best := fastest(floor); best >= floor {
		t.Errorf("twice the rate took %v, the floor before was %v", best, floor)
	}
}

func TestNATAndHomesAndCables(t *testing.T) {
	lab := Start(t, Config{Homes: []HomeConfig{{Boxes: 3, IPv6: true, Wifi: true}, {Boxes: 1, Open: true}}})
	home, open := lab.Homes[0], lab.Homes[1]
	inOpen := serve(t, open.Boxes[0].NS, open.Boxes[0].IP.String()+":0", 1000)
	if n, _ := pull(t, home.Boxes[0].NS, inOpen); n != 1000 {
		t.Fatalf("from home to open home: %d bytes", n)
	}
	inHome := serve(t, home.Boxes[1].NS, ":0", 1000)
	_, port, _ := net.SplitHostPort(inHome)
	at := net.JoinHostPort(home.Boxes[1].IP.String(), port)
	if n, _ := pull(t, home.Boxes[0].NS, at); n != 1000 {
		t.Fatalf("box to box: %d bytes", n)
	}
	at6 := net.JoinHostPort(home.Boxes[1].IP6.String(), port)
	if n, _ := pull(t, home.Boxes[0].NS, at6); n != 1000 {
		t.Fatalf("box to box by IPv6: %d bytes", n)
	}
	dial := func(from *NS, addr string, within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		c, err := from.Dial(ctx, "tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	cut := func(from *NS, addr string) bool { return dial(from, addr, 300*time.Millisecond) != nil }
	reaches := func(from *NS, addr string) bool { return dial(from, addr, time.Minute) == nil }
	if !cut(open.Boxes[0].NS, at) {
		t.Error("NAT let the WAN in")
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(home.Partition(1))
	if !cut(home.Boxes[0].NS, at) {
		t.Error("partition did not cut")
	}
	if !reaches(home.Boxes[2].NS, at) || !reaches(home.Boxes[0].NS, inOpen) {
		t.Error("partition cut too much")
	}
	check(home.Partition(0))
	if !reaches(home.Boxes[0].NS, at) {
		t.Error("partition did not heal")
	}
	check(home.Boxes[1].Unplug())
	if !cut(home.Boxes[0].NS, at) {
		t.Error("unplugged box was reached")
	}
	check(home.Boxes[1].Plug())
	check(home.Boxes[1].MulticastLoss(30))
	check(home.Boxes[1].LimitWAN(1e6))
	check(home.Boxes[1].LimitWAN(0))
	out, err := home.Boxes[2].Exec(t.Context(), "ip", "-o", "addr")
	check(err)
	if !strings.Contains(string(out), "192.168.1.13/24") || !strings.Contains(string(out), "wlan0") {
		t.Errorf("addresses: %s", out)
	}
}

func TestLossIsCounted(t *testing.T) {
	lab := Start(t, Config{Homes: []HomeConfig{{Boxes: 1, Line: LineConfig{Loss: 0.02}}}})
	addr := serve(t, lab.WAN, netip.AddrPortFrom(lab.FleetIP, 0).String(), 4<<20)
	pull(t, lab.Homes[0].Boxes[0].NS, addr)
	c := lab.Homes[0].Line.Counters().Down
	share := float64(c.Dropped) / float64(c.Dropped+c.Packets)
	if math.Abs(share-0.02) > 0.015 {
		t.Errorf("lost %.3f of the packets, want 0.02", share)
	}
}

func TestSweepLeavesTheLiving(t *testing.T) {
	lab := Start(t, Config{})
	if err := run(lab.WAN.Command(t.Context(), "ip", "netns", "add", "nl4194305-1-wan")); err != nil { // above pid_max
		t.Fatal(err)
	}
	sweep()
	out, err := lab.WAN.Exec(t.Context(), "ip", "netns", "list")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "nl4194305-") || !strings.Contains(string(out), lab.WAN.Name) {
		t.Errorf("after the sweep: %s", out)
	}
}
