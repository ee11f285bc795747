package catalog_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/durable"
)

// content is all that a snapshot tells others; two snapshots of the same catalog have the same.
func content(s *catalog.Snapshot) string {
	out := fmt.Sprintf("%d %v %v %+v %+v %v %x %v", s.Version, s.Expires, s.Groups, s.Campaigns, s.Rejected, s.Revoked,
		s.OperationsKeys, s.Withdrawn)
	for _, c := range s.Campaigns {
		for _, ref := range c.Assets {
			if a := s.Assets[ref.ID]; a != nil {
				out += fmt.Sprintf("\n%s %q %q %s %s %v %v %+v %x", ref.ID, a.Name, a.Version, a.Publisher, a.Path, a.Types, a.SHA256,
					*a.Info, a.Torrent)
			}
		}
	}
	return out
}

// Whatever byte is changed anywhere in the repository, a box gets the catalog as it was signed or none.
func TestAnyByteFlipped(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	w.put("home", "day", "other.mp4")
	good := w.take()
	m := &mirror{files: good}
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	read := func() (*catalog.Snapshot, error) {
		opt := w.options("")
		opt.FS, opt.Dir, opt.URL, opt.Health = durable.NewMem(0), "/catalog", srv.URL, nil
		c, err := catalog.Open(opt)
		must(t, err)
		err = c.Refresh(context.Background())
		return c.Snapshot(), err
	}
	s, err := read()
	must(t, err)
	want := content(s)
	rnd := rand.New(rand.NewPCG(7, 7))
	tried, same, times := 0, 0, 12
	if testing.Short() {
		times = 2
	}
	for name, b := range good {
		for range times {
			files := make(map[string][]byte, len(good))
			for k, v := range good {
				files[k] = v
			}
			bad := append([]byte(nil), b...)
			i := rnd.IntN(len(bad))
			bad[i] ^= byte(1 + rnd.IntN(255))
			files[name] = bad
			m.set(files)
			s, err := read()
			tried++
			if err == nil {
				same++
				if content(s) != want {
					t.Fatalf("%s, byte %d: %q became %q, and the box believes\n%s", name, i, b[i], bad[i], content(s))
				}
			} else if s.Version != 0 {
				t.Fatalf("%s, byte %d: refused (%v), but there is a snapshot", name, i, err)
			}
		}
	}
	t.Logf("%d bytes changed in %d files; %d were in files that the box does not read or in white space", tried, len(good), same)
}

// A power cut at any operation of a refresh leaves the old catalog or the new one; one that was told of stays.
func TestPowerCutDuringRefresh(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	old := w.take()
	w.put("home", "night2", "film2.mp4")
	next := w.take()
	m := &mirror{}
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	open := func(fsys *durable.Mem) *catalog.Catalog {
		opt := w.options("")
		opt.FS, opt.Dir, opt.URL, opt.Health = fsys, "/var/lib/boxd/catalog", srv.URL, nil
		c, err := catalog.Open(opt)
		must(t, err)
		return c
	}
	run := func(rnd *rand.Rand, n int, lying bool) (told bool, before, after *catalog.Snapshot, c *catalog.Catalog) {
		disk := durable.NewMem(0)
		must(t, disk.MkdirAll("/var/lib/boxd", 0o755))
		for _, d := range []string{"/", "/var", "/var/lib"} {
			must(t, disk.SyncDir(d))
		}
		disk.SetLying(func(string) bool { return lying })
		m.set(old)
		c = open(disk)
		must(t, c.Refresh(context.Background()))
		before = c.Snapshot()
		m.set(next)
		disk.SetFault(func(op durable.Op) error {
			if op.Mutates() {
				if n--; n < 0 {
					disk.PowerOff()
				}
			}
			return nil
		})
		told = c.Refresh(context.Background()) == nil
		if told != (c.Snapshot() != before) {
			t.Fatalf("cut %d: told %v, but the snapshot is version %d", n, told, c.Snapshot().Version)
		}
		c = open(disk.Crash(rnd))
		return told, before, c.Snapshot(), c
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := 0; ; n++ {
		told, before, after, c := run(rnd, n, false)
		v := after.Version
		if v != before.Version && v != before.Version+1 || told && v != before.Version+1 {
			t.Fatalf("cut %d: version %d after %d; told: %v", n, v, before.Version, told)
		}
		if v == before.Version && !reflect.DeepEqual(content(after), content(before)) {
			t.Fatalf("cut %d: the old catalog is not what it was", n)
		}
		must(t, c.Refresh(context.Background()))
		if s := c.Snapshot(); len(s.Assets) != 2 || !s.Fresh(w.now.Add(time.Minute)) {
			t.Fatalf("cut %d: the next refresh gives %+v", n, s)
		}
		if told {
			t.Logf("%d cuts", n)
			break
		}
	}
	for range 50 { // negative control
		if _, before, after, _ := run(rnd, 1000, true); after.Version <= before.Version {
			return
		}
	}
	t.Fatal("a disk that lies about syncing did no damage: this test would not notice a missing sync")
}
