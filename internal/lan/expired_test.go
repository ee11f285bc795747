package lan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/ca"
	"boxd/internal/health"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
)

// trueBox is a box with a real certificate of a real authority.
type trueBox struct {
	*simBox
	id     *identity.Identity
	mux    *identity.Mux
	health *health.Set // of the identity
	number int
	end    func()
}

const trueBoxes = 4 // that know each other's addresses

func newTrueBox(f *identitytest.Fleet, number int) *trueBox {
	b := &trueBox{health: health.New(nil), number: number}
	b.id = f.Box(fmt.Sprintf("box-%d", number), "home", func(o *identity.Options) { o.Health = b.health })
	return b
}

func (b *trueBox) start(t *testing.T, n *simNet) *trueBox {
	t.Helper()
	opt := Options{Identity: b.id, Port: simPort}
	for i := range trueBoxes {
		opt.Static = append(opt.Static, netip.AddrPortFrom(simIP(i), simPort).String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	b.simBox = n.run(t, b.number, opt, func(l net.Listener) net.Listener {
		b.mux = b.id.NewMux(l)
		home := b.mux.Listener(ALPN)
		wg.Go(func() { _ = b.mux.Run(ctx) })
		return home
	})
	wg.Go(func() { _ = b.id.Run(ctx) })
	b.end = func() {
		b.stop()
		cancel()
		wg.Wait()
	}
	return b
}

// TestAHomeWhoseCertificatesHaveEnded: the fleet manager was not to be reached for so long that every certificate in the
// home has ended. Who is connected stays so, and shares on; nobody enters any more, and the boxes say why.
func TestAHomeWhoseCertificatesHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = time.Hour
		f := identitytest.New(t, func(o *ca.Options) { o.BoxLife = life })
		n := newSimNet()
		a, b := newTrueBox(f, 0).start(t, n), newTrueBox(f, 1).start(t, n)
		defer func() { a.end() }()
		defer func() { b.end() }()
		time.Sleep(settleTime)
		if got := a.neighbours(); !slices.Equal(got, []string{"box-1"}) {
			t.Errorf("neighbours %v", got)
		}
		time.Sleep(life)
		if got := a.neighbours(); !slices.Equal(got, []string{"box-1"}) {
			t.Errorf("after the end of the certificates the neighbours are %v", got)
		}
		if !a.health.Has("certificate-expired") || !b.health.Has("certificate-expired") {
			t.Errorf("health %v", a.health.List())
		}
		id := testID(1)
		a.SetSelf(Self{WAN: true, Holds: []asset.ID{id}})
		time.Sleep(time.Second)
		if list := b.Neighbours(); len(list) != 1 || !slices.Contains(list[0].Holds, id) {
			t.Errorf("the other box is told nothing any more: %+v", list)
		}
		// Who starts again is let in by nobody and lets nobody in; those whose certificates are new find each other.
		b.end()
		b.start(t, n)
		c, d := newTrueBox(f, 2).start(t, n), newTrueBox(f, 3).start(t, n)
		defer c.end()
		defer d.end()
		time.Sleep(time.Minute)
		for _, x := range []*trueBox{a, b} {
			if got := x.neighbours(); len(got) != 0 {
				t.Errorf("box %d came in with, or let in, a certificate that has ended: %v", x.number, got)
			}
		}
		if got := c.neighbours(); !slices.Equal(got, []string{"box-3"}) {
			t.Errorf("neighbours of a box with a new certificate: %v", got)
		}
		if n := c.mux.Refusals().Expired; n == 0 {
			t.Errorf("it was not counted: %+v", c.mux.Refusals())
		}
	})
}
