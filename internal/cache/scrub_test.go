package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
	"boxd/internal/state"
)

// rot flips a bit of the blob behind the cache's back.
func rot(t testing.TB, fsys durable.FS, path string, off int64) {
	t.Helper()
	f, err := fsys.OpenRW(path)
	must(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	must(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

func TestVerifyFindsRot(t *testing.T) {
	o := osOptions(t)
	c := openOS(t, o)
	m := newMedia(t, 60, 10*testPiece+3)
	a := create(t, c, m, Attr{})
	fill(t, a, m)
	must(t, c.Flush())
	res, err := c.Verify(t.Context(), m.info.ID)
	if err != nil || len(res.Bad) != 0 || res.Pieces != 11 || res.Bytes != int64(len(m.data)) {
		t.Fatalf("%+v %v", res, err)
	}
	rot(t, durable.OS(), blobOf(t, o.Dir), 4*testPiece+9)
	rot(t, durable.OS(), blobOf(t, o.Dir), 10*testPiece)
	res, err = c.Verify(t.Context(), m.info.ID)
	if err != nil || len(res.Bad) != 2 || res.Bad[0] != 4 || res.Bad[1] != 10 || !o.Health.Has(CodeRot) {
		t.Fatalf("%+v %v", res, err)
	}
	if a.Have(4) || a.Have(10) || a.HaveCount() != 9 {
		t.Fatal("rotten pieces are still there")
	}
	must(t, rightBytes(a, m))
	must(t, put(a, m, 4))
	must(t, put(a, m, 10))
	if res, err := c.Verify(t.Context(), m.info.ID); err != nil || len(res.Bad) != 0 {
		t.Fatalf("%+v %v", res, err)
	}
	if _, err := c.Verify(t.Context(), asset.ID{1}); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
}

func TestScrubFindsRotWithinThePeriodAtItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMem(t, 0)
		h := health.New(nil)
		c := openMem(t, mem, func(o *Options) {
			o.ScrubPeriod, o.ScrubRate, o.Health = 14*24*time.Hour, testPiece, h // one piece a second
			o.SpaceCheck = time.Hour
		})
		m := newMedia(t, 61, 100*testPiece)
		a := create(t, c, m, Attr{})
		fill(t, a, m)
		must(t, c.Flush())
		rot(t, mem, c.blobPath(m.info.ID, a.e.gen), 50*testPiece)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		start := time.Now()
		for a.Have(50) {
			if time.Since(start) > 14*24*time.Hour {
				t.Fatal("not found within the period")
			}
			time.Sleep(time.Hour)
		}
		if time.Since(start) < 24*time.Hour {
			t.Fatalf("scrubbed after %s already: that wears the disk", time.Since(start))
		}
		if !h.Has(CodeRot) {
			t.Fatal("nobody was told")
		}
		before := c.Stats().ScrubbedBytes
		if before > 120*testPiece {
			t.Fatalf("%d bytes read", before)
		}
		must(t, put(a, m, 50))
		time.Sleep(8 * 24 * time.Hour) // the next round is clean
		if h.Has(CodeRot) {
			t.Fatal("the warning stays")
		}
		if st := a.Status(); st.Scrubbed.Before(start) {
			t.Fatalf("%+v", st)
		}
		cancel()
		must(t, <-done)
		must(t, c.Close())
	})
}

func TestScrubPausesWhileSomethingPlays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openMem(t, newMem(t, 0), func(o *Options) { o.ScrubPeriod, o.ScrubRate = time.Hour, testPiece })
		m := newMedia(t, 62, 60*testPiece)
		a := create(t, c, m, Attr{})
		fill(t, a, m)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		for c.Stats().ScrubbedBytes == 0 {
			time.Sleep(time.Second)
		}
		r, err := a.OpenFile(ctx, m.info.Name)
		must(t, err)
		time.Sleep(3 * time.Second)
		before := c.Stats().ScrubbedBytes
		time.Sleep(10 * time.Minute)
		if got := c.Stats().ScrubbedBytes; got != before {
			t.Fatalf("%d bytes scrubbed during playback", got-before)
		}
		must(t, r.Close())
		time.Sleep(10 * time.Second)
		got := c.Stats().ScrubbedBytes - before
		if got < 5*testPiece || got > 12*testPiece {
			t.Fatalf("%d bytes in 10 s at %d a second", got, testPiece)
		}
		cancel()
		must(t, <-done)
	})
}

