package fetch_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/fetch"
)

func (o *originServer) misbehave(h func(http.ResponseWriter, *http.Request) bool) { o.hook.Store(&h) }

func TestAPlayerIsServedFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 24<<20, 256<<10)
	home := newHousehold(1)
	b := w.box(home, "box-a", 1, "", func(o *fetch.Options, _ *cacheOptions) { o.Limits.WANDown = limit(2 << 20) })
	b.await(info.ID, "fetching", func(s fetch.AssetStatus) bool { return s.Verified > 0 })
	ca, _ := b.cache.Asset(info.ID)
	r, err := ca.OpenFile(t.Context(), "film")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, off := range []int64{20 << 20, 10 << 20, 22 << 20} { // a player that seeks
		before := ca.HaveCount()
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 64<<10)
		if _, err := io.ReadFull(r, got); err != nil {
			t.Fatal(err)
		}
		if string(got) != string(w.data[info.ID][off:off+int64(len(got))]) {
			t.Fatal("wrong bytes")
		}
		// In the order of the file up to 80 pieces would come first.
		if n := ca.HaveCount() - before; n > 30 {
			t.Errorf("%d pieces came before the one that the player waited for", n)
		}
	}
}

func TestAFollowersPlayerIsServedThroughTheCourier(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 24<<20, 256<<10)
	home := newHousehold(1)
	slow := func(o *fetch.Options, _ *cacheOptions) { o.Limits.WANDown = limit(2 << 20) }
	a := w.box(home, "box-a", 1, "", slow)
	b := w.box(home, "box-b", 2, "", slow)
	b.await(info.ID, "fetching", func(s fetch.AssetStatus) bool { return s.Verified > 0 })
	ca, _ := b.cache.Asset(info.ID)
	r, err := ca.OpenFile(t.Context(), "film")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	before := ca.HaveCount()
	if _, err := r.Seek(20<<20, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	sa, _ := a.asset(info.ID)
	sb, _ := b.asset(info.ID)
	t.Logf("courier %+v, follower %+v", sa.Bytes, sb.Bytes)
	if n := ca.HaveCount() - before; n > 30 {
		t.Errorf("%d pieces came before the one that the player waited for", n)
	}
	if sb.Bytes.WAN() != 0 {
		t.Errorf("the follower used the access line: %+v", sb.Bytes)
	}
}

func TestWrongBytesOfTheOriginAreNeverAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 4<<20, 256<<10)
	w.origin.misbehave(func(rw http.ResponseWriter, r *http.Request) bool {
		http.ServeContent(rw, r, "x", time.Time{}, strings.NewReader(strings.Repeat("x", 4<<20)))
		return true
	})
	b := w.box(newHousehold(1), "box-a", 1, "", nil)
	s := b.await(info.ID, "told of the origin", func(s fetch.AssetStatus) bool {
		return s.OriginErr != "" && s.Wasted > 0 && s.Bytes.Origin == s.Wasted // a piece may just be on its way
	})
	if s.Verified != 0 || !b.health.Has("origin-unusable") {
		t.Fatalf("%+v, health %+v", s, b.health.List())
	}
	if !strings.Contains(s.Why, "other bytes") {
		t.Errorf("why: %q", s.Why)
	}
}

func TestADeadOriginAndTrackerAreSurvived(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 4<<20, 256<<10)
	var down atomic.Bool
	down.Store(true)
	w.origin.misbehave(func(rw http.ResponseWriter, _ *http.Request) bool {
		if down.Load() {
			rw.WriteHeader(http.StatusBadGateway)
		}
		return down.Load()
	})
	b := w.box(newHousehold(1), "box-a", 1, "", func(o *fetch.Options, _ *cacheOptions) {
		o.TrackerURL = "http://127.0.0.1:1/announce"
	})
	s := b.await(info.ID, "told of both", func(s fetch.AssetStatus) bool { return s.OriginErr != "" && s.TrackerErr != "" })
	t.Log(s.Why)
	down.Store(false)
	b.ready(info.ID)
}

