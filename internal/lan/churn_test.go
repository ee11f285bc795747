package lan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
)

// churnHours is how long the simulated churn lasts; `make test-churn` takes a whole day.
func churnHours() time.Duration {
	if n, err := strconv.Atoi(os.Getenv("LAN_CHURN_HOURS")); err == nil {
		return time.Duration(n) * time.Hour
	}
	return 3 * time.Hour
}

// TestChurn: hours of boxes that come, go, die, sleep and are cut off. At quiet moments there is one courier for
// each asset, and goroutines, heap and tables stay within bounds; at the end nothing is left.
func TestChurn(t *testing.T) {
	if testing.Short() {
		t.Skip("hours of simulated churn take some seconds")
	}
	const slots = 5
	ca := newCA(t, "acme")
	ids := []asset.ID{testID(1), testID(2), testID(3)}
	synctest.Test(t, func(t *testing.T) {
		idents := make([]*testIdentity, slots)
		for i := range idents {
			idents[i] = ca.box(t, fmt.Sprintf("box-%d", i))
		}
		rng := rand.New(rand.NewPCG(6, 22))
		net := newSimNet()
		boxes := make([]*simBox, slots)
		cut := map[netip.Addr]bool{}
		start := func(i int) {
			boxes[i] = net.start(t, idents[i], i, slots)
			boxes[i].SetSelf(moving(ids...))
		}
		for i := range boxes {
			start(i)
		}
		time.Sleep(10 * time.Second)
		base, peak := measure(net, boxes), measure(net, boxes)
		quiet := 0
		for begin := time.Now(); time.Since(begin) < churnHours(); {
			switch i := rng.IntN(slots); rng.IntN(6) {
			case 0, 1: // goes in order or comes back
				if boxes[i] != nil {
					boxes[i].stop()
					boxes[i] = nil
				} else {
					start(i)
				}
			case 2: // dies without a word, restarts
				if boxes[i] != nil {
					net.setCut(func(a, b netip.Addr) bool { return a == simIP(i) || b == simIP(i) || cut[a] != cut[b] })
					boxes[i].stop()
					start(i)
					time.Sleep(time.Duration(rng.IntN(10)) * time.Second)
				}
			case 3: // the home falls apart
				for j := range slots {
					cut[simIP(j)] = rng.IntN(2) == 0
				}
			case 4: // assets come and go
				if boxes[i] != nil {
					boxes[i].SetSelf(Self{WAN: true, Holds: ids[:rng.IntN(3)]})
					time.Sleep(time.Second)
					boxes[i].SetSelf(moving(ids...))
				}
			default: // whole again, and quiet for a while
				clear(cut)
				net.setCut(nil)
				for j := range boxes {
					if boxes[j] == nil {
						start(j)
					}
				}
				time.Sleep(settleTime + 10*time.Second)
				for _, id := range ids {
					// Nothing moves here, so couriers are voted down now and then: that takes a moment.
					for try := 0; len(couriers(boxes, id)) != 1; try++ {
						time.Sleep(50 * time.Millisecond)
						if try > 10 {
							t.Fatalf("%v in: couriers %v of %s", time.Since(begin), couriers(boxes, id), id.Short())
						}
					}
				}
				quiet++
				for j := range boxes { // the hours in which nobody wants anything
					boxes[j].SetSelf(Self{WAN: true, Holds: ids})
				}
				time.Sleep(time.Duration(rng.IntN(3600)) * time.Second)
				for j := range boxes {
					boxes[j].SetSelf(moving(ids...))
				}
				m := measure(net, boxes)
				peak.goroutines, peak.relays = max(peak.goroutines, m.goroutines), max(peak.relays, m.relays)
				peak.heap, peak.candidates = max(peak.heap, m.heap), max(peak.candidates, m.candidates)
			}
			snapshot := make(map[netip.Addr]bool, len(cut))
			for a, v := range cut {
				snapshot[a] = v
			}
			net.setCut(func(a, b netip.Addr) bool { return snapshot[a] != snapshot[b] })
			time.Sleep(time.Duration(rng.IntN(300)) * time.Second)
		}
		t.Logf("%d quiet moments; at first %+v, at most %+v", quiet, base, peak)
		if quiet == 0 {
			t.Error("no quiet moment: nothing was looked at")
		}
		if peak.candidates > slots*slots || peak.goroutines-peak.relays > base.goroutines-base.relays+slots ||
			peak.heap > 3*base.heap+8<<20 {
			t.Errorf("grew: %+v became %+v", base, peak)
		}
		net.setCut(nil)
		for _, b := range boxes {
			if b != nil {
				b.stop()
			}
		}
	}) // the bubble does not end before every goroutine has
}

type measured struct {
	goroutines, relays, candidates int
	heap                           uint64
}

func measure(net *simNet, boxes []*simBox) measured {
	synctest.Wait()
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	net.mu.Lock()
	m := measured{goroutines: runtime.NumGoroutine(), relays: net.relays, heap: mem.HeapAlloc}
	net.mu.Unlock()
	for _, b := range boxes {
		m.candidates += int(b.Stats().Candidates)
	}
	return m
}
