package lan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/health"
)

// household starts n boxes of one fleet and waits until they have looked round.
func household(t *testing.T, n *simNet, ca *testCA, count int) []*simBox {
	t.Helper()
	boxes := make([]*simBox, count)
	for i := range boxes {
		boxes[i] = n.start(t, ca.box(t, fmt.Sprintf("box-%d", i)), i, count)
	}
	time.Sleep(settleTime + time.Second)
	synctest.Wait()
	for i, b := range boxes {
		if got := len(b.Neighbours()); got != count-1 {
			t.Fatalf("box %d has %d neighbours of %d: %v", i, got, count-1, b.neighbours())
		}
	}
	return boxes
}

func stopAll(boxes []*simBox) {
	for _, b := range boxes {
		b.stop()
	}
}

// couriers are those that believe that they are the courier.
func couriers(boxes []*simBox, id asset.ID) (who []int) {
	for i, b := range boxes {
		if _, self := b.Courier(id); self {
			who = append(who, i)
		}
	}
	return who
}

func TestHouseholdAgreesOnOneCourier(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		boxes := household(t, newSimNet(), ca, 4)
		defer stopAll(boxes)
		byBox := map[int]int{}
		var ids []asset.ID
		for i := range 24 {
			ids = append(ids, testID(i+1))
		}
		for _, b := range boxes {
			b.SetSelf(wants(ids...))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, id := range ids {
			who := couriers(boxes, id)
			if len(who) != 1 {
				t.Fatalf("asset %s has couriers %v", id.Short(), who)
			}
			byBox[who[0]]++
			for _, b := range boxes {
				if box, _ := b.Courier(id); box != fmt.Sprintf("box-%d", who[0]) {
					t.Errorf("asset %s: %s believes %q", id.Short(), b.ip, box)
				}
			}
		}
		for i := range boxes {
			if byBox[i] == 0 {
				t.Errorf("box %d carries none of 24 assets: %v", i, byBox)
			}
		}
		n := boxes[0].Neighbours()[0]
		if n.Addr != netip.AddrPortFrom(simIP(1), simPort) || !n.WAN || len(n.Wants) != 24 || n.RTT < 0 {
			t.Errorf("neighbour %+v", n)
		}
	})
}

func TestOneHoldsItAndNobodyFetches(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		boxes := household(t, newSimNet(), ca, 3)
		defer stopAll(boxes)
		id := testID(1)
		boxes[0].SetSelf(Self{WAN: true, Holds: []asset.ID{id}})
		boxes[1].SetSelf(wants(id))
		time.Sleep(time.Second)
		for i, b := range boxes {
			if box, self := b.Courier(id); i > 0 && (box != "" || self) {
				t.Errorf("box %d: courier %q", i, box)
			}
		}
		boxes[0].stop()
		time.Sleep(100 * time.Millisecond)
		if _, self := boxes[1].Courier(id); !self {
			t.Error("the holder is gone and the only box that wants it does not fetch")
		}
	})
}

func TestAHolderThatGivesNothingIsVotedDown(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		boxes := household(t, newSimNet(), ca, 3)
		defer stopAll(boxes)
		id := testID(1)
		boxes[0].SetSelf(Self{WAN: true, Holds: []asset.ID{id}})
		moving := func(have int) { // as long as pieces come from the holder nobody needs the access line
			for _, b := range boxes[1:] {
				s := wants(id)
				s.Wants[0].Have = have
				b.SetSelf(s)
			}
		}
		for i := range 5 {
			moving(i)
			time.Sleep(stallAfter - 5*time.Second)
			if who := couriers(boxes, id); len(who) != 0 {
				t.Fatalf("couriers %v though the holder gives a piece every 25 s", who)
			}
		}
		time.Sleep(10 * time.Second)
		for i := range 60 {
			who := couriers(boxes, id)
			for range 3 { // couriers that bring nothing are voted down as well: a hand-over takes a moment
				if len(who) != 1 {
					time.Sleep(time.Second)
					who = couriers(boxes, id)
				}
			}
			if len(who) != 1 {
				t.Fatalf("couriers %v, %d s after the holder gave nothing for 30 s", who, 5+5*i)
			}
			time.Sleep(5 * time.Second)
		}
		if n := boxes[1].stats.vetoes.Load() + boxes[2].stats.vetoes.Load(); n == 0 || n > 20 {
			t.Errorf("%d votes", n)
		}
		time.Sleep(holderVetoFor - 295*time.Second)
		if who := couriers(boxes, id); len(who) != 0 {
			t.Errorf("couriers %v though the vote against the holder has run out", who)
		}
	})
}

