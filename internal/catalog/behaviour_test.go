package catalog_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/durable"
	"boxd/internal/fleet/repo"
	"boxd/internal/health"
)

func TestFleetTargetsReachEveryBox(t *testing.T) {
	w := newWorld(t)
	a, b := w.put("home", "one", "a.mp4"), w.put("home", "two", "b.mp4")
	ops, _, err := ed25519.GenerateKey(nil)
	must(t, err)
	must(t, w.repo.Update(func(tx *repo.Tx) error {
		return errors.Join(tx.SetRevocations([]string{"0badc0de", "01"}), tx.SetOperationsKeys([]ed25519.PublicKey{ops}),
			tx.Withdraw(a.ID))
	}))
	var floor time.Time
	opt := w.options("box")
	opt.OnTime = func(at time.Time) { floor = at }
	c, err := catalog.Open(opt)
	must(t, err)
	must(t, c.Refresh(context.Background()))
	s := c.Snapshot()
	if !slices.Equal(s.Revoked, []string{"01", "0badc0de"}) || len(s.OperationsKeys) != 1 || !s.OperationsKeys[0].Equal(ops) {
		t.Errorf("revoked %v, operations keys %x", s.Revoked, s.OperationsKeys)
	}
	if !slices.Equal(s.Withdrawn, []asset.ID{a.ID}) || s.Assets[a.ID] != nil || s.Assets[b.ID] == nil || len(s.Campaigns) != 1 {
		t.Errorf("withdrawn %v, assets %v, campaigns %v", s.Withdrawn, s.Assets, s.Campaigns)
	}
	if !floor.Equal(w.now) || !s.SignedAt.Equal(w.now) {
		t.Errorf("time floor %s, signed at %s", floor, s.SignedAt)
	}
}

// A stolen timestamp key cannot push the time floor beyond what the other roles allow.
func TestTimeFloorIsBounded(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	f := w.forger("timestamp", "snapshot")
	ts := f.stamp()
	ts.Signed.Expires = w.now.AddDate(50, 0, 0)
	ts.Signed.UnrecognizedFields["boxd_signed_at"] = w.now.AddDate(40, 0, 0).Format(time.RFC3339)
	snap := f.snap()
	snap.Signed.Expires = w.now.AddDate(50, 0, 0)
	f.rewrite(snap, ts)
	m.set(f.files)
	opt := w.options("box")
	opt.OnTime = func(at time.Time) { t.Errorf("time floor raised to %s", at) }
	c, err := catalog.Open(opt)
	must(t, err)
	must(t, c.Refresh(context.Background()))
}

// A box that wakes in 1970 judges by its floor: it takes the catalog, but not one that expired before the floor.
func TestUntrustedClock(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	floor := w.now.Add(-time.Hour)
	opt := w.options("box")
	opt.Now = func() (time.Time, bool) { return floor, false }
	c, err := catalog.Open(opt)
	must(t, err)
	must(t, c.Refresh(context.Background()))
	floor = w.now.AddDate(0, 1, 0)
	if c.Snapshot().Fresh(floor) {
		t.Error("fresh beyond its expiry")
	}
	if err := c.Refresh(context.Background()); catalog.CodeOf(err) != catalog.CodeExpired {
		t.Errorf("an expired catalog: %v", err)
	}
}

func TestStagedRollout(t *testing.T) {
	w := newWorld(t)
	ref := w.put("home", "night", "film.mp4")
	c := catalog.Campaign{V: 1, ID: "night", Group: "home", Assets: []catalog.AssetRef{ref}}
	in := 0
	for i := range 2000 {
		box := fmt.Sprintf("box-%d", i)
		c.Rollout = &catalog.Rollout{PerMille: 100}
		small := c.Includes(box, nil)
		c.Rollout.PerMille = 500
		if small && !c.Includes(box, nil) {
			t.Fatalf("%s was in and fell out when the stage grew", box)
		}
		if small {
			in++
		}
		c.Rollout.PerMille = 1000
		if !c.Includes(box, nil) {
			t.Fatalf("%s is not in the last stage", box)
		}
	}
	if in < 150 || in > 250 {
		t.Errorf("%d of 2000 boxes are in the first tenth", in)
	}
	c.Rollout = &catalog.Rollout{Cohorts: []string{"pilot"}}
	must(t, w.repo.Update(func(tx *repo.Tx) error { return tx.PutCampaign(c) }))
	for _, groups := range [][]string{{"home"}, {"home", "pilot"}} {
		opt := w.options("box-" + strings.Join(groups, "-"))
		opt.Groups = func() []string { return groups }
		opt.BoxID = func() string { return "box-1" }
		cat, err := catalog.Open(opt)
		must(t, err)
		must(t, cat.Refresh(context.Background()))
		if got, want := len(cat.Snapshot().Campaigns), len(groups)-1; got != want {
			t.Errorf("groups %v: %d campaigns, want %d", groups, got, want)
		}
	}
}