// A scrub in the middle of a large piece makes room at once, and begins that piece anew later.
func TestScrubLeavesAPieceWhenSomebodyComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const piece = 16 * bufSize
		mem := newMem(t, 0)
		c := openMem(t, mem, func(o *Options) { o.ScrubPeriod = time.Hour })
		data := make([]byte, 2*piece)
		m := mediaOf(t, "film", data, piece, []int{len(data)})
		a := create(t, c, m, Attr{})
		fill(t, a, m)
		must(t, c.Flush())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		var reads atomic.Int64
		go func() { done <- c.Run(ctx) }()
		mem.SetFault(func(op durable.Op) error {
			if op.Kind == durable.OpRead {
				if reads.Add(1) == 3 {
					c.SetQuiet(true)
				}
			}
			return nil
		})
		time.Sleep(2 * time.Hour)
		if n := reads.Load(); n != 3 || c.Stats().ScrubbedBytes != 0 {
			t.Errorf("%d portions were read, %d bytes done; it was to rest after 3", n, c.Stats().ScrubbedBytes)
		}
		c.SetQuiet(false)
		for c.Stats().ScrubbedBytes < int64(len(data)) {
			time.Sleep(time.Second)
		}
		if n := reads.Load(); n != 3+int64(len(data)/bufSize) || c.Stats().RottenPieces != 0 {
			t.Errorf("%d portions were read of %d, %d pieces rotten", n, len(data)/bufSize, c.Stats().RottenPieces)
		}
		cancel()
		must(t, <-done)
	})
}

func TestGroupCommitByBytesAndByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openMem(t, newMem(t, 0), func(o *Options) { o.GroupBytes, o.GroupInterval = 8*testPiece, 10*time.Second })
		m := newMedia(t, 63, 20*testPiece)
		a := create(t, c, m, Attr{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		base := c.Stats()
		for i := range 3 {
			must(t, put(a, m, i))
		}
		synctest.Wait()
		if s := c.Stats(); s.DataSyncs != base.DataSyncs || a.Durable() {
			t.Fatal("synced before the group was full")
		}
		must(t, put(a, m, 3))
		synctest.Wait()
		if s := c.Stats(); s.DataSyncs != base.DataSyncs+1 || s.IndexCommits != base.IndexCommits+1 || !a.Durable() {
			t.Fatalf("a full group: %+v", s)
		}
		must(t, put(a, m, 4))
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if a.Durable() {
			t.Fatal("too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := c.Stats(); s.DataSyncs != base.DataSyncs+2 || !a.Durable() {
			t.Fatalf("after the interval: %+v", s)
		}
		for i := 5; i < 20; i++ {
			must(t, put(a, m, i))
		}
		synctest.Wait()
		if !a.Durable() {
			t.Fatal("a complete asset waits for its commit")
		}
		cancel()
		must(t, <-done)
	})
}

// A reserve that no disk of this size could hold wraps nowhere: it costs nothing that is here, takes nothing in, and is told of.
func TestAReserveLargerThanTheDisk(t *testing.T) {
	for _, reserve := range []int64{200 * testPiece, 1 << 62, math.MaxInt64} {
		mem := newMem(t, 200*testPiece)
		c := openMem(t, mem)
		m := newMedia(t, 64, 30*testPiece)
		fill(t, create(t, c, m, Attr{}), m)
		c.o.Reserve = reserve
		c.CheckSpace()
		if n := len(c.Assets()); n != 1 || !c.o.Health.Has(CodeReserve) {
			t.Errorf("reserve %d: %d assets, warnings %v", reserve, n, c.o.Health.List())
		}
		if _, err := c.Create(newMedia(t, 65, testPiece).torrent, Attr{Priority: 9}); !errors.Is(err, ErrNoSpace) {
			t.Errorf("reserve %d: created: %v", reserve, err)
		}
		c.o.Reserve = testPiece
		if c.CheckSpace(); c.o.Health.Has(CodeReserve) {
			t.Errorf("reserve %d: the warning stays", reserve)
		}
	}
}

