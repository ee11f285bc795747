package lan

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
)

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// TestOwnWordWakesNobody: who tells what it wants at each change of the household, as the fetcher does, is not woken by
// that, unless it changes a courier.
func TestOwnWordWakesNobody(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		boxes := household(t, newSimNet(), ca, 1)
		defer stopAll(boxes)
		b, id := boxes[0], testID(1)
		woken := func(s Self) bool {
			ch := b.Changed()
			b.SetSelf(s)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			return isClosed(ch)
		}
		s := wants(id)
		if !woken(s) {
			t.Error("it has become courier, and its watcher does not know")
		}
		for range 5 {
			s = Self{WAN: true, Wants: slices.Clone(s.Wants), WANGot: s.WANGot + 1}
			s.Wants[0].Have++
			s.Wants[0].WANBytes += 1000
			if woken(s) {
				t.Fatal("woken by its own progress")
			}
		}
		s = Self{Wants: s.Wants}
		if !woken(s) {
			t.Error("it cannot be courier any more, and its watcher does not know")
		}
		if woken(s) || woken(Self{Holds: []asset.ID{id}}) {
			t.Error("woken by its own word")
		}
	})
}

// TestWatchersKnowEveryCourier: whatever changes a courier (a want, a neighbour that comes, goes, stalls, is voted down or
// has it all), who asks again at each change knows of it.
func TestWatchersKnowEveryCourier(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet()
		boxes := household(t, n, ca, 3)
		defer stopAll(boxes)
		ids := []asset.ID{testID(1), testID(2), testID(3)}
		known := make([][]string, len(boxes)) // what each box's watcher has seen at the last change
		stop, stopped := make(chan struct{}), make(chan struct{})
		look := make(chan func()) // reads known on the watchers' goroutine
		go func() {
			defer close(stopped)
			changes := make([]<-chan struct{}, len(boxes))
			for {
				for i, b := range boxes {
					if changes[i] == nil || isClosed(changes[i]) {
						changes[i] = b.Changed()
						known[i] = nil
						for _, id := range ids {
							box, _ := b.Courier(id)
							known[i] = append(known[i], box)
						}
					}
				}
				select {
				case <-stop:
					return
				case f := <-look:
					f()
				case <-changes[0]:
				case <-changes[1]:
				case <-changes[2]:
				}
			}
		}()
		check := func(what string) {
			t.Helper()
			time.Sleep(tick)
			for range 100 { // a courier that time alone changes is noticed at the next tick
				same := make(chan bool)
				look <- func() {
					for i, b := range boxes {
						for j, id := range ids {
							if box, _ := b.Courier(id); box != known[i][j] {
								same <- false
								return
							}
						}
					}
					same <- true
				}
				if <-same {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			t.Fatalf("%s: a watcher was not woken", what)
		}
		for _, b := range boxes {
			b.SetSelf(wants(ids[:2]...))
			check("a want")
		}
		for _, b := range boxes {
			b.SetSelf(wants(ids...))
			check("one more want")
		}
		stalls := wants(ids...)
		for i := range stalls.Wants {
			stalls.Wants[i].Stalled = true
		}
		for _, b := range boxes[:2] {
			b.SetSelf(stalls)
			check("a courier that stalls")
		}
		for range 75 { // nothing moves: couriers are voted down, and may carry again
			time.Sleep(time.Second)
			check("a vote")
		}
		boxes[2].SetSelf(Self{WAN: true, Holds: ids})
		check("a holder")
		for range 75 { // from which nothing comes
			time.Sleep(time.Second)
			check("a vote against a holder")
		}
		n.setCut(func(_, _ netip.Addr) bool { return true })
		check("the home is cut in pieces")
		time.Sleep(silence)
		check("the neighbours are gone")
		n.setCut(nil)
		for range 30 {
			time.Sleep(time.Second)
			check("they come back")
		}
		boxes[0].SetSelf(Self{WAN: true})
		check("a want is gone")
		close(stop)
		<-stopped
	})
}