func TestTakeOver(t *testing.T) {
	ca := newCA(t, "acme")
	for _, silent := range []bool{true, false} {
		t.Run(fmt.Sprintf("silent=%v", silent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newSimNet()
				boxes := household(t, net, ca, 4)
				defer stopAll(boxes)
				id := testID(3)
				for _, b := range boxes {
					b.SetSelf(wants(id))
				}
				time.Sleep(time.Second)
				dead := couriers(boxes, id)[0]
				start := time.Now()
				limit := 5 * time.Second
				if silent {
					net.setCut(func(a, b netip.Addr) bool { return a == simIP(dead) || b == simIP(dead) })
				} else {
					boxes[dead].stop()
					limit = 100 * time.Millisecond
				}
				left := slices.Delete(slices.Clone(boxes), dead, dead+1)
				for len(couriers(left, id)) == 0 {
					time.Sleep(10 * time.Millisecond)
					if time.Since(start) > limit {
						t.Fatalf("nobody took over in %v", limit)
					}
				}
				t.Logf("taken over after %v", time.Since(start))
				time.Sleep(time.Second)
				if who := couriers(left, id); len(who) != 1 {
					t.Fatalf("couriers after the take-over: %v", who)
				}
			})
		})
	}
}

func TestSplitAndHeal(t *testing.T) {
	ca := newCA(t, "acme")
	for _, length := range []time.Duration{10 * time.Second, time.Minute, 50 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			net := newSimNet()
			boxes := household(t, net, ca, 4)
			defer stopAll(boxes)
			id := testID(5)
			for _, b := range boxes {
				b.SetSelf(wants(id))
			}
			time.Sleep(time.Second)
			side := func(a netip.Addr) bool { return a.Compare(simIP(1)) <= 0 }
			net.setCut(func(a, b netip.Addr) bool { return side(a) != side(b) })
			time.Sleep(length)
			for try := 0; len(couriers(boxes, id)) != 2; try++ { // nothing moves here: now and then one is voted down
				time.Sleep(100 * time.Millisecond)
				if try > 10 {
					t.Fatalf("split: couriers %v, want one on each side", couriers(boxes, id))
				}
			}
			net.setCut(nil)
			healed := time.Now()
			for len(couriers(boxes, id)) > 1 {
				time.Sleep(50 * time.Millisecond)
				if time.Since(healed) > 10*time.Second {
					t.Fatalf("two couriers %v after the heal of a split of %v", time.Since(healed), length)
				}
			}
			t.Logf("split of %v: one courier %v after the heal", length, time.Since(healed))
		})
	}
}

func TestJoinerDoesNotTakeOver(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		net := newSimNet()
		boxes := []*simBox{net.start(t, ca.box(t, "box-0"), 0, 8)}
		defer func() { stopAll(boxes) }()
		ids := []asset.ID{testID(1), testID(2), testID(3), testID(4), testID(5), testID(6)}
		boxes[0].SetSelf(moving(ids...))
		if _, self := boxes[0].Courier(ids[0]); self {
			t.Error("courier before it has looked round")
		}
		time.Sleep(settleTime + time.Second)
		if _, self := boxes[0].Courier(ids[0]); !self {
			t.Error("a box alone is its own courier")
		}
		for i := 1; i < 8; i++ {
			boxes = append(boxes, net.start(t, ca.box(t, fmt.Sprintf("box-%d", i)), i, 8))
			boxes[i].SetSelf(wants(ids...))
		}
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			for _, id := range ids {
				if who := couriers(boxes, id); !slices.Equal(who, []int{0}) {
					t.Fatalf("couriers %v", who)
				}
			}
		}
		// A better class takes over, but not for what is in flight with the classes it had.
		worse := moving(ids...)
		worse.Class = 2
		boxes[0].SetSelf(worse)
		time.Sleep(time.Second)
		if who := couriers(boxes, ids[0]); !slices.Equal(who, []int{0}) {
			t.Fatalf("couriers %v after the class changed in flight", who)
		}
		worse.Wants = slices.Clone(worse.Wants)
		worse.Wants[0].NoWAN = true // its window closed for this one
		boxes[0].SetSelf(worse)
		time.Sleep(time.Second)
		if who := couriers(boxes, ids[0]); len(who) != 1 || who[0] == 0 {
			t.Fatalf("couriers %v after the window closed", who)
		}
	})
}