func TestShrinksWithinTenSecondsWhenOthersFillTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMem(t, 200*testPiece)
		h := health.New(nil)
		c := openMem(t, mem, func(o *Options) { o.Reserve, o.Health = 50*testPiece, h })
		ms := []*media{newMedia(t, 64, 30*testPiece), newMedia(t, 65, 30*testPiece), newMedia(t, 66, 30*testPiece)}
		for i, m := range ms {
			fill(t, create(t, c, m, Attr{Priority: i}), m)
		}
		must(t, c.Pin(ms[0].info.ID, true))
		a, _ := c.Asset(ms[1].info.ID)
		release := a.Hold()
		var told []asset.ID
		c.OnEvict(func(id asset.ID) { told = append(told, id); release() })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		if len(c.Assets()) != 3 {
			t.Fatal("evicted without need")
		}
		mem.SetOthers(80 * testPiece)
		time.Sleep(10 * time.Second)
		if free, _, _ := mem.Free("/"); free < 50*testPiece {
			t.Fatalf("%d bytes free", free)
		}
		if list := c.Assets(); len(list) != 2 || len(told) != 1 || told[0] != ms[1].info.ID {
			t.Fatalf("%+v, told of %v", list, told)
		}
		if ev, ok := c.Why(ms[1].info.ID); !ok || ev.What != EventEvicted || ev.Reason == "" {
			t.Fatalf("%+v", ev)
		}
		mem.SetOthers(170 * testPiece)
		time.Sleep(10 * time.Second)
		if list := c.Assets(); len(list) != 1 || !list[0].Pinned || !h.Has(CodeReserve) {
			t.Fatalf("%+v, %v", list, h.List())
		}
		if _, err := c.Create(ms[1].torrent, Attr{Priority: 9}); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("created below the reserve: %v", err)
		}
		mem.SetOthers(0)
		time.Sleep(10 * time.Second)
		if h.Has(CodeReserve) {
			t.Fatal("the warning stays")
		}
		create(t, c, ms[1], Attr{})
		if h.Has(CodeNoSpace) {
			t.Fatal("the warning stays")
		}
		cancel()
		must(t, <-done)
	})
}

func TestNeverFits(t *testing.T) {
	c := openMem(t, newMem(t, 0), func(o *Options) { o.Quota = 3 * testPiece })
	m := newMedia(t, 67, 4*testPiece)
	_, err := c.Create(m.torrent, Attr{})
	var se *SpaceError
	if !errors.Is(err, ErrNeverFits) || !errors.As(err, &se) || se.Need < 4*testPiece {
		t.Fatal(err)
	}
	if ev, ok := c.Why(m.info.ID); !ok || ev.What != EventRefused {
		t.Fatalf("%+v", ev)
	}
	if a := create(t, c, m, Attr{PrefixBytes: 100}); a.Reserved() != testPiece {
		t.Fatal("a prefix would have fitted")
	}
}

// On a file system without preallocation what was promised and is not written yet counts as taken.
func TestLedgerWhereNothingCanBePreallocated(t *testing.T) {
	mem := newMem(t, 100*testPiece+2*metaSlack)
	mem.SetNoAllocate(true)
	c := openMem(t, mem, func(o *Options) { o.Reserve = 20 * testPiece })
	a, b := newMedia(t, 68, 50*testPiece), newMedia(t, 69, 50*testPiece)
	h := create(t, c, a, Attr{Priority: 5})
	if _, err := c.Create(b.torrent, Attr{}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("promised twice: %v", err)
	}
	fill(t, h, a)
	if free, _, _ := mem.Free("/"); free < 20*testPiece {
		t.Fatalf("%d bytes free", free)
	}
	must(t, c.Close())
	c = openMem(t, mem, func(o *Options) { o.Reserve = 20 * testPiece })
	if _, err := c.Create(b.torrent, Attr{}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("promised twice after a restart: %v", err)
	}
}

