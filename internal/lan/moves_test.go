package lan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// hints is multicast DNS in a bubble: what is said is heard by who listens.
type hints struct {
	mu    sync.Mutex
	heard []func(hint)
}

func (h *hints) discover(ctx context.Context, _ advert, _ []nic, found func(hint)) error {
	h.mu.Lock()
	h.heard = append(h.heard, found)
	h.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (h *hints) say(id string, at netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, found := range h.heard {
		found(hint{id: id, fleetHash: fleetHash("acme"), port: int(at.Port()), addrs: []netip.Addr{at.Addr()}})
	}
}

// TestABoxThatMovedIsFound: the same box comes back at another port, then at another address.
func TestABoxThatMovedIsFound(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		n, mdns := newSimNet(), &hints{}
		secure := func(i *testIdentity) func(net.Listener) net.Listener {
			return func(l net.Listener) net.Listener { return handshaken(l, i.config(ALPN)) }
		}
		mine, theirs := ca.box(t, "box-0"), ca.box(t, "box-1")
		a := n.run(t, 0, Options{Identity: mine, PeerOf: testPeerOf, Port: simPort, MDNS: true, discover: mdns.discover}, secure(mine))
		defer a.stop()
		synctest.Wait()
		for _, to := range []struct{ number, port int }{{1, simPort}, {1, 7777}, {2, 7777}} {
			b := n.run(t, to.number, Options{Identity: theirs, PeerOf: testPeerOf, Port: to.port}, secure(theirs))
			at := netip.AddrPortFrom(simIP(to.number), uint16(to.port))
			mdns.say("box-1", at)
			time.Sleep(retryFresh + time.Second)
			if list := a.Neighbours(); len(list) != 1 || list[0].Addr != at {
				t.Errorf("at %v: neighbours %+v", at, list)
			}
			b.stop()
			time.Sleep(time.Second)
			if list := a.Neighbours(); len(list) != 0 {
				t.Errorf("it said goodbye, and is a neighbour still: %+v", list)
			}
		}
	})
}

// TestACourierThatSlept: a machine is suspended while it is the courier. When it goes on, its wall clock has made a leap; it
// must not take itself for the courier for a moment, as another one is by then.
func TestACourierThatSlept(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet()
		var asleep [3]atomic.Int64 // how long each has slept
		boxes := make([]*simBox, len(asleep))
		for i := range boxes {
			ident := ca.box(t, fmt.Sprintf("box-%d", i))
			opt := Options{Identity: ident, PeerOf: testPeerOf, Port: simPort}
			opt.now = func() time.Time { return time.Now().Add(time.Duration(asleep[i].Load())) }
			for j := range boxes {
				opt.Static = append(opt.Static, netip.AddrPortFrom(simIP(j), simPort).String())
			}
			boxes[i] = n.run(t, i, opt, func(l net.Listener) net.Listener { return handshaken(l, ident.config(ALPN)) })
		}
		defer stopAll(boxes)
		id := testID(6)
		time.Sleep(settleTime + time.Second)
		for _, b := range boxes {
			b.SetSelf(moving(id))
		}
		time.Sleep(time.Second)
		who := couriers(boxes, id)
		if len(who) != 1 {
			t.Fatalf("couriers %v", who)
		}
		sleeper := who[0]
		others := without(boxes, sleeper)
		n.setCut(func(a, b netip.Addr) bool { return a == simIP(sleeper) || b == simIP(sleeper) })
		time.Sleep(silence + time.Second)
		if who := couriers(others, id); len(who) != 1 {
			t.Fatalf("couriers while one sleeps: %v", who)
		}
		// The others have gone on for these seconds; the sleeper's loop did, too, as the simulation cannot stop it alone: what
		// it has made of being alone is what it must give up when it finds that the clock has leapt.
		asleep[sleeper].Store(int64(time.Hour))
		n.setCut(nil)
		for range 100 {
			if who := couriers(boxes, id); slices.Contains(who, sleeper) && len(who) > 1 {
				t.Fatalf("couriers after the sleep: %v, %d slept", who, sleeper)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if who := couriers(boxes, id); len(who) != 1 {
			t.Errorf("couriers at last: %v", who)
		}
	})
}

func without(boxes []*simBox, out int) []*simBox {
	return slices.Delete(slices.Clone(boxes), out, out+1)
}

// TestNobodyIsWaitedForWhoHasSpoken: who wants something new listens for others for a moment, and no longer than until all
// have told.
func TestNobodyIsWaitedForWhoHasSpoken(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		boxes := household(t, newSimNet(), ca, 4)
		defer stopAll(boxes)
		first, second := testID(1), testID(2)
		for _, b := range boxes {
			b.SetSelf(wants(first))
		}
		time.Sleep(hearTime * 2 / 3)
		if who := couriers(boxes, first); len(who) != 1 {
			t.Errorf("all have spoken: couriers %v", who)
		}
		time.Sleep(time.Second)
		for _, b := range boxes[:3] { // the last one is not meant
			b.SetSelf(wants(first, second))
		}
		time.Sleep(hearTime * 2 / 3)
		if who := couriers(boxes, second); len(who) != 0 {
			t.Errorf("one has not spoken: couriers %v", who)
		}
		time.Sleep(hearTime)
		if who := couriers(boxes, second); len(who) != 1 {
			t.Errorf("it has been listened for: couriers %v", who)
		}
	})
}

// TestMoreBoxesThanAHome: the 65th neighbour is not let in, the box says so, and it comes in when another goes.
func TestMoreBoxesThanAHome(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet()
		ident := ca.box(t, "box-0")
		hub := n.run(t, 0, Options{Identity: ident, PeerOf: testPeerOf, Port: simPort},
			func(l net.Listener) net.Listener { return handshaken(l, ident.config(ALPN)) })
		boxes := []*simBox{hub}
		defer func() { stopAll(boxes) }()
		for i := 1; i <= MaxNeighbours+2; i++ {
			boxes = append(boxes, n.start(t, ca.box(t, fmt.Sprintf("box-%d", i)), i, 1)) // knows the first one alone
		}
		time.Sleep(time.Minute)
		if got := len(hub.Neighbours()); got != MaxNeighbours || !hub.health.Has("lan-full") {
			t.Fatalf("%d neighbours, health %v", got, hub.health.List())
		}
		gone := 0
		for i := len(boxes) - 1; i > 0 && gone < 2; i-- {
			if len(boxes[i].Neighbours()) > 0 {
				boxes[i].stop()
				boxes = slices.Delete(boxes, i, i+1)
				gone++
			}
		}
		time.Sleep(time.Minute)
		if got := len(hub.Neighbours()); got != MaxNeighbours || hub.health.Has("lan-full") {
			t.Errorf("two have gone, two were waiting: %d neighbours, health %v", got, hub.health.List())
		}
	})
}