// What one publisher lets expire costs nobody else anything, and what is on the box stays named.
func TestExpiredPublisherIsLeftOutAlone(t *testing.T) {
	w := newWorld(t)
	lazy := w.publisher("lazy")
	a := w.put("home", "night", "film.mp4")
	var b catalog.AssetRef
	must(t, w.repo.Update(func(tx *repo.Tx) (err error) {
		if b, err = tx.PutAsset("lazy", torrent(t, "lazy.mp4", []byte("lazy"))); err != nil {
			return err
		}
		return tx.PutCampaign(catalog.Campaign{ID: "lazy", Group: "home", Assets: []catalog.AssetRef{b}})
	}))
	c := w.box()
	if len(c.Snapshot().Assets) != 2 {
		t.Fatalf("%+v", c.Snapshot())
	}
	m := w.mirrored()
	f := w.forger("timestamp", "snapshot")
	role := f.role("publisher-lazy")
	role.Signed.Expires = w.now.Add(-time.Second)
	f.publish("publisher-lazy", role, lazy)
	m.set(f.files)
	c = w.open()
	must(t, c.Refresh(context.Background()))
	for range 2 { // also from disk
		s := c.Snapshot()
		if s.Assets[a.ID] == nil || s.Assets[b.ID] != nil || len(s.Campaigns) != 2 || len(s.Rejected) != 1 || !s.Fresh(w.now) {
			t.Fatalf("assets %v, rejected %+v, campaigns %+v", s.Assets, s.Rejected, s.Campaigns)
		}
		c = w.open()
	}
}

// Fast-forward: after the theft of the snapshot and timestamp keys, versions driven up to the end are forgotten with the keys.
func TestAttackFastForward(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	c := w.box()
	f := w.forger("timestamp", "snapshot", "campaigns")
	camp := f.role("campaigns")
	camp.Signed.Version = math.MaxInt32
	f.publish("campaigns", camp, f.keys["campaigns"])
	ts, snap := f.stamp(), f.snap()
	ts.Signed.Version, snap.Signed.Version = math.MaxInt32, math.MaxInt32
	f.rewrite(snap, ts)
	m.set(f.files)
	must(t, c.Refresh(context.Background()))
	m.set(w.take())
	w.refused(c, catalog.CodeRollback)

	change := repo.RootChange{}
	for role, into := range map[string]*[]ed25519.PublicKey{"snapshot": &change.Snapshot, "timestamp": &change.Timestamp} {
		must(t, os.Remove(filepath.Join(w.opt.Keys, role+".pem")))
		k, err := repo.GenerateKey(durable.OS(), w.opt.Keys, role)
		must(t, err)
		*into = []ed25519.PublicKey{k.Public().(ed25519.PublicKey)}
	}
	must(t, os.Remove(filepath.Join(w.opt.Keys, "campaigns.pem")))
	k, err := repo.GenerateKey(durable.OS(), w.opt.Keys, "campaigns")
	must(t, err)
	must(t, w.repo.RotateRoot(change))
	must(t, w.repo.Update(func(tx *repo.Tx) error { return tx.SetRoleKey("campaigns", k.Public().(ed25519.PublicKey)) }))
	w.put("home", "after", "after.mp4")
	m.set(w.take())
	must(t, c.Refresh(context.Background()))
	if s := c.Snapshot(); len(s.Assets) != 2 || s.Version > 100 {
		t.Fatalf("after the rotation: %+v", s)
	}
	// What the thief still has is worth nothing.
	m.set(f.files)
	w.refused(c, catalog.CodeSignature)
	if s := w.open().Snapshot(); len(s.Assets) != 2 {
		t.Fatalf("after a restart: %+v", s)
	}
}

// Firmware updates bring newer roots, other fleets bring other ones; a store that does not fit is not believed.
func TestStoredCatalogAgainstFirmware(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	w.box()
	must(t, w.repo.RotateRoot(repo.RootChange{}))
	must(t, w.box().Refresh(context.Background()))
	newer, err := w.repo.Root()
	must(t, err)
	old := w.root
	for _, root := range [][]byte{newer, old} { // forward, and back after an A/B rollback
		w.root = root
		if s := w.open().Snapshot(); len(s.Assets) != 1 {
			t.Fatalf("%+v", s)
		}
		must(t, w.box().Refresh(context.Background()))
	}
	other := newWorld(t)
	w.root = other.root
	if s := w.open().Snapshot(); s.Version != 0 {
		t.Fatalf("another fleet's catalog was believed: %+v", s)
	}
	w.server = other.server
	other.put("home", "x", "x.mp4")
	if s := w.box().Snapshot(); len(s.Assets) != 1 {
		t.Fatalf("after the change of fleet: %+v", s)
	}
}