// An index damaged anywhere opens or is rebuilt; no wrong byte is served, no piece that was durable is lost.
func TestIndexDamagedAnywhere(t *testing.T) {
	seeds := 200
	if os.Getenv("BOXD_POWER") != "" {
		seeds = 1000
	}
	if testing.Short() {
		seeds = 40
	}
	o := osOptions(t)
	c := openOS(t, o)
	var ms []*media
	for i := range 12 {
		m := newMedia(t, uint64(70+i), (3+i)*testPiece+i)
		ms = append(ms, m)
		a := create(t, c, m, Attr{Name: m.info.Name})
		for p := range m.info.NumPieces() {
			if i%3 == 0 || (p+i)%3 != 0 {
				must(t, put(a, m, p))
			}
		}
		must(t, c.Flush())
	}
	must(t, ms[0].lose(c, 1)) // there are generations in the file that must not be believed
	must(t, c.Close())
	path := filepath.Join(o.StateDir, indexFile)
	clean, err := os.ReadFile(path)
	must(t, err)
	dir := snapshot(t, o.Dir)
	rebuilt := 0
	for seed := range seeds {
		must(t, os.WriteFile(path, damage(clean, rand.New(rand.NewPCG(uint64(seed), 3))), 0o600))
		dir.restore(t)
		o.Health = health.New(nil)
		c, err := Open(o)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if o.Health.Has(CodeRebuilt) {
			rebuilt++
		}
		settleAll(c)
		for i, m := range ms {
			a, ok := c.Asset(m.info.ID)
			if !ok {
				t.Fatalf("seed %d: asset %d is lost", seed, i)
			}
			if err := rightBytes(a, m); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for p := range m.info.NumPieces() {
				if want := (i%3 == 0 || (p+i)%3 != 0) && (i != 0 || p != 1); a.Have(p) != want {
					t.Fatalf("seed %d: asset %d piece %d: %v", seed, i, p, a.Have(p))
				}
			}
		}
		if err := errors.Join(consistent(c, durable.OS()), c.Close()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("%d seeds, %d rebuilt", seeds, rebuilt)
	if rebuilt < seeds/10 {
		t.Fatalf("only %d of %d were rebuilt: the damage is not what it should be", rebuilt, seeds)
	}
}

// lose takes a piece of the media back and leaves rubbish in its place.
func (m *media) lose(c *Cache, i int) error {
	a, _ := c.Asset(m.info.ID)
	if err := a.MarkMissing(i); err != nil {
		return err
	}
	_, err := a.WriteAt(make([]byte, 500), int64(i)*testPiece)
	return errors.Join(err, c.Flush())
}

// tree is the content of a directory.
type tree struct {
	dir   string
	files map[string][]byte
}

func snapshot(t testing.TB, dir string) tree {
	t.Helper()
	s := tree{filepath.Join(dir, "assets"), map[string][]byte{}}
	list, err := os.ReadDir(s.dir)
	must(t, err)
	for _, de := range list {
		s.files[de.Name()], err = os.ReadFile(filepath.Join(s.dir, de.Name()))
		must(t, err)
	}
	return s
}

// restore puts back what is missing or has another name; content does not change in the test that uses it.
func (s tree) restore(t testing.TB) {
	t.Helper()
	list, err := os.ReadDir(s.dir)
	must(t, err)
	for _, de := range list {
		if s.files[de.Name()] == nil {
			must(t, os.Remove(filepath.Join(s.dir, de.Name())))
		}
	}
	for name, b := range s.files {
		if _, err := os.Stat(filepath.Join(s.dir, name)); err != nil {
			must(t, os.WriteFile(filepath.Join(s.dir, name), b, 0o600))
		}
	}
}

// damage changes a file as a bad flash does.
func damage(clean []byte, rnd *rand.Rand) []byte {
	b := bytes.Clone(clean)
	for range 1 + rnd.IntN(6) {
		off := rnd.IntN(len(b))
		block := b[off/512*512 : min(len(b), off/512*512+512<<rnd.IntN(4))]
		switch rnd.IntN(5) {
		case 0:
			b[off] ^= 1 << rnd.IntN(8)
		case 1:
			clear(block)
		case 2:
			for i := range block {
				block[i] = byte(rnd.Uint32())
			}
		case 3:
			copy(block, b[rnd.IntN(len(b))/512*512:])
		case 4:
			if rnd.IntN(4) == 0 {
				b = b[:max(1, rnd.IntN(len(b)))]
			}
		}
	}
	return b
}

func TestDamagedStateKeepsTheCache(t *testing.T) {
	o := osOptions(t)
	path := filepath.Join(o.StateDir, "state.db")
	must(t, os.WriteFile(path, bytes.Repeat([]byte{7}, 9000), 0o600))
	s, err := state.Open(path, state.Options{})
	must(t, err)
	o.State = s
	c := openOS(t, o)
	m := newMedia(t, 90, testPiece)
	a := create(t, c, m, Attr{})
	fill(t, a, m)
	must(t, c.Pin(m.info.ID, true))
	must(t, c.Close())
	must(t, s.Close())
	s, err = state.Open(path, state.Options{})
	must(t, err)
	o.State = s
	c = openOS(t, o)
	if !c.Pinned(m.info.ID) {
		t.Fatal("pin lost")
	}
	r, err := c.entries[m.info.ID].asset()
	must(t, err)
	f, err := r.OpenFile(context.Background(), m.info.Name)
	must(t, err)
	if b, err := io.ReadAll(f); err != nil || !bytes.Equal(b, m.data) {
		t.Fatal(err)
	}
	must(t, f.Close())
	must(t, c.Close())
	must(t, s.Close())
}
