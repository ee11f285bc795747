package lan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"boxd/internal/asset"
)

func TestElectionIsOfTheBidsOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "boxes")
		bids := make([]bid, n)
		for i := range bids {
			box := fmt.Sprintf("box-%d", i)
			bids[i] = bid{
				box: box, hash: boxHash(box), class: rapid.IntRange(0, 2).Draw(t, "class"),
				acting: rapid.Bool().Draw(t, "acting"), yields: rapid.Bool().Draw(t, "yields"),
			}
		}
		id := testID(rapid.IntRange(0, 200).Draw(t, "asset"))
		won := elect(id, bids)
		rand.Shuffle(n, func(i, j int) { bids[i], bids[j] = bids[j], bids[i] })
		if again := elect(id, bids); again != won {
			t.Fatalf("order changed %s into %s", won, again)
		}
		var w bid
		for _, b := range bids {
			if b.box == won {
				w = b
			}
		}
		for _, b := range bids {
			if !b.yields && w.yields || b.yields == w.yields && (b.class < w.class || b.class == w.class && b.acting && !w.acting) {
				t.Fatalf("%+v won over %+v", w, b)
			}
		}
		// Who did not win may leave without changing anything.
		rest := bids[:0:0]
		for _, b := range bids {
			if b.box == won || rapid.Bool().Draw(t, "stays") {
				rest = append(rest, b)
			}
		}
		if again := elect(id, rest); again != won {
			t.Fatalf("losers left and %s became %s", won, again)
		}
	})
}

func TestElectionSpreadsAssets(t *testing.T) {
	var bids []bid
	for i := range 4 {
		box := fmt.Sprintf("box-%d", i)
		bids = append(bids, bid{box: box, hash: boxHash(box)})
	}
	count := map[string]int{}
	for range 4000 {
		var id asset.ID
		for j := range id {
			id[j] = byte(rand.Uint32())
		}
		count[elect(id, bids)]++
	}
	for box, n := range count {
		if n < 850 || n > 1150 {
			t.Errorf("%s carries %d of 4000", box, n)
		}
	}
	if elect(testID(1), nil) != "" {
		t.Error("a courier without bids")
	}
}

func TestFloodOfHintsIsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := newCandidates()
	c.ownPort = simPort
	good := netip.AddrPortFrom(simIP(1), simPort)
	c.add(good, "box-1", false, false, now)
	c.admitted("box-2", netip.AddrPortFrom(simIP(2), 7777), now)
	for i := range 50_000 {
		a := netip.AddrFrom4([4]byte{192, 168, byte(i % 4), byte(i / 7)})
		c.add(netip.AddrPortFrom(a, uint16(1024+i%60000)), fmt.Sprintf("fake-%d", i), false, false, now)
	}
	if len(c.by) > maxCandidates {
		t.Errorf("%d candidates", len(c.by))
	}
	perAddr := map[netip.Addr]int{}
	for at := range c.by {
		perAddr[at.Addr()]++
	}
	for a, n := range perAddr {
		if n > maxPerAddress || n != c.per[a] {
			t.Errorf("%s has %d candidates, counted %d", a, n, c.per[a])
		}
	}
	if c.by[good] == nil || c.by[netip.AddrPortFrom(simIP(2), 7777)] == nil {
		t.Error("the flood pushed the real boxes out")
	}
	none := func(*candidate) bool { return false }
	if due := c.due(now.Add(time.Second), dialsAtOnce, none); len(due) != dialsAtOnce || due[0].hint != "box-2" {
		t.Errorf("due %d, first %+v", len(due), due[0])
	}
	c.lost("box-2", now)
	c.expire(now.Add(hintLife+time.Minute), func(string) bool { return false })
	if len(c.by) != 1 {
		t.Errorf("%d candidates are left after their time", len(c.by))
	}
	c.expire(now.Add(lostLife+time.Minute), func(string) bool { return false })
	if len(c.by) != 0 || len(c.per) != 0 {
		t.Errorf("%d candidates, %d addresses are left for ever", len(c.by), len(c.per))
	}
}