func TestDamagedStoreIsFetchedAgain(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	w.box()
	file := filepath.Join(w.dir, "box", "catalog.json")
	good, err := os.ReadFile(file)
	must(t, err)
	for _, bad := range [][]byte{
		nil, []byte("{"), []byte(`{"v":2}`), []byte(`{"v":1,"roots":["AAAA"]}`), good[:len(good)/2],
		bytes.ReplaceAll(good, []byte(`"timestamp":"`), []byte(`"timestamp":"AAAA`)),
	} {
		must(t, os.WriteFile(file, bad, 0o600))
		c := w.open()
		if s := c.Snapshot(); s.Version != 0 {
			t.Fatalf("%.40q was believed: %+v", bad, s)
		}
		must(t, c.Refresh(context.Background()))
		if len(c.Snapshot().Assets) != 1 {
			t.Fatal("not fetched again")
		}
	}
	targets, err := os.ReadDir(filepath.Join(w.dir, "box", "targets"))
	must(t, err)
	for _, e := range targets {
		must(t, os.WriteFile(filepath.Join(w.dir, "box", "targets", e.Name()), []byte("damaged"), 0o600))
	}
	c := w.open()
	if c.Snapshot().Version != 0 {
		t.Fatal("damaged targets were believed")
	}
	must(t, c.Refresh(context.Background()))
	if len(c.Snapshot().Assets) != 1 {
		t.Fatal("not fetched again")
	}
}

// A full disk or a read-only one: the old catalog stays and the box says why.
func TestDiskRefuses(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := durable.NewMem(0)
	opt := w.options("box")
	opt.FS, opt.Dir = m, "/catalog"
	c, err := catalog.Open(opt)
	must(t, err)
	must(t, c.Refresh(context.Background()))
	w.put("home", "night2", "film2.mp4")
	for _, fault := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		m.SetFault(func(op durable.Op) error {
			if op.Mutates() {
				return fault
			}
			return nil
		})
		err := c.Refresh(context.Background())
		if catalog.CodeOf(err) != catalog.CodeStore || !errors.Is(err, fault) || len(c.Snapshot().Assets) != 1 {
			t.Fatalf("%v: %v, %d assets", fault, err, len(c.Snapshot().Assets))
		}
		if !w.health.Has(catalog.CodeStore) {
			t.Error("nobody says so")
		}
	}
	m.SetFault(nil)
	must(t, c.Refresh(context.Background()))
	if len(c.Snapshot().Assets) != 2 || w.health.Has(catalog.CodeStore) {
		t.Fatalf("when the disk works again: %d assets", len(c.Snapshot().Assets))
	}
}

func TestServerFaults(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	c := w.box()
	w.put("home", "night2", "film2.mp4")
	m.set(w.take())
	for what, before := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500": func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(500); return true },
		"an answer cut off": func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Content-Length", "1000")
			_, _ = rw.Write([]byte("x"))
			return true
		},
		"304 unasked": func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(304); return true },
	} {
		m.before = before
		if err := w.refused(c, catalog.CodeUnreachable); strings.Contains(err.Error(), "film") {
			t.Errorf("%s: %v", what, err)
		}
	}
	m.before = nil
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Refresh(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	must(t, c.Refresh(context.Background()))
}

// What a poll costs: nothing new is one request and no body; a change costs what changed.
func TestPollCost(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.put("home", fmt.Sprintf("c%d", i), fmt.Sprintf("film%d.mp4", i))
	}
	c := w.open()
	cost := func(what string, requests, bytes int64) {
		t.Helper()
		before := c.Stats()
		must(t, c.Refresh(context.Background()))
		after := c.Stats()
		r, b := after.Requests-before.Requests, after.Bytes-before.Bytes
		t.Logf("%s: %d requests, %d bytes", what, r, b)
		if r > requests || b > bytes {
			t.Errorf("%s: %d requests and %d bytes, want at most %d and %d", what, r, b, requests, bytes)
		}
	}
	cost("first refresh, 20 assets", 31, 40_000)
	cost("nothing new", 1, 0)
	_, err := w.repo.Renew()
	must(t, err)
	cost("still nothing new", 1, 0)
	w.put("home", "new", "new.mp4")
	cost("one new asset and campaign", 7, 25_000)
	w.put("elsewhere", "new", "other.mp4")
	cost("a campaign for another group", 6, 25_000)
	w.now = w.now.Add(25 * time.Hour)
	cost("once a day, with a look for a new root", 2, 1000)
}