func TestCourierThatStallsOrIsSlowHandsOver(t *testing.T) {
	ca := newCA(t, "acme")
	cases := map[string]struct {
		change func(s *Self)
		others func(s *Self)
		within time.Duration
	}{
		"says so":       {change: func(s *Self) { s.Wants[0].Stalled = true }, within: time.Second},
		"does not move": {change: func(*Self) {}, within: stallAfter + 3*time.Second},
		"is slow": {
			change: func(s *Self) { s.Wants[0].WANRate = 100_000 },
			others: func(s *Self) { s.WANRate = 900_000 }, within: slowAfter + 3*time.Second,
		},
		"lost the WAN": {change: func(s *Self) { s.WAN = false }, within: time.Second},
		"says that it has more than it gives": {
			change: func(s *Self) { s.Wants[0].Have = 7 }, within: stallAfter + 3*time.Second,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				boxes := household(t, newSimNet(), ca, 3)
				defer stopAll(boxes)
				id := testID(9)
				for _, b := range boxes {
					s := wants(id)
					if c.others != nil {
						c.others(&s)
					}
					b.SetSelf(s)
				}
				time.Sleep(time.Second)
				first := couriers(boxes, id)
				s := wants(id)
				c.change(&s)
				boxes[first[0]].SetSelf(s)
				start := time.Now()
				for slices.Equal(couriers(boxes, id), first) {
					time.Sleep(100 * time.Millisecond)
					if time.Since(start) > c.within {
						t.Fatalf("still the courier after %v", c.within)
					}
				}
				time.Sleep(time.Second)
				if who := couriers(boxes, id); len(who) != 1 {
					t.Fatalf("couriers %v after the hand-over", who)
				}
			})
		})
	}
}

// TestACourierThatIsHeldBackStays: neither a limit nor a line that others use, too, makes a courier hand over.
func TestACourierThatIsHeldBackStays(t *testing.T) {
	ca := newCA(t, "acme")
	for name, held := range map[string]struct {
		courier func(s *Self)
		others  func(s *Self)
	}{
		"by a limit": {
			func(s *Self) { s.Wants[0].WANRate, s.Wants[0].Paced = 100_000, true }, func(s *Self) { s.WANRate = 900_000 },
		},
		"by another courier of the home": {
			func(s *Self) { s.Wants[0].WANRate = 300_000 },
			func(s *Self) {
				s.WANRate = 900_000
				s.Wants = append(s.Wants, Want{ID: testID(8), WANBytes: 1, WANRate: 600_000})
			},
		},
		"by another asset of its own": {
			func(s *Self) {
				s.Wants[0].WANRate = 400_000
				s.Wants = append(s.Wants, Want{ID: testID(7), WANBytes: 1, WANRate: 500_000})
			},
			func(s *Self) { s.WANRate = 900_000 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				boxes := household(t, newSimNet(), ca, 3)
				defer stopAll(boxes)
				id := testID(9)
				for _, b := range boxes {
					b.SetSelf(wants(id))
				}
				time.Sleep(time.Second)
				first := couriers(boxes, id)[0]
				for i, b := range boxes {
					s := wants(id)
					if i == first {
						held.courier(&s)
					} else {
						held.others(&s)
					}
					s.Wants[0].WANBytes = int64(i)
					b.SetSelf(s)
				}
				time.Sleep(slowAfter + 3*time.Second)
				if who := couriers(boxes, id); !slices.Equal(who, []int{first}) {
					t.Errorf("couriers %v, was %d", who, first)
				}
			})
		})
	}
}

// TestWhoGotWhatIsTold: each box knows who gave what to whom in the whole home, and how the others are.
func TestWhoGotWhatIsTold(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		boxes := household(t, newSimNet(), ca, 2)
		defer stopAll(boxes)
		boxes[0].opt.Health.Raise(health.Warning{Code: "a", Severity: health.Critical})
		boxes[0].opt.Health.Raise(health.Warning{Code: "b", Severity: health.Info})
		boxes[0].SetSelf(Self{Got: []Got{{"box-1", 7}, {"box-2", 9}}, WANGot: 5})
		time.Sleep(idleHeartbeat + time.Second)
		n := boxes[1].Neighbours()[0]
		if !slices.Equal(n.Got, []Got{{"box-1", 7}, {"box-2", 9}}) || n.WANGot != 5 || n.Health != health.Critical {
			t.Errorf("heard %+v", n)
		}
	})
}