func TestBackoffHasJitterAndBounds(t *testing.T) {
	now := time.Unix(1e9, 0)
	at := netip.AddrPortFrom(simIP(1), simPort)
	for name, k := range map[string]struct {
		prepare func(*candidates)
		limit   time.Duration
	}{
		"hint":   {func(*candidates) {}, retryHint},
		"static": {func(c *candidates) { c.add(at, "", true, false, now) }, retryStatic},
		"lost":   {func(c *candidates) { c.admitted("b", at, now); c.lost("b", now) }, retryFresh},
	} {
		c := newCandidates()
		c.add(at, "", false, false, now)
		k.prepare(c)
		seen := map[time.Duration]bool{}
		for range 50 {
			c.failed(at, now)
			wait := c.by[at].next.Sub(now)
			if wait <= 0 || wait > k.limit+retryAtLeast {
				t.Errorf("%s: waits %v, at most %v", name, wait, k.limit)
			}
			seen[wait] = true
		}
		if len(seen) < 40 {
			t.Errorf("%s: only %d different waits of 50", name, len(seen))
		}
	}
}

// TestHintsAreOnlyHints: what a reflector, another fleet, a liar or this box itself says by mDNS leads nowhere.
func TestHintsAreOnlyHints(t *testing.T) {
	l := &LAN{
		id: "box-0", found: newCandidates(), own: map[netip.Addr]bool{simIP(0): true},
		onlink: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}, links: map[string]*link{},
	}
	l.opt.Port, l.opt.now = simPort, time.Now
	ad := advert{id: "box-0", fleetHash: fleetHash("acme"), port: simPort}
	here := []netip.Addr{simIP(1)}
	for name, h := range map[string]hint{
		"itself":             {id: "box-0", fleetHash: ad.fleetHash, port: simPort, addrs: here},
		"another fleet":      {id: "box-1", fleetHash: fleetHash("other"), port: simPort, addrs: here},
		"no fleet":           {id: "box-1", port: simPort, addrs: here},
		"no name":            {fleetHash: ad.fleetHash, port: simPort, addrs: here},
		"long name":          {id: string(make([]byte, maxBoxID+1)), fleetHash: ad.fleetHash, port: simPort, addrs: here},
		"no port":            {id: "box-1", fleetHash: ad.fleetHash, addrs: here},
		"reflected":          {id: "box-1", fleetHash: ad.fleetHash, port: simPort, addrs: []netip.Addr{netip.MustParseAddr("192.168.2.11")}},
		"on the internet":    {id: "box-1", fleetHash: ad.fleetHash, port: simPort, addrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}},
		"this box elsewhere": {id: "clone", fleetHash: ad.fleetHash, port: simPort, addrs: []netip.Addr{simIP(0)}},
	} {
		l.takeHint(ad, h)
		if len(l.found.by) != 0 {
			t.Errorf("%s: became a candidate", name)
			l.found = newCandidates()
		}
	}
	many := make([]netip.Addr, 100)
	for i := range many {
		many[i] = simIP(i)
	}
	l.takeHint(ad, hint{id: "box-1", fleetHash: ad.fleetHash, port: simPort, addrs: many})
	if n := len(l.found.by); n == 0 || n > maxHintAddrs {
		t.Errorf("%d candidates from one hint", n)
	}
}

func TestClassOfCableRadioAndUptime(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		opinion int
		radio   bool
		up      time.Duration
		want    int
	}{{0, false, time.Hour, 0}, {0, true, time.Hour, 1}, {0, false, time.Minute, 1}, {0, true, 0, 2}, {2, true, 0, 2}, {1, false, time.Hour, 1}} {
		l := &LAN{self: Self{Class: c.opinion}, radio: c.radio, started: now.Add(-c.up)}
		l.opt.now = func() time.Time { return now }
		if got := l.ownClass(); got != c.want {
			t.Errorf("%+v: class %d", c, got)
		}
	}
}

func TestSlept(t *testing.T) {
	now := time.Now()
	if slept(now, now.Add(time.Second)) {
		t.Error("a late tick is no sleep")
	}
	if !slept(now, now.Add(silence+time.Second)) {
		t.Error("a stopped process did not notice")
	}
	suspended := now.Round(0).Add(time.Hour) // only the wall clock went on
	if !slept(now, suspended) {
		t.Error("a suspended machine did not notice")
	}
}

// moving is wants of which something has come already.
func moving(ids ...asset.ID) Self {
	s := wants(ids...)
	for i := range s.Wants {
		s.Wants[i].Have, s.Wants[i].WANBytes = 1, 1<<20
	}
	return s
}
