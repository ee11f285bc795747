package tracker

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
)

// dual announces a box from an address and returns whom it is told of.
func dual(t *testing.T, tr *Tracker, box, from string) (told []string, a Answer) {
	t.Helper()
	a, err := tr.Announce(Announce{ID: film, Box: box, Addr: netip.MustParseAddrPort(from), PeerID: box, Want: 50})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range a.Peers {
		for ap := range p.addrs {
			told = append(told, ap.String())
		}
	}
	slices.Sort(told)
	return told, a
}

// A box that announces over IPv4 and over IPv6 is one box, with one share, at two addresses; others are told of those that
// they can use.
func TestABoxHasAnAddressOfEachFamily(t *testing.T) {
	tr, clock := testTracker(Options{})
	want := func(box, from string, want ...string) Answer {
		t.Helper()
		told, a := dual(t, tr, box, from)
		if !slices.Equal(told, want) {
			t.Errorf("%s from %s is told of %v, want %v", box, from, told, want)
		}
		return a
	}
	first := want("both", "203.0.113.1:1000")
	second := want("both", "[2001:db8:1::1]:1000")
	if first.ShareIndex != second.ShareIndex || second.Incomplete != 1 {
		t.Fatalf("%+v, %+v", first, second)
	}
	want("four", "198.51.100.1:2000", "203.0.113.1:1000")
	want("six", "[2001:db8:2::1]:3000", "198.51.100.1:2000", "[2001:db8:1::1]:1000") // who has four only is named all the same
	want("also", "198.51.100.2:4000", "198.51.100.1:2000", "203.0.113.1:1000", "[2001:db8:2::1]:3000")
	a := want("also", "[2001:db8:3::1]:4000", "198.51.100.1:2000", "203.0.113.1:1000", "[2001:db8:1::1]:1000", "[2001:db8:2::1]:3000")
	if a.Incomplete != 4 || len(a.Peers) != 3 {
		t.Errorf("%+v", a)
	}
	var m map[string]any
	for _, compact := range []bool{true, false} {
		b, err := bencode.Marshal(encode(a, compact, false))
		if err == nil {
			err = bencode.Unmarshal(b, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		if compact && (len(m["peers"].(string)) != 2*6 || len(m["peers6"].(string)) != 2*18) || !compact && len(m["peers"].([]any)) != 4 {
			t.Errorf("compact %v: %v", compact, m)
		}
	}
	// What is not announced any more is not believed for ever: each family by itself.
	for range 4 {
		clock.t = clock.t.Add(time.Minute)
		dual(t, tr, "both", "203.0.113.1:1000")
	}
	want("also", "[2001:db8:3::1]:4000", "198.51.100.1:2000", "203.0.113.1:1000", "[2001:db8:2::1]:3000")
	if _, err := tr.Announce(Announce{ID: film, Box: "also", Addr: netip.MustParseAddrPort("198.51.100.2:4000"), Stopped: true}); err != nil {
		t.Fatal(err)
	}
	if _, n := tr.Swarm(film); n != 3 {
		t.Errorf("%d boxes, want 3", n)
	}
}

// Over IPv6 the same home is the same /64, and the same provider's place the same /48.
func TestNearestFirstOverIPv6(t *testing.T) {
	tr, _ := testTracker(Options{Region: func(a netip.Addr) string {
		if a.Is6() && a.As16()[3] == 0xb8 {
			return "north"
		}
		return ""
	}})
	kind := map[string]int{}
	add := func(k int, addr string) {
		kind[addr] = k
		dual(t, tr, addr, addr)
	}
	for i := range 150 {
		addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb9, byte(i)})
		add(3, netip.AddrPortFrom(addr, 1).String())
	}
	for i := range 60 {
		addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(1 + i)})
		add(2, netip.AddrPortFrom(addr, 1).String())
	}
	for i := range 5 {
		addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, byte(1 + i), 0, 1})
		add(1, netip.AddrPortFrom(addr, 1).String())
	}
	add(0, "[2001:db8:0:700::2]:1")
	add(0, "[2001:db8:0:700::3]:1")
	_, a := dual(t, tr, "me", "[2001:db8:0:700::9]:1")
	count, last := [4]int{}, 0
	for i, p := range a.Peers {
		k := kind[p.PeerID]
		count[k]++
		if i < MaxPeers-MaxPeers/4 {
			if k < last {
				t.Fatalf("peer %d is of kind %d after %d", i, k, last)
			}
			last = k
		}
	}
	if len(a.Peers) != MaxPeers || count[0] != 2 || count[1] != 5 || count[2] < 31 || count[3] == 0 {
		t.Fatalf("same network, prefix, region, rest: %v", count)
	}
}