func TestMovingCourierStays(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		boxes := household(t, newSimNet(), ca, 3)
		defer stopAll(boxes)
		id := testID(9)
		for _, b := range boxes {
			b.SetSelf(wants(id))
		}
		time.Sleep(time.Second)
		first := couriers(boxes, id)
		for i := range 120 { // slow, one step in 20 s, but moving
			s := wants(id)
			s.Wants[0].WANBytes = int64(i / 20 * 1000)
			boxes[first[0]].SetSelf(s)
			time.Sleep(time.Second)
			if who := couriers(boxes, id); !slices.Equal(who, first) {
				t.Fatalf("courier %v became %v after %d s", first, who, i)
			}
		}
	})
}

func TestStrangersAreRefusedAndCounted(t *testing.T) {
	ours, theirs := newCA(t, "acme"), newCA(t, "other")
	synctest.Test(t, func(t *testing.T) {
		net := newSimNet()
		a := net.start(t, ours.box(t, "box-0"), 0, 3)
		b := net.start(t, theirs.box(t, "box-1"), 1, 3)
		c := net.start(t, ours.box(t, "box-2"), 2, 3)
		defer stopAll([]*simBox{a, b, c})
		time.Sleep(2 * time.Minute)
		if got := a.neighbours(); !slices.Equal(got, []string{"box-2"}) {
			t.Errorf("neighbours %v", got)
		}
		if got := b.neighbours(); len(got) != 0 {
			t.Errorf("the stranger has neighbours %v", got)
		}
		if s := a.Stats(); s.Refused == 0 || s.Admitted == 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestClonedIdentityIsToldAndNotANeighbour(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		net, ident := newSimNet(), ca.box(t, "box-0")
		a, b := net.start(t, ident, 0, 2), net.start(t, ident, 1, 2)
		defer stopAll([]*simBox{a, b})
		time.Sleep(5 * time.Second)
		if len(a.Neighbours())+len(b.Neighbours()) > 0 || !a.health.Has("identity-cloned") {
			t.Errorf("neighbours %v, health %v", a.neighbours(), a.health.List())
		}
		for range 3 {
			if time.Sleep(time.Hour); !a.health.Has("identity-cloned") {
				t.Fatal("the warning is gone, the other box is not")
			}
		}
		b.stop()
		if time.Sleep(2 * twinGone); a.health.Has("identity-cloned") {
			t.Error("the other box is gone, the warning is not")
		}
	})
}

func TestOptionsSayAllFaults(t *testing.T) {
	_, err := New(Options{Port: 70000, Static: []string{"no-port"}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"identity", "listener", "70000", "no-port"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
}

func TestIsLAN(t *testing.T) {
	ca := newCA(t, "acme")
	net := newSimNet()
	prefixes := func() ([]nic, error) {
		return []nic{{addrs: []netip.Prefix{
			netip.MustParsePrefix("192.168.1.10/24"), netip.MustParsePrefix("fe80::1/64"),
			netip.MustParsePrefix("2001:db8:1::5/64"), netip.MustParsePrefix("203.0.113.7/20"),
		}}}, nil
	}
	ident := ca.box(t, "box-0")
	l, err := New(Options{
		Identity: ident, PeerOf: testPeerOf, Port: simPort, nics: prefixes,
		Listener: net.listen(netip.AddrPortFrom(simIP(0), simPort)),
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]bool{
		"192.168.1.77": true, "192.168.2.77": false, "127.0.0.1": true, "::1": true, "10.9.3.4": true, "10.8.3.4": false,
		"fe80::22%eth0": true, "2001:db8:1::99": true, "2001:db8:2::99": false, "::ffff:192.168.1.5": true,
		"203.0.113.7": true /* its own */, "203.0.113.8": false /* the provider's */, "0.0.0.0": false, "224.0.0.251": false,
	} {
		if got := l.IsLAN(netip.MustParseAddr(a)); got != want {
			t.Errorf("IsLAN(%s) = %v", a, got)
		}
	}
	if l.IsLAN(netip.Addr{}) {
		t.Error("no address is LAN")
	}
}
