package cache

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
)

// laggingFS is a file system whose figure of free space stays as it was when it was frozen.
type laggingFS struct {
	*durable.Mem
	mu     sync.Mutex
	frozen int64 // 0: not
}

func (l *laggingFS) Free(name string) (avail, total int64, err error) {
	avail, total, err = l.Mem.Free(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen > 0 {
		avail = l.frozen
	}
	return avail, total, err
}

func (l *laggingFS) freeze(yes bool) {
	free, _, _ := l.Mem.Free("/")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen = 0; yes {
		l.frozen = free
	}
}

// XFS, btrfs and UBIFS give freed blocks back in the background. What was evicted counts as free until it shows, or should
// have shown: else the cache would evict until nothing is left.
func TestFreeSpaceThatShowsLater(t *testing.T) {
	const film = 64 * testPiece
	open := func(t *testing.T, films int) (*laggingFS, *Cache) {
		fsys := &laggingFS{Mem: newMem(t, 100*film)}
		c := openMem(t, fsys.Mem, func(o *Options) { o.FS, o.Reserve, o.KeepPrefix = fsys, 10*film, -1 })
		for i := range films {
			f := newMedia(t, uint64(i+1), film)
			fill(t, create(t, c, f, Attr{}), f)
		}
		must(t, c.Flush())
		return fsys, c
	}
	left := func(t *testing.T, c *Cache, want int, when string) {
		t.Helper()
		if n := len(c.Assets()); n != want {
			t.Fatalf("%s: %d assets are left, want %d", when, n, want)
		}
	}
	t.Run("others fill the disk", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fsys, c := open(t, 40)
			fsys.SetOthers(51 * film) // metainfo and index take something, too
			fsys.freeze(true)
			c.CheckSpace()
			left(t, c, 38, "evicted for others")
			c.CheckSpace()
			left(t, c, 38, "it does not show yet")
			fsys.freeze(false)
			c.CheckSpace()
			left(t, c, 38, "it shows")
			fsys.SetOthers(53 * film)
			c.CheckSpace()
			left(t, c, 36, "others took more")
		})
	})
	t.Run("it never shows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fsys, c := open(t, 40)
			fsys.SetOthers(51 * film)
			fsys.freeze(true)
			c.CheckSpace()
			time.Sleep(freeShows)
			c.CheckSpace()
			left(t, c, 36, "what was evicted did not come free")
		})
	})
	t.Run("an asset comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fsys, c := open(t, 40)
			fsys.SetOthers(49*film + film/2)
			fsys.freeze(true)
			next := newMedia(t, 99, film)
			var short *SpaceError
			if _, err := c.Create(next.torrent, Attr{Priority: 1}); !errors.As(err, &short) {
				t.Fatalf("taken in although nothing is free yet: %v", err)
			}
			left(t, c, 39, "evicted for it")
			if _, err := c.Create(next.torrent, Attr{Priority: 1}); !errors.As(err, &short) {
				t.Fatalf("taken in although nothing is free yet: %v", err)
			}
			left(t, c, 39, "asked again")
			fsys.freeze(false)
			create(t, c, next, Attr{Priority: 1})
			left(t, c, 40, "it shows")
		})
	})
	t.Run("an asset waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fsys, c := open(t, 40)
			fsys.SetOthers(49*film + film/2)
			fsys.freeze(true)
			go func() {
				time.Sleep(roomWait / 2)
				fsys.freeze(false)
			}()
			create(t, c, newMedia(t, 99, film), Attr{Priority: 1})
			left(t, c, 40, "it waited for the space")
		})
	})
}