func TestTheLastDiskErrorIsSurvived(t *testing.T) {
	t.Parallel()
	errnos := []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EROFS}
	if testing.Short() {
		errnos = errnos[:1]
	}
	for _, errno := range errnos {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			info := w.publish("film", 4<<20, 256<<10)
			mem := durable.NewMem(0)
			broken := make(chan struct{})
			mem.SetFault(func(op durable.Op) error {
				select {
				case <-broken:
					return nil
				default:
				}
				if op.Kind == "write" && strings.Contains(op.Name, info.ID.String()) && !strings.Contains(op.Name, ".torrent") {
					return errno
				}
				return nil
			})
			b := w.box(newHousehold(1), "box-a", 1, "", func(_ *fetch.Options, c *cacheOptions) {
				c.FS, c.Dir = mem, "/cache"
			})
			s := b.await(info.ID, "failed", func(s fetch.AssetStatus) bool { return s.State == fetch.Failed })
			t.Log(s.Code, s.Why)
			if s.Verified != 0 || !b.health.Has("fetch-store") || s.Code == "store" {
				t.Fatalf("%+v", s)
			}
			close(broken)
			b.await(info.ID, "complete", func(s fetch.AssetStatus) bool { return s.Verified == info.Length })
		})
	}
}

func TestAFullCacheRejectsAndSaysWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 8<<20, 256<<10)
	b := w.box(newHousehold(1), "box-a", 1, "", func(_ *fetch.Options, c *cacheOptions) { c.Quota = 1 << 20 })
	s := b.await(info.ID, "rejected", func(s fetch.AssetStatus) bool { return s.State == fetch.Rejected })
	t.Log(s.Code, s.Why)
	if s.Code != "no-space" || s.Bytes.Total() != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestEvictionTakesItOutOfTheSwarmFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.publish("old film", 6<<20, 256<<10)
	b := w.box(newHousehold(1), "box-a", 1, "", func(_ *fetch.Options, c *cacheOptions) {
		c.Quota, c.KeepPrefix = 9<<20, -1
	})
	b.ready(old.ID)
	// The operator's next campaign does not name the old film, and there is no space for both.
	w.assets, w.camp.Assets = nil, nil
	fresh := w.publish("new film", 7<<20, 256<<10)
	b.catalog.set(w.snapshot())
	b.ready(fresh.ID)
	if _, ok := b.cache.Asset(old.ID); ok {
		t.Error("the old film is still there")
	}
	b.await(fresh.ID, "alone", func(fetch.AssetStatus) bool { _, ok := b.asset(old.ID); return !ok })
	if tot := b.Status().Bytes; tot.Total() < old.Length+fresh.Length {
		t.Errorf("the totals forgot what was fetched: %+v", tot)
	}
}

func TestWithdrawnAssetsLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 4<<20, 256<<10)
	b := w.box(newHousehold(1), "box-a", 1, "", nil)
	b.ready(info.ID)
	w.camp.Assets = nil
	snap := w.snapshot()
	snap.Withdrawn = []asset.ID{info.ID}
	b.catalog.set(snap)
	b.gone(info.ID)
	if _, ok := b.cache.Asset(info.ID); ok {
		t.Error("it is still in the cache")
	}
}

