package engine

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/pace"
)

var (
	leech = Policy{WANDown: true, WANUp: true}
	seed  = Policy{Complete: true, WANUp: true}
)

func TestTransferOverMutualTLSCountsEveryByte(t *testing.T) {
	f := newFleet(t)
	data := content(5<<20 + 12345)
	tor := makeTorrent(t, "film", data, 256<<10)
	src, dst := newStore(t, tor, data), newStore(t, tor, nil)

	var a *box
	asked := make(chan asset.ID, 1)
	a = f.box(t, "box-a", func(o *Options) {
		o.Lazy = func(_ context.Context, id asset.ID) bool { // nothing is loaded until a dialler asks for it
			asked <- id
			return a.Load(src, seed, nil) == nil
		}
	})
	b := f.box(t, "box-b", nil)
	if err := b.Load(dst, leech, nil); err != nil {
		t.Fatal(err)
	}
	b.SetPriorities(dst.info.ID, all(Mine, dst.info.NumPieces()))
	b.AddPeers(dst.info.ID, Peer{Addr: a.addr})
	dst.wait(t, dst.info.NumPieces())
	if !dst.equal(data) {
		t.Fatal("wrong bytes")
	}
	if id := <-asked; id != dst.info.ID {
		t.Fatalf("asked to load %s", id)
	}
	st, _ := b.Stats(dst.info.ID)
	if st.Useful[WAN] != dst.info.Length || st.Received[WAN] < st.Useful[WAN] || st.Received[LAN] != 0 {
		t.Fatalf("counted %+v for %d bytes", st, dst.info.Length)
	}
	if len(st.Boxes) != 1 || st.Boxes[0].Box != "box-a" || st.Boxes[0].In != st.Received[WAN] || st.Boxes[0].Out != 0 {
		t.Errorf("from %+v, in all %+v", st.Boxes, st.Received)
	}
	for late := time.Now().Add(10 * time.Second); ; { // the last block is counted after the other end has it
		at, ok := a.Stats(dst.info.ID)
		if ok && len(at.Boxes) == 1 && at.Boxes[0] == (BoxBytes{"box-b", WAN, 0, st.Received[WAN]}) {
			break
		}
		runtime.Gosched()
		if time.Now().After(late) {
			t.Fatalf("box-a says that it gave %+v", at.Boxes)
		}
	}
}

func TestAPeerThatIsNotOfTheFleetIsRefused(t *testing.T) {
	ours, theirs := newFleet(t), newFleet(t)
	data := content(1 << 20)
	tor := makeTorrent(t, "film", data, 256<<10)
	src, dst := newStore(t, tor, data), newStore(t, tor, nil)
	a := theirs.box(t, "box-a", nil)
	if err := a.Load(src, seed, nil); err != nil {
		t.Fatal(err)
	}
	b := ours.box(t, "box-b", nil)
	if err := b.Load(dst, leech, nil); err != nil {
		t.Fatal(err)
	}
	r := &remote{key: "[fd00::1]:1", addr: a.addr, swarm: b.torrents[dst.info.ID]}
	if nc, err := b.dialBox(t.Context(), r); err == nil {
		_ = nc.Close()
		t.Fatal("a stranger was let in")
	}
	if self := ours.box(t, "box-b", nil); true {
		r.addr = self.addr
		if _, err := b.dialBox(t.Context(), r); err == nil {
			t.Fatal("a connection to our own name was let in")
		}
	}
}