// Where freed space shows late, many assets that are wanted at once wait together as long as one: who asks stands still
// meanwhile. Nothing more is evicted for them before the space is due, and they are taken in when it shows.
func TestManyAssetsWaitAsOne(t *testing.T) {
	const film, many = 64 * testPiece, 30
	open := func(t *testing.T, others int64) (*laggingFS, *Cache) {
		fsys := &laggingFS{Mem: newMem(t, 100*film)}
		c := openMem(t, fsys.Mem, func(o *Options) { o.FS, o.Reserve, o.KeepPrefix = fsys, 10*film, -1 })
		for i := range 40 {
			f := newMedia(t, uint64(i+1), film)
			fill(t, create(t, c, f, Attr{}), f)
		}
		must(t, c.Flush())
		fsys.SetOthers(others)
		fsys.freeze(true)
		return fsys, c
	}
	clips := func(t *testing.T, length int) (list []*media) {
		for i := range many {
			list = append(list, newMedia(t, uint64(200+i), length))
		}
		return list
	}
	// step asks for all as one step of the fetcher does.
	step := func(t *testing.T, c *Cache, list []*media, what string, wait time.Duration, taken, left int) {
		t.Helper()
		began, got := time.Now(), 0
		for _, m := range list {
			var short *SpaceError
			_, err := c.Create(m.torrent, Attr{Priority: 1})
			if err == nil {
				got++
			} else if !errors.As(err, &short) {
				t.Fatal(err)
			}
		}
		if took, n := time.Since(began), len(c.Assets()); took != wait || got != taken || n != left {
			t.Fatalf("%s: %v, %d taken in, %d are there; want %v, %d, %d", what, took, got, n, wait, taken, left)
		}
	}
	t.Run("it never shows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, c := open(t, 49*film+film/2)
			films := clips(t, film)
			step(t, c, films, "evicted for them", roomWait, 0, 39)
			step(t, c, films, "asked again", 0, 0, 39)
			time.Sleep(freeShows)
			step(t, c, films, "what was evicted did not come free", roomWait, 0, 38)
		})
	})
	t.Run("it shows at the next try", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fsys, c := open(t, 49*film+film/2)
			films := clips(t, film)
			step(t, c, films, "evicted for them", roomWait, 0, 39)
			fsys.freeze(false)
			step(t, c, films, "and taken in", 0, many, 40)
		})
	})
	t.Run("it is due while one waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, c := open(t, 50*film+film/4)
			c.CheckSpace() // one goes, and there is more in it than an asset needs
			time.Sleep(freeShows - roomWait/2)
			step(t, c, clips(t, film/4), "one more goes", roomWait, 0, 38)
		})
	})
}

// logCounter counts the lines of a log.
type logCounter struct {
	slog.Handler
	mu    sync.Mutex
	lines map[string]int
}

func (l *logCounter) Enabled(context.Context, slog.Level) bool { return true }
func (l *logCounter) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logCounter) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[r.Message]++
	return nil
}

// A read-only disk that is too full costs no torrent its place in the swarm, and no line of the log every few seconds; when
// it can be written again, it shrinks at the next look.
func TestReadOnlyAndFullIsLeftAlone(t *testing.T) {
	for _, fault := range []error{syscall.EROFS, syscall.EIO} {
		m := newMem(t, 0)
		log := &logCounter{lines: map[string]int{}}
		told := 0
		c := openMem(t, m, func(o *Options) { o.KeepPrefix = -1; o.Log = slog.New(log) })
		c.OnEvict(func(asset.ID) { told++ })
		for i := range 20 {
			f := newMedia(t, uint64(i+1), 5*testPiece)
			fill(t, create(t, c, f, Attr{}), f)
		}
		must(t, c.Flush())
		m.SetFault(func(op durable.Op) error {
			if op.Mutates() && strings.HasPrefix(op.Name, "/cache") {
				return fault
			}
			return nil
		})
		c.o.Reserve = 1<<40 - 1 // all of the disk
		for range 10 {
			c.CheckSpace()
		}
		if told != 0 || log.lines["not evicted"] != 1 || len(c.Assets()) != 20 {
			t.Errorf("%v: let go %d times, %d lines of log, %d assets left", fault, told, log.lines["not evicted"], len(c.Assets()))
		}
		if !c.o.Health.Has(CodeReserve) || !c.o.Health.Has(CodeWrite) {
			t.Errorf("%v: warnings %v", fault, c.o.Health.List())
		}
		if err := c.Remove(c.Assets()[0].ID, "withdrawn"); !errors.Is(err, fault) || told != 0 {
			t.Errorf("%v: removed: %v, let go %d times", fault, err, told)
		}
		m.SetFault(nil)
		c.CheckSpace()
		if n := len(c.Assets()); n != 0 {
			t.Errorf("%v: %d assets are left", fault, n)
		}
	}
}

// A disk that fails what was begun (the blob can be renamed, and not made shorter) is not asked for it every few seconds.
func TestEvictionThatFailsBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMem(t, 0)
		told := 0
		c := openMem(t, m, func(o *Options) { o.KeepPrefix = testPiece })
		c.OnEvict(func(asset.ID) { told++ })
		f := newMedia(t, 1, 20*testPiece)
		fill(t, create(t, c, f, Attr{}), f)
		must(t, c.Flush())
		m.SetFault(func(op durable.Op) error {
			if op.Kind == durable.OpTruncate || strings.HasPrefix(op.Name, "/state") && op.Mutates() {
				return syscall.EIO
			}
			return nil
		})
		c.o.Reserve = 1<<40 - 1 // all of the disk
		for range 1000 {        // 50 minutes
			c.CheckSpace()
			time.Sleep(c.o.SpaceCheck)
		}
		if told < 5 || told > 30 {
			t.Errorf("let go %d times in 50 minutes", told)
		}
		m.SetFault(nil)
		time.Sleep(mostEvictWait)
		c.CheckSpace()
		if n := len(c.Assets()); n != 0 {
			t.Errorf("%d assets are left when the disk works again", n)
		}
	})
}

