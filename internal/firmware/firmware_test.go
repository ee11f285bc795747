package firmware

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/health"
)

// signedCatalog is a catalog that the test changes.
type signedCatalog struct {
	mu      sync.Mutex
	snap    *catalog.Snapshot
	changed chan struct{}
}

func (c *signedCatalog) Snapshot() *catalog.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snap
}

func (c *signedCatalog) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *signedCatalog) set(assets ...*catalog.Asset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snap = &catalog.Snapshot{Version: c.snap.Version + 1, Assets: map[asset.ID]*catalog.Asset{}}
	for _, a := range assets {
		c.snap.Assets[a.Info.ID] = a
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

type bench struct {
	cache   *cache.Cache
	catalog *signedCatalog
	health  *health.Set
	dir     string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{health: health.New(nil), dir: filepath.Join(t.TempDir(), "firmware")}
	b.catalog = &signedCatalog{snap: &catalog.Snapshot{}, changed: make(chan struct{})}
	var err error
	b.cache, err = cache.Open(cache.Options{Dir: t.TempDir(), StateDir: t.TempDir(), GroupInterval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(Options{Cache: b.cache, Catalog: b.catalog, Dir: b.dir, Health: b.health})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = b.cache.Run(ctx) })
	group.Go(func() { _ = f.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		group.Wait()
		if err := b.cache.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// make builds a signed bundle and, if asked, has it arrive in the cache.
func (b *bench) make(t *testing.T, name string, content []byte, kind string, arrive bool) *catalog.Asset {
	t.Helper()
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	torrent, info, err := asset.Build(t.Context(), []asset.Source{{Path: name, Length: int64(len(content)), Open: open}},
		asset.BuildOptions{Name: name, Single: true})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	if arrive {
		a, err := b.cache.Create(torrent, cache.Attr{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		for i := range info.NumPieces() {
			off := int64(i) * info.PieceLength
			if _, err := a.WriteAt(content[off:min(off+info.PieceLength, int64(len(content)))], off); err != nil {
				t.Fatal(err)
			}
			if err := a.MarkVerified(i); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &catalog.Asset{
		Info: info, Torrent: torrent, Name: name, Types: map[string]string{name: kind},
		SHA256: map[string]string{name: hex.EncodeToString(sum[:])},
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func TestBundleAppearsWholeAndGoesWithItsBytes(t *testing.T) {
	b := newBench(t)
	content := bytes.Repeat([]byte("root file system "), 40_000)
	bundle := b.make(t, "root.squashfs", content, ContentType, true)
	film := b.make(t, "film.webm", []byte("a film"), "video/webm", true)
	b.catalog.set(bundle, film)

	path := filepath.Join(b.dir, "root.squashfs")
	eventually(t, "the checksum is there", func() bool { return exists(path + ".sha256") })
	have, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(have, content) {
		t.Fatalf("the link reads %d bytes, %v; want %d", len(have), err, len(content))
	}
	line, err := os.ReadFile(path + ".sha256")
	if want := bundle.SHA256["root.squashfs"] + "  root.squashfs\n"; err != nil || string(line) != want {
		t.Errorf("checksum file %q, %v; want %q", line, err, want)
	}
	if exists(filepath.Join(b.dir, "film.webm")) {
		t.Error("a film was taken for firmware")
	}
	if err := b.cache.Remove(bundle.Info.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if exists(path) || exists(path+".sha256") {
		t.Error("the bundle left the cache and is still shown")
	}
}

func TestBundleThatIsNotWhatWasSignedIsNotShown(t *testing.T) {
	b := newBench(t)
	bundle := b.make(t, "root.squashfs", []byte("root file system"), ContentType, true)
	bundle.SHA256["root.squashfs"] = hex.EncodeToString(make([]byte, 32))
	b.catalog.set(bundle)
	eventually(t, CodeMismatch, func() bool { return b.health.Has(CodeMismatch) })
	if exists(filepath.Join(b.dir, "root.squashfs")) {
		t.Error("it is shown")
	}
}

// What the runbook says cures it: the same file has the same infohash, and this time the right SHA-256.
func TestBundleThatIsSignedAgainRightlyIsShown(t *testing.T) {
	b := newBench(t)
	right := b.make(t, "root.squashfs", []byte("root file system"), ContentType, true)
	wrong := *right
	wrong.SHA256 = map[string]string{"root.squashfs": hex.EncodeToString(make([]byte, 32))}
	path := filepath.Join(b.dir, "root.squashfs")
	for range 2 {
		b.catalog.set(&wrong)
		eventually(t, "a warning, and it is not shown", func() bool { return b.health.Has(CodeMismatch) && !exists(path) })
		b.catalog.set(right)
		eventually(t, "no warning, and it is shown", func() bool { return !b.health.Has(CodeMismatch) && exists(path+sumSuffix) })
	}
}

func TestTheWarningGoesWithTheLastBadBundle(t *testing.T) {
	b := newBench(t)
	spoilt := func(name string) *catalog.Asset {
		a := b.make(t, name, []byte("file system "+name), ContentType, true)
		a.SHA256[name] = hex.EncodeToString(make([]byte, 32))
		return a
	}
	one, two, good := spoilt("one.squashfs"), spoilt("two.squashfs"), b.make(t, "good.squashfs", []byte("x"), ContentType, true)
	b.catalog.set(one, two)
	eventually(t, CodeMismatch, func() bool { return b.health.Has(CodeMismatch) })
	b.catalog.set(two, good) // withdrawn
	eventually(t, "it was looked at", func() bool { return exists(filepath.Join(b.dir, "good.squashfs.sha256")) })
	if !b.health.Has(CodeMismatch) {
		t.Error("the other one is still wrong")
	}
	if err := b.cache.Remove(two.Info.ID, "operator"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no warning", func() bool { return !b.health.Has(CodeMismatch) })
}

// A bundle that cannot be shown, on a full disk, is read once, however much else changes, and shown as soon as that goes.
func TestBundleThatCannotBeShownIsReadOnce(t *testing.T) {
	c, err := cache.Open(cache.Options{Dir: t.TempDir(), StateDir: t.TempDir(), GroupInterval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	b := &bench{cache: c, catalog: &signedCatalog{snap: &catalog.Snapshot{}, changed: make(chan struct{})}, health: health.New(nil)}
	content := bytes.Repeat([]byte("firmware"), 1<<17)
	b.catalog.set(b.make(t, "box.raucb", content, ContentType, true))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	parent := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(parent, nil, 0o600); err != nil { // stands for a disk that takes nothing
		t.Fatal(err)
	}
	f, err := New(Options{Cache: c, Catalog: b.catalog, Dir: filepath.Join(parent, "firmware"), Health: b.health})
	if err != nil {
		t.Fatal(err)
	}
	before := c.Stats().CopiedBytes
	for range 5 {
		f.look(t.Context())
	}
	if n := c.Stats().CopiedBytes - before; n != int64(len(content)) || !b.health.Has(CodeNotShown) {
		t.Errorf("%d bytes were read of a bundle of %d; %v", n, len(content), b.health.List())
	}
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(f.o.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.look(t.Context())
	if !exists(filepath.Join(f.o.Dir, "box.raucb")) || b.health.Has(CodeNotShown) {
		t.Errorf("not shown: %v", b.health.List())
	}
}

func TestBundleIsHiddenWhenItLeavesTheCatalog(t *testing.T) {
	b := newBench(t)
	bundle := b.make(t, "root.squashfs", []byte("root file system"), ContentType, true)
	b.catalog.set(bundle)
	path := filepath.Join(b.dir, "root.squashfs")
	eventually(t, "it is shown", func() bool { return exists(path + ".sha256") })
	b.catalog.set()
	eventually(t, "it is hidden", func() bool { return !exists(path) && !exists(path+".sha256") })
}

func TestIncompleteOrUnsafelyNamedBundlesAreNotShown(t *testing.T) {
	b := newBench(t)
	incomplete := b.make(t, "late.squashfs", []byte("not here yet"), ContentType, false)
	hidden := b.make(t, ".hidden", []byte("a dot file"), ContentType, true)
	disguised := b.make(t, "x.sha256", []byte("a checksum?"), ContentType, true)
	whole := b.make(t, "root.squashfs", []byte("root file system"), ContentType, true)
	b.catalog.set(incomplete, hidden, disguised, whole)
	eventually(t, "the good one is shown", func() bool { return exists(filepath.Join(b.dir, "root.squashfs.sha256")) })
	for _, name := range []string{"late.squashfs", ".hidden", "x.sha256"} {
		if exists(filepath.Join(b.dir, name)) {
			t.Errorf("%s is shown", name)
		}
	}
}

// Two versions of a bundle may be in the catalog under one name: the newest that is here is shown, whatever the order in
// which they came, and when it goes the older one takes its place.
func TestTheNewestOfOneNameIsShown(t *testing.T) {
	b := newBench(t)
	old := b.make(t, "update.raucb", []byte("the older bundle"), ContentType, true)
	fresh := b.make(t, "update.raucb", []byte("the newer bundle"), ContentType, true)
	coming := b.make(t, "update.raucb", []byte("the next bundle"), ContentType, false)
	old.Version, fresh.Version, coming.Version = "1.9", "1.10", "2.0"
	b.catalog.set(fresh, old, coming)
	path := filepath.Join(b.dir, "update.raucb")
	shows := func(text string) func() bool {
		return func() bool {
			got, err := os.ReadFile(path)
			return err == nil && bytes.HasPrefix(got, []byte(text)) && exists(path+sumSuffix)
		}
	}
	eventually(t, "the newer bundle", shows("the newer"))
	b.catalog.set(old, coming)
	eventually(t, "the older bundle", shows("the older"))
	b.catalog.set(old, fresh)
	eventually(t, "the newer bundle again", shows("the newer"))
}

func TestVersionsAreComparedAsPeopleDo(t *testing.T) {
	order := []string{"", "1", "1.2", "1.2-rc1", "1.9", "1.10", "02.0", "2.1", "10", "v3"}
	info := &asset.Info{}
	for i, x := range order {
		for j, y := range order {
			if i == j {
				continue
			}
			if newer(&catalog.Asset{Version: x, Info: info}, &catalog.Asset{Version: y, Info: info}) != (i > j) {
				t.Errorf("%q newer than %q is %v", x, y, i < j)
			}
		}
	}
}
