package repo

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"testing"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/durable"
)

// cutAfter takes the power away after n operations that change something.
func cutAfter(m *durable.Mem, n int) {
	m.SetFault(func(op durable.Op) error {
		if op.Mutates() {
			if n--; n < 0 {
				m.PowerOff()
			}
		}
		return nil
	})
}

func memOptions(m *durable.Mem) Options {
	return Options{Dir: "/srv/fleet/tuf", Keys: "/srv/fleet/keys", FS: m, Now: func() time.Time { return t0 }}
}

func newMem(t *testing.T) *durable.Mem {
	t.Helper()
	m := durable.NewMem(0)
	must(t, m.MkdirAll("/srv/fleet", 0o755))
	for _, d := range []string{"/", "/srv"} {
		must(t, m.SyncDir(d))
	}
	return m
}

// reads is what a box that has never been reads from a repository; it fails unless the repository is whole.
func reads(t *testing.T, r *Repo) *catalog.Snapshot {
	t.Helper()
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	root, err := durable.ReadFile(r.fs, r.metaPath("1.root.json"), 1<<20)
	must(t, err)
	c, err := catalog.Open(catalog.Options{
		Dir: "/var/box", FS: durable.NewMem(0), Root: root, URL: srv.URL,
		Groups: func() []string { return []string{"g"} }, Now: func() (time.Time, bool) { return t0, true },
	})
	must(t, err)
	must(t, c.Refresh(t.Context()))
	return c.Snapshot()
}

// A power cut at any operation of Init leaves something that Init or Open go on from.
func TestPowerCutDuringInit(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 0))
	for n := 0; ; n++ {
		m := newMem(t)
		cutAfter(m, n)
		_, err := Init(memOptions(m), InitOptions{})
		after := m.Crash(rnd)
		r, oerr := Open(memOptions(after))
		if err == nil && oerr != nil {
			t.Fatalf("cut %d: Init had returned, but %v", n, oerr)
		}
		if oerr != nil {
			if !errors.Is(oerr, ErrNotFound) {
				t.Fatalf("cut %d: %v", n, oerr)
			}
			if r, err = Init(memOptions(after), InitOptions{}); err != nil {
				t.Fatalf("cut %d: init again: %v", n, err)
			}
		}
		reads(t, r)
		if err == nil && oerr == nil {
			t.Logf("%d cuts", n)
			return
		}
	}
}

// A power cut at any operation of a change leaves the old repository or the new one, whole, and the next change works.
func TestPowerCutDuringUpdate(t *testing.T) {
	torrent := makeTorrent(t, "film", []byte("film"))
	for name, change := range map[string]func(r *Repo) error{
		"publish": func(r *Repo) error {
			return r.Update(func(tx *Tx) error {
				ref, err := tx.PutAsset("acme", torrent)
				if err != nil {
					return err
				}
				return tx.PutCampaign(catalog.Campaign{ID: "c", Group: "g", Assets: []catalog.AssetRef{ref}})
			})
		},
		"new root": func(r *Repo) error { return r.RotateRoot(RootChange{}) },
	} {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(2, 0))
			for n := 0; ; n++ {
				m := newMem(t)
				r := newTestRepo(t, memOptions(m))
				addPublisher(t, r, "acme", 0)
				before := reads(t, r).Version
				cutAfter(m, n)
				err := change(r)
				after := m.Crash(rnd)
				r, oerr := Open(memOptions(after))
				must(t, oerr)
				s := reads(t, r)
				if s.Version != before && s.Version != before+1 || err == nil && s.Version != before+1 {
					t.Fatalf("cut %d: version %d after %d, change: %v", n, s.Version, before, err)
				}
				if name == "publish" && (len(s.Assets) == 1) != (s.Version == before+1) {
					t.Fatalf("cut %d: version %d with %d assets", n, s.Version, len(s.Assets))
				}
				if _, err := r.Renew(); err != nil {
					t.Fatalf("cut %d: renewal: %v", n, err)
				}
				must(t, r.Update(func(tx *Tx) error { return tx.SetRevocations([]string{fmt.Sprintf("%x", n+1)}) }))
				if got := reads(t, r).Revoked; len(got) != 1 {
					t.Fatalf("cut %d: the next change is not seen: %v", n, got)
				}
				if err == nil {
					t.Logf("%d cuts", n)
					return
				}
			}
		})
	}
}

// Negative control: on a disk that lies about syncing, the same test finds damage.
func TestPowerCutOnLyingDisk(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 0))
	for range 50 {
		m := newMem(t)
		m.SetLying(func(string) bool { return true })
		r := newTestRepo(t, memOptions(m))
		k, err := GenerateKey(m, "/srv/fleet/keys", "publisher-acme")
		must(t, err)
		must(t, r.Update(func(tx *Tx) error { return tx.AddPublisher("acme", k.Public().(ed25519.PublicKey), 0) }))
		if _, err := Open(memOptions(m.Crash(rnd))); err != nil {
			return
		}
	}
	t.Fatal("50 cuts on a lying disk did no damage: this test would not notice a missing sync")
}

// A full disk is an error, and leaves what was published.
func TestFullDisk(t *testing.T) {
	m := newMem(t)
	r := newTestRepo(t, memOptions(m))
	addPublisher(t, r, "acme", 0)
	before := reads(t, r).Version
	m.SetOthers(1 << 40)
	if _, err := putAsset(r, "acme", makeTorrent(t, "film", []byte("film"))); err == nil {
		t.Fatal("published on a full disk")
	}
	m.SetOthers(0)
	if v := reads(t, r).Version; v != before {
		t.Fatalf("version %d", v)
	}
	if _, err := putAsset(r, "acme", makeTorrent(t, "film", []byte("film"))); err != nil {
		t.Fatal(err)
	}
}