// rereadFS calls read after metainfo was read, before the caller knows what it is.
type rereadFS struct {
	durable.FS
	read func()
}

type rereadFile struct {
	durable.File
	read func()
}

func (f *rereadFS) Open(name string) (durable.File, error) {
	file, err := f.FS.Open(name)
	if read := f.read; err == nil && read != nil && strings.HasSuffix(name, torrentSuffix) {
		f.read = nil
		return rereadFile{file, read}, nil
	}
	return file, err
}

func (f rereadFile) Close() error {
	f.read()
	return f.File.Close()
}

// Who read metainfo before it was written again does not call it damaged afterwards.
func TestMetainfoThatIsMendedWhileItIsRead(t *testing.T) {
	m := newMem(t, 0)
	c := openMem(t, m)
	film := newMedia(t, 1, 5*testPiece)
	fill(t, create(t, c, film, Attr{}), film)
	must(t, c.Flush())
	must(t, c.Close())
	must(t, durable.WriteFile(m, c.torrentPath(film.info.ID), make([]byte, len(film.torrent)), 0o644))
	fsys := &rereadFS{FS: m}
	c = openMem(t, m, func(o *Options) { o.FS = fsys })
	var mended *Asset
	fsys.read = func() { mended = create(t, c, film, Attr{}) }
	if a, ok := c.Asset(film.info.ID); !ok || mended == nil || a != mended {
		t.Error("read, but not given out")
	}
	e := mended.e
	if a, ok := c.Asset(film.info.ID); !ok || a != mended || !a.Status().Complete || !e.unread.IsZero() || c.o.Health.Has(CodeMeta) {
		t.Errorf("afterwards: given out %v, damaged %v, unread %v, warnings %v", ok, e.damaged, e.unread, c.o.Health.List())
	}
	// In the moment between its being written and the handle.
	e.damaged, e.unread = true, time.Now()
	c.metainfoHealth()
	if e.attach(film.info); e.damaged || !e.unread.IsZero() || c.o.Health.Has(CodeMeta) {
		t.Errorf("with the handle: damaged %v, unread %v, warnings %v", e.damaged, e.unread, c.o.Health.List())
	}
}

// Damaged metainfo is told of once, makes its asset the first to go, and is written again when the catalog has it.
func TestDamagedMetainfo(t *testing.T) {
	m := newMem(t, 0)
	c := openMem(t, m)
	films := []*media{newMedia(t, 1, 5*testPiece), newMedia(t, 2, 5*testPiece), newMedia(t, 3, 5*testPiece)}
	for i, f := range films { // the first has the least priority
		fill(t, create(t, c, f, Attr{Priority: i}), f)
	}
	must(t, c.Flush())
	must(t, c.Close())
	for _, f := range films[1:] {
		must(t, durable.WriteFile(m, c.torrentPath(f.info.ID), make([]byte, len(f.torrent)), 0o644))
	}
	log := &logCounter{lines: map[string]int{}}
	c = openMem(t, m, func(o *Options) { o.Log = slog.New(log) })
	for range 50 {
		for i, f := range films {
			if _, ok := c.Asset(f.info.ID); ok != (i == 0) {
				t.Fatalf("film %d is there: %v", i, ok)
			}
		}
	}
	if n := log.lines["metainfo of a cached asset cannot be read"]; n != 2 || !c.o.Health.Has(CodeMeta) {
		t.Errorf("%d lines of log, warnings %v", n, c.o.Health.List())
	}
	for _, s := range c.Assets() {
		if s.Complete != (s.ID == films[0].info.ID) {
			t.Errorf("%s is called complete: %v", s.Attr.Name, s.Complete)
		}
	}
	if a := create(t, c, films[1], Attr{Priority: 1}); !a.Complete() || !c.o.Health.Has(CodeMeta) {
		t.Errorf("of two that were damaged one was written again: complete %v, warnings %v", a.Complete(), c.o.Health.List())
	}
	c.space.Lock()
	plan := c.plan(1, nil, nil)
	c.space.Unlock()
	if len(plan.Steps) != 1 || plan.Steps[0].ID != films[2].info.ID {
		t.Errorf("the first to go: %+v", plan.Steps)
	}
	must(t, c.Remove(films[2].info.ID, "of no use"))
	if c.o.Health.Has(CodeMeta) {
		t.Error("the warning stays")
	}
}