// Many assets: the publisher's role is split into bins, and a box reads only the bins it needs.
func TestBins(t *testing.T) {
	w := newWorld(t)
	var refs []catalog.AssetRef
	must(t, w.repo.Update(func(tx *repo.Tx) error {
		for i := range 300 {
			ref, err := tx.PutAsset("acme", torrent(t, fmt.Sprintf("f%d", i), []byte{byte(i), byte(i >> 8)}))
			if err != nil {
				return err
			}
			refs = append(refs, ref)
		}
		return tx.PutCampaign(catalog.Campaign{ID: "c", Group: "home", Assets: refs[7:9]})
	}))
	c := w.box()
	if s := c.Snapshot(); len(s.Assets) != 2 || len(s.Rejected) != 0 {
		t.Fatalf("assets %v, rejected %+v", s.Assets, s.Rejected)
	}
	t.Logf("first refresh with 300 assets in bins: %+v", c.Stats())
	must(t, w.repo.View(func(tx *repo.Tx) error {
		list, err := tx.Assets("acme")
		if len(list) != 300 {
			t.Errorf("%d assets are listed", len(list))
		}
		return err
	}))
	// Another asset, one less, another key: all through the bins.
	k, err := repo.GenerateKey(durable.OS(), w.opt.Keys, "publisher-acme-2")
	must(t, err)
	must(t, w.repo.Update(func(tx *repo.Tx) error {
		return errors.Join(tx.RemoveAsset(refs[8].Path), tx.SetRoleKey("publisher-acme", k.Public().(ed25519.PublicKey)))
	}))
	must(t, os.Remove(filepath.Join(w.opt.Keys, "publisher-acme.pem")))
	ref := w.put("home", "d", "new.mp4")
	must(t, c.Refresh(context.Background()))
	s := c.Snapshot()
	if s.Assets[refs[7].ID] == nil || s.Assets[refs[8].ID] != nil || s.Assets[ref.ID] == nil || len(s.Rejected) != 1 {
		t.Fatalf("assets %v, rejected %+v", s.Assets, s.Rejected)
	}
}

func TestGroupsChange(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	w.put("work", "day", "other.mp4")
	groups := []string{}
	opt := w.options("box")
	opt.Groups = func() []string { return groups }
	c, err := catalog.Open(opt)
	must(t, err)
	for _, g := range [][]string{{}, {"home"}, {"work", "home", "Not A Group"}, {"work"}} {
		groups = g
		must(t, c.Refresh(context.Background()))
		want := 0
		for _, n := range g {
			if catalog.ValidName(n) {
				want++
			}
		}
		if s := c.Snapshot(); len(s.Campaigns) != want || len(s.Assets) != want {
			t.Errorf("groups %v: %d campaigns, %d assets", g, len(s.Campaigns), len(s.Assets))
		}
	}
}

// handlerTransport serves a client from a handler in the same goroutine, for tests with a clock of their own.
type handlerTransport struct {
	handler http.Handler
	mu      sync.Mutex // guards the fields below
	times   []time.Time
	down    bool
}

func (h *handlerTransport) asked() []time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.times)
}

func (h *handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	h.times = append(h.times, time.Now())
	down := h.down
	h.mu.Unlock()
	if down {
		return nil, errors.New("no route to host")
	}
	rec := httptest.NewRecorder()
	h.handler.ServeHTTP(rec, r)
	return rec.Result(), nil
}

// Run polls with jitter, comes back sooner after a failure and never in a rush, and ends when it is told.
func TestRunPollsWithJitterAndBackoff(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	synctest.Test(t, func(t *testing.T) {
		tr := &handlerTransport{handler: w.repo.Handler()}
		opt := w.options("box-run")
		opt.Client, opt.Poll, opt.Health = &http.Client{Transport: tr}, 10*time.Minute, health.New(nil)
		c, err := catalog.Open(opt)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		if c.Snapshot().Version == 0 {
			t.Fatal("no catalog at once")
		}
		first := len(tr.asked())
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := len(tr.asked()) - first; n < 40 || n > 120 {
			t.Errorf("%d polls in 60 intervals", n)
		}
		gaps := map[time.Duration]bool{}
		times := tr.asked()
		for i := first + 1; i < len(times); i++ {
			d := times[i].Sub(times[i-1])
			gaps[d] = true
			if d < 5*time.Minute || d > 15*time.Minute {
				t.Errorf("polls %s apart", d)
			}
		}
		if len(gaps) < 20 {
			t.Errorf("%d different gaps: no jitter", len(gaps))
		}
		tr.mu.Lock()
		tr.down = true
		tr.mu.Unlock()
		first = len(tr.asked())
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(tr.asked()) - first; n < 6 || n > 60 {
			t.Errorf("%d attempts in an hour without network", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