func TestABadBoxIsBannedByNameAndTheFetchCompletes(t *testing.T) {
	f := newFleet(t)
	data := content(4 << 20)
	tor := makeTorrent(t, "film", data, 128<<10)
	bad := append([]byte(nil), data...)
	for i := 0; i < len(bad); i += 128 << 10 {
		bad[i] ^= 1
	}
	a, c := f.box(t, "box-bad", nil), f.box(t, "box-good", nil)
	if err := a.Load(newStore(t, tor, bad), seed, nil); err != nil {
		t.Fatal(err)
	}
	dst := newStore(t, tor, nil)
	b := f.box(t, "box-b", nil)
	if err := b.Load(dst, leech, nil); err != nil {
		t.Fatal(err)
	}
	id := dst.info.ID
	b.SetPriorities(id, all(Mine, dst.info.NumPieces()))
	b.AddPeers(id, Peer{Addr: a.addr}) // its name is not known before the handshake
	for changed := b.Changed(); len(b.Banned()) == 0; changed = b.Changed() {
		<-changed
	}
	if got := b.Banned(); got[0] != "box-bad" {
		t.Fatalf("banned %v", got)
	}
	// The good box shares the address of the bad one, and is not banned with it.
	if err := c.Load(newStore(t, tor, data), seed, nil); err != nil {
		t.Fatal(err)
	}
	b.AddPeers(id, Peer{Box: "box-good", Addr: c.addr})
	dst.wait(t, dst.info.NumPieces())
	if !dst.equal(data) {
		t.Fatal("wrong bytes")
	}
}

// busyStore refuses the first blocks, as the cache does while a player is being sent the piece that they replace.
type busyStore struct {
	*memStore
	refuse atomic.Int32
}

var errBusy = errors.New("in use")

func (s *busyStore) WriteAt(p []byte, off int64) (int, error) {
	if s.refuse.Add(-1) >= 0 {
		return 0, errBusy
	}
	return s.memStore.WriteAt(p, off)
}

func TestABlockThatTheStoreRefusedIsNotThePeersFault(t *testing.T) {
	f := newFleet(t)
	data := content(1 << 20)
	tor := makeTorrent(t, "film", data, 128<<10)
	a := f.box(t, "box-a", nil)
	if err := a.Load(newStore(t, tor, data), seed, nil); err != nil {
		t.Fatal(err)
	}
	dst := &busyStore{memStore: newStore(t, tor, nil)}
	dst.refuse.Store(5)
	failed := make(chan error, 10)
	b := f.box(t, "box-b", func(o *Options) {
		o.Taken = func(err error) bool { return errors.Is(err, errBusy) }
		o.OnFailure = func(_ asset.ID, err error) { failed <- err }
	})
	if err := b.Load(dst, leech, nil); err != nil {
		t.Fatal(err)
	}
	b.SetPriorities(dst.info.ID, all(Mine, dst.info.NumPieces()))
	b.AddPeers(dst.info.ID, Peer{Box: "box-a", Addr: a.addr})
	dst.wait(t, dst.info.NumPieces())
	if !dst.equal(data) {
		t.Error("wrong bytes")
	}
	b.learnBans(time.Now())
	if list := b.Banned(); len(list) > 0 {
		t.Errorf("banned %v", list)
	}
	select {
	case err := <-failed:
		t.Errorf("the store was given up: %v", err)
	default:
	}
}

func TestWANPolicyClosesConnections(t *testing.T) {
	f := newFleet(t)
	data := content(8 << 20)
	tor := makeTorrent(t, "film", data, 128<<10)
	a := f.box(t, "box-a", nil)
	if err := a.Load(newStore(t, tor, data), seed, nil); err != nil {
		t.Fatal(err)
	}
	dst := newStore(t, tor, nil)
	b := f.box(t, "box-b", nil)
	slow := pace.NewBucket(1 << 20)
	if err := b.Load(dst, leech, slow); err != nil {
		t.Fatal(err)
	}
	id := dst.info.ID
	b.SetPriorities(id, all(Mine, dst.info.NumPieces()))
	b.AddPeers(id, Peer{Box: "box-a", Addr: a.addr})
	dst.wait(t, 1)
	b.SetPolicy(id, Policy{})
	for {
		ch := b.Changed()
		b.mu.Lock()
		n := len(b.conns)
		b.mu.Unlock()
		if n == 0 {
			break
		}
		<-ch
	}
	slow.SetRate(pace.Unlimited)
	b.SetPolicy(id, leech)
	b.AddPeers(id, Peer{Box: "box-a", Addr: a.addr})
	dst.wait(t, dst.info.NumPieces())
	if dst.rewrites != 0 {
		t.Fatalf("%d verified pieces were written again", dst.rewrites)
	}
}

