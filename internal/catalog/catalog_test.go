package catalog_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"io"
	"io/fs"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/durable"
	"boxd/internal/fleet/repo"
	"boxd/internal/health"
)

// noSync is the operating system's files without waiting for the disk: these tests cut no power.
type noSync struct{ durable.FS }

func (noSync) SyncDir(string) error { return nil }

func (n noSync) Create(name string, perm fs.FileMode) (durable.File, error) {
	f, err := n.FS.Create(name, perm)
	return noSyncFile{f}, err
}

type noSyncFile struct{ durable.File }

func (noSyncFile) Sync() error { return nil }

// world is a repository that is served, and what a box needs to read it.
type world struct {
	t      *testing.T
	repo   *repo.Repo
	opt    repo.Options
	server *httptest.Server
	now    time.Time
	root   []byte
	dir    string
	health *health.Set
	pub    ed25519.PrivateKey
	boxDir string
	boxes  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), dir: t.TempDir(), health: health.New(nil), boxDir: "box"}
	w.opt = repo.Options{
		Dir: filepath.Join(w.dir, "tuf"), Keys: filepath.Join(w.dir, "keys"), Now: func() time.Time { return w.now },
		FS: noSync{durable.OS()},
	}
	r, err := repo.Init(w.opt, repo.InitOptions{})
	must(t, err)
	w.repo = r
	w.root, err = r.Root()
	must(t, err)
	w.server = httptest.NewServer(r.Handler())
	t.Cleanup(w.server.Close)
	w.pub = w.publisher("acme")
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) publisher(name string) ed25519.PrivateKey {
	w.t.Helper()
	key, err := repo.GenerateKey(w.opt.FS, w.opt.Keys, "publisher-"+name)
	must(w.t, err)
	must(w.t, w.repo.Update(func(tx *repo.Tx) error {
		return tx.AddPublisher(name, key.Public().(ed25519.PublicKey), 0)
	}))
	return key
}

func torrent(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	b, _, err := asset.Build(context.Background(), []asset.Source{{
		Path: name, Length: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}}, asset.BuildOptions{Name: name, Single: true, Extra: asset.Extra{Title: "T " + name, Version: "1"}})
	must(t, err)
	return b
}

// put publishes an asset and schedules it.
func (w *world) put(group, campaign, file string) catalog.AssetRef {
	w.t.Helper()
	var ref catalog.AssetRef
	must(w.t, w.repo.Update(func(tx *repo.Tx) (err error) {
		if ref, err = tx.PutAsset("acme", torrent(w.t, file, []byte("content of "+file))); err != nil {
			return err
		}
		return tx.PutCampaign(catalog.Campaign{ID: campaign, Group: group, Assets: []catalog.AssetRef{ref}})
	}))
	return ref
}

func (w *world) options(dir string) catalog.Options {
	return catalog.Options{
		Dir: filepath.Join(w.dir, dir), FS: noSync{durable.OS()}, Root: w.root, URL: w.server.URL, Health: w.health,
		Groups: func() []string { return []string{"home"} },
		Now:    func() (time.Time, bool) { return w.now, true },
	}
}

func (w *world) open() *catalog.Catalog {
	w.t.Helper()
	c, err := catalog.Open(w.options(w.boxDir))
	must(w.t, err)
	return c
}

func (w *world) box() *catalog.Catalog {
	w.t.Helper()
	c := w.open()
	must(w.t, c.Refresh(context.Background()))
	return c
}

func TestPublishedCampaignReachesBox(t *testing.T) {
	w := newWorld(t)
	ref := w.put("home", "night", "film.mp4")
	w.put("elsewhere", "other", "other.mp4")
	c := w.open()
	if s := c.Snapshot(); s == nil || s.Version != 0 || s.Fresh(w.now) {
		t.Fatalf("before the first refresh: %+v", s)
	}
	changed := c.Changed()
	must(t, c.Refresh(context.Background()))
	select {
	case <-changed:
	default:
		t.Fatal("nobody was told")
	}
	check := func(s *catalog.Snapshot) {
		t.Helper()
		if len(s.Campaigns) != 1 || s.Campaigns[0].ID != "night" || len(s.Assets) != 1 {
			t.Fatalf("snapshot: %+v", s)
		}
		a := s.Assets[ref.ID]
		if a == nil || a.Name != "T film.mp4" || a.Publisher != "acme" || a.Version != "1" || a.SHA256["film.mp4"] == "" {
			t.Fatalf("asset: %+v", a)
		}
		if !s.Fresh(w.now) || s.Fresh(w.now.Add(4*24*time.Hour)) {
			t.Fatalf("freshness: expires %s", s.Expires)
		}
	}
	check(c.Snapshot())
	w.server.Close()
	check(w.open().Snapshot()) // from disk alone
}