// A pin does not keep what is withdrawn. As long as a player reads it nobody else is told of it or gets it.
func TestAWithdrawnAssetThatIsPinnedAndReadIsNotServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 4<<20, 256<<10)
	home := newHousehold(1)
	var hooks fetch.Hooks
	a := w.box(home, "box-a", 1, "", func(o *fetch.Options, _ *cacheOptions) {
		made := o.NewSwarm
		o.NewSwarm = func(h fetch.Hooks) fetch.Swarm { hooks = h; return made(h) }
	})
	a.ready(info.ID)
	told := func() bool {
		home.mu.Lock()
		defer home.mu.Unlock()
		return slices.Contains(home.boxes["box-a"].self.Holds, info.ID)
	}
	if !told() || !hooks.Lazy(t.Context(), info.ID) {
		t.Fatal("it is not served while it is not withdrawn")
	}
	if err := a.cache.Pin(info.ID, true); err != nil {
		t.Fatal(err)
	}
	held, _ := a.cache.Asset(info.ID)
	player, err := held.OpenFile(t.Context(), "film")
	if err != nil {
		t.Fatal(err)
	}
	w.withdraw(a, info.ID)
	s := a.await(info.ID, "withdrawn", func(s fetch.AssetStatus) bool { return s.Code == "withdrawn" })
	if s.Loaded || told() {
		t.Errorf("loaded %v, the home is told %v", s.Loaded, told())
	}
	if hooks.Lazy(t.Context(), info.ID) {
		t.Error("whoever names it gets it")
	}
	if err := player.Close(); err != nil {
		t.Fatal(err)
	}
	a.gone(info.ID)
	if _, ok := a.cache.Asset(info.ID); ok || a.cache.Pinned(info.ID) {
		t.Error("it is still in the cache, or pinned")
	}
}

// withdraw takes an asset back, as a box reads it in the catalog.
func (w *world) withdraw(b *box, id asset.ID) {
	w.camp.Assets = nil
	snap := w.snapshot()
	snap.Withdrawn = []asset.ID{id}
	b.catalog.set(snap)
}

// What a player waits for is not fetched any more once it is withdrawn.
func TestAWithdrawnAssetIsNotFetchedForAPlayer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 4<<20, 256<<10)
	hold := func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	w.origin.hook.Store(&hold)
	a := w.box(newHousehold(1), "box-a", 1, "", nil)
	a.await(info.ID, "loaded", func(s fetch.AssetStatus) bool { return s.Loaded })
	held, _ := a.cache.Asset(info.ID)
	player, err := held.OpenFile(t.Context(), "film")
	if err != nil {
		t.Fatal(err)
	}
	w.withdraw(a, info.ID)
	if s := a.await(info.ID, "withdrawn", func(s fetch.AssetStatus) bool { return s.Code == "withdrawn" }); s.Loaded || s.WAN {
		t.Errorf("loaded %v, access line %v", s.Loaded, s.WAN)
	}
	if err := player.Close(); err != nil {
		t.Fatal(err)
	}
	a.gone(info.ID)
}

func TestKilledAndStartedAgainItGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 24<<20, 256<<10)
	home := newHousehold(1)
	slow := func(o *fetch.Options, _ *cacheOptions) { o.Limits.WANDown = limit(8 << 20) }
	b := w.box(home, "box-a", 1, "", slow)
	b.await(info.ID, "half way", func(s fetch.AssetStatus) bool { return s.Verified > info.Length/2 })
	b.kill()
	before, _ := b.asset(info.ID)
	b = w.box(home, "box-a", 1, b.dir, slow)
	s := b.ready(info.ID)
	if s.Bytes.Total() < before.Bytes.Total() || float64(s.Bytes.Total()) > 1.2*float64(info.Length) {
		t.Errorf("received %+v before and %+v after, of %d", before.Bytes, s.Bytes, info.Length)
	}
}

func TestPausedAndZeroFetchNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := w.publish("film", 4<<20, 256<<10)
	b := w.box(newHousehold(1), "box-a", 1, "", func(o *fetch.Options, _ *cacheOptions) { o.Limits.WANDown = limit(0) })
	s := b.await(info.ID, "stopped", func(s fetch.AssetStatus) bool { return s.Code == "limit-zero" })
	t.Log(s.Why)
	b.SetPaused(true)
	b.SetLimits(fetch.Limits{})
	b.await(info.ID, "paused", func(s fetch.AssetStatus) bool { return s.Code == "paused" })
	if n := w.origin.sent.Load(); n != 0 {
		t.Fatalf("the origin sent %d bytes", n)
	}
	b.SetPaused(false)
	b.ready(info.ID)
}