func TestAFailedStoreIsLatched(t *testing.T) {
	f := newFleet(t)
	data := content(1 << 20)
	tor := makeTorrent(t, "film", data, 128<<10)
	a := f.box(t, "box-a", nil)
	if err := a.Load(newStore(t, tor, data), seed, nil); err != nil {
		t.Fatal(err)
	}
	dst := newStore(t, tor, nil)
	dst.markErr = errors.New("no space left on device")
	failed := make(chan error, 10)
	b := f.box(t, "box-b", func(o *Options) { o.OnFailure = func(_ asset.ID, err error) { failed <- err } })
	if err := b.Load(dst, leech, nil); err != nil {
		t.Fatal(err)
	}
	b.SetPriorities(dst.info.ID, all(Mine, dst.info.NumPieces()))
	b.AddPeers(dst.info.ID, Peer{Box: "box-a", Addr: a.addr})
	if err := <-failed; !errors.Is(err, dst.markErr) {
		t.Fatalf("told of %v", err)
	}
	s, _ := b.swarm(dst.info.ID)
	if _, err := (diskPiece{s.disk, 0}).ReadAt(make([]byte, 1), 0); !errors.Is(err, dst.markErr) {
		t.Fatalf("a byte was served after the failure: %v", err)
	}
	b.Drop(dst.info.ID)
	if _, err := (diskPiece{s.disk, 0}).WriteAt(make([]byte, 1), 0); !errors.Is(err, errStoreClosed) {
		t.Fatalf("written after Drop: %v", err)
	}
}

func TestAddAndDropLeavesNothingBehind(t *testing.T) {
	f := newFleet(t)
	data := content(512 << 10)
	tor := makeTorrent(t, "film", data, 64<<10)
	a, b := f.box(t, "box-a", nil), f.box(t, "box-b", nil)
	if err := a.Load(newStore(t, tor, data), seed, nil); err != nil {
		t.Fatal(err)
	}
	round := func() {
		dst := newStore(t, tor, nil)
		if err := b.Load(dst, leech, nil); err != nil {
			t.Fatal(err)
		}
		b.SetPriorities(dst.info.ID, all(Mine, dst.info.NumPieces()))
		b.AddPeers(dst.info.ID, Peer{Box: "box-a", Addr: a.addr})
		dst.wait(t, dst.info.NumPieces())
		b.Drop(dst.info.ID)
	}
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	for range 20 {
		round()
	}
	goroutines, heap := measure()
	for range rounds {
		round()
	}
	g, h := measure()
	t.Logf("goroutines %d → %d, heap %d → %d KiB over %d rounds", goroutines, g, heap>>10, h>>10, rounds)
	if g > goroutines+20 {
		t.Errorf("goroutines grew from %d to %d", goroutines, g)
	}
	if h > heap+4<<20 {
		t.Errorf("heap grew from %d to %d bytes", heap, h)
	}
}

func measure() (goroutines int, heap uint64) {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

func TestServerNameRoundTrip(t *testing.T) {
	id := asset.ID{1, 2, 3}
	if got, ok := assetOf(ServerName(id)); !ok || got != id {
		t.Fatal(got, ok)
	}
	for _, bad := range []string{"", "boxd", "xyz.boxd", id.String(), id.String() + ".example"} {
		if _, ok := assetOf(bad); ok {
			t.Errorf("%q was taken", bad)
		}
	}
	if a, b := madeUpAddr("box", "x", 0), madeUpAddr("box", "x", 1); a == b || !a.Is6() || a == (netip.Addr{}) {
		t.Fatal("a new generation needs a new address")
	}
}
