package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/state"

	"go.etcd.io/bbolt"
)

func TestAnAssetArrivesIsReadAndSurvives(t *testing.T) {
	o := osOptions(t)
	c := openOS(t, o)
	m := newMedia(t, 1, 100_000, 1, 0, 70_000)
	a := create(t, c, m, Attr{Name: "Film", Version: "1", Priority: 3, KeepUntil: time.Unix(2e9, 0)})
	if a.Have(0) || a.Complete() || a.HaveCount() != 0 {
		t.Fatal("something is there already")
	}
	if _, err := a.ReadVerifiedAt(make([]byte, 1), 0); !errors.Is(err, ErrNotVerified) {
		t.Fatalf("unverified bytes: %v", err)
	}
	fill(t, a, m)
	if !a.Complete() || a.Bytes() != int64(len(m.data)) || a.HaveCount() != m.info.NumPieces() {
		t.Fatalf("%+v", a.Status())
	}
	if a.Durable() {
		t.Fatal("durable before a commit")
	}
	checkFiles(t, a, m)
	must(t, c.Flush())
	if !a.Durable() || c.Usage().Pending != 0 {
		t.Fatalf("not durable after a commit: %+v", c.Usage())
	}
	if s := c.Stats(); s.HashedRereadBytes != 0 || s.HashedInlineBytes != int64(len(m.data)) || s.DataSyncs != 1 {
		t.Fatalf("bytes in order were read back: %+v", s)
	}
	must(t, c.Close())

	c = openOS(t, o)
	a, ok := c.Asset(m.info.ID)
	if !ok || !a.Complete() {
		t.Fatal("lost over a restart")
	}
	st := a.Status()
	if st.Attr.Name != "Film" || st.Attr.Priority != 3 || !st.Attr.KeepUntil.Equal(time.Unix(2e9, 0)) || st.Unknown != 0 {
		t.Fatalf("%+v", st)
	}
	checkFiles(t, a, m)
	if b, err := a.Torrent(); err != nil || !bytes.Equal(b, m.torrent) {
		t.Fatalf("torrent: %v", err)
	}
	if again := create(t, c, m, Attr{Name: "Film 2"}); again != a || a.Status().Attr.Name != "Film 2" {
		t.Fatal("creating it again gives another")
	}
	must(t, c.Remove(m.info.ID, "test"))
	if list, err := os.ReadDir(filepath.Join(o.Dir, "assets")); err != nil || len(list) != 0 {
		t.Fatalf("left behind: %v, %v", list, err)
	}
	if u := c.Usage(); u.Used != 0 || u.Assets != 0 {
		t.Fatalf("%+v", u)
	}
	if ev, ok := c.Why(m.info.ID); !ok || ev.What != EventRemoved || ev.Reason != "test" {
		t.Fatalf("%+v", ev)
	}
	if _, err := a.WriteAt([]byte{1}, 0); !errors.Is(err, ErrGone) {
		t.Fatalf("write after removal: %v", err)
	}
}

func checkFiles(t *testing.T, a *Asset, m *media) {
	t.Helper()
	for _, f := range m.info.Files {
		r, err := a.OpenFile(context.Background(), f.Path)
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		if !bytes.Equal(got, m.data[f.Offset:f.Offset+f.Length]) {
			t.Fatalf("%s differs", f.Path)
		}
		must(t, r.Close())
	}
}

func TestBlocksInAnyOrderAndTwice(t *testing.T) {
	c := openMem(t, newMem(t, 0))
	m := newMedia(t, 2, 3*testPiece+5)
	a := create(t, c, m, Attr{})
	write := func(from, to int) {
		t.Helper()
		_, err := a.WriteAt(m.data[from:to], int64(from))
		must(t, err)
	}
	write(8192, testPiece) // out of order
	write(0, 8192)
	must(t, a.MarkVerified(0))
	write(testPiece, testPiece+8192)
	_, err := a.WriteAt(make([]byte, 100), testPiece) // wrong bytes over right ones that were hashed
	must(t, err)
	write(testPiece+8192, 2*testPiece)
	if err := a.MarkVerified(1); !errors.Is(err, ErrHash) {
		t.Fatalf("wrong bytes: %v", err)
	}
	if err := a.MarkVerified(1); !errors.Is(err, ErrHash) {
		t.Fatalf("nothing written since: %v", err)
	}
	write(testPiece, 3*testPiece+5) // across pieces
	for i := 1; i < 4; i++ {
		sum, err := a.HashPiece(i)
		must(t, err)
		if sum != m.info.PieceHash(i) {
			t.Fatalf("hash of %d", i)
		}
		must(t, a.MarkVerified(i))
	}
	if _, err := a.WriteAt([]byte{1}, 0); !errors.Is(err, ErrVerified) {
		t.Fatalf("write into a verified piece: %v", err)
	}
	checkFiles(t, a, m)
	if got := a.Bitmap(); !bytes.Equal(got, []byte{0xF0}) {
		t.Fatalf("bitfield %x", got)
	}
}

func TestHashIsCheckedAgainWhenBytesChangeAfterIt(t *testing.T) {
	c := openMem(t, newMem(t, 0))
	m := newMedia(t, 3, testPiece)
	a := create(t, c, m, Attr{})
	_, err := a.WriteAt(m.data, 0)
	must(t, err)
	sum, err := a.HashPiece(0)
	must(t, err)
	if sum != m.info.PieceHash(0) {
		t.Fatal("hash")
	}
	_, err = a.WriteAt([]byte("late and wrong"), 50)
	must(t, err)
	if err := a.MarkVerified(0); !errors.Is(err, ErrHash) {
		t.Fatalf("a late wrong block got through: %v", err)
	}
}

// What was verified and not committed is still in the file after the process was killed: it need not be fetched again.
func TestPieceWhoseBitWasLostIsVerifiedFromTheFile(t *testing.T) {
	mem := newMem(t, 0)
	m := newMedia(t, 11, 3*testPiece)
	a := create(t, openMem(t, mem), m, Attr{})
	must(t, put(a, m, 1))
	c := openMem(t, mem) // nobody closed the first one
	a, ok := c.Asset(m.info.ID)
	if !ok || a.Have(1) {
		t.Fatal("the bit is durable already")
	}
	must(t, a.MarkVerified(1))
	if err := a.MarkVerified(2); !errors.Is(err, ErrHash) {
		t.Fatalf("nothing is there: %v", err)
	}
	must(t, put(a, m, 2))
	must(t, rightBytes(a, m))
}

func TestManyJudgeOnePiece(t *testing.T) {
	c := openMem(t, newMem(t, 0))
	m := newMedia(t, 12, 50*testPiece)
	a := create(t, c, m, Attr{})
	for i := range 50 {
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, n := m.info.PieceSpan(i)
				if _, err := a.WriteAt(m.piece(i), int64(i)*testPiece); err != nil && !errors.Is(err, ErrVerified) {
					t.Error(n, err)
				}
				if err := a.MarkVerified(i); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	if !a.Complete() {
		t.Fatal("not complete")
	}
	must(t, rightBytes(a, m))
}

func TestLostPieceIsNotServedAndCanBeWrittenAgain(t *testing.T) {
	mem := newMem(t, 0)
	c := openMem(t, mem)
	m := newMedia(t, 4, 4*testPiece)
	a := create(t, c, m, Attr{})
	fill(t, a, m)
	must(t, c.Flush())
	must(t, a.MarkMissing(2))
	if a.Have(2) || a.Complete() {
		t.Fatal("still there")
	}
	// The power goes before anything else happens: no row may claim piece 2.
	_, err := a.WriteAt([]byte("garbage"), 2*testPiece)
	must(t, err)
	c = openMem(t, mem.Crash(nil))
	a, ok := c.Asset(m.info.ID)
	if !ok || a.Have(2) || a.HaveCount() != 3 {
		t.Fatalf("after a crash: %+v", a.Status())
	}
	must(t, put(a, m, 2))
	checkFiles(t, a, m)
}

func TestDamagedTorrentAndNewCreate(t *testing.T) {
	mem := newMem(t, 0)
	c := openMem(t, mem)
	m := newMedia(t, 5, 2*testPiece)
	fill(t, create(t, c, m, Attr{}), m)
	must(t, c.Close())
	must(t, durable.WriteFile(mem, c.torrentPath(m.info.ID), []byte("d4:infod"), 0o644))
	c = openMem(t, mem)
	if _, ok := c.Asset(m.info.ID); ok {
		t.Fatal("handle without metainfo")
	}
	if a := create(t, c, m, Attr{}); !a.Complete() {
		t.Fatal("data lost with the metainfo")
	}
	other := newMedia(t, 6, 2*testPiece)
	must(t, durable.WriteFile(mem, c.torrentPath(m.info.ID), other.torrent, 0o644))
	if _, _, err := c.readTorrent(m.info.ID); err == nil {
		t.Fatal("the metainfo of another asset was taken")
	}
}

func TestOptionsValidate(t *testing.T) {
	_, err := Open(Options{Quota: -1, Reserve: -1, GroupBytes: -1, ScrubRate: -1})
	for _, want := range []string{"cache directory", "state directory", "quota", "reserve", "group", "scrub"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

func TestPinsAreInTheStateFile(t *testing.T) {
	o := osOptions(t)
	open := func() {
		s, err := state.Open(filepath.Join(o.StateDir, "state.db"), state.Options{})
		must(t, err)
		t.Cleanup(func() { _ = s.Close() }) // a test may have closed it
		o.State = s
	}
	open()
	c := openOS(t, o)
	m := newMedia(t, 7, testPiece)
	create(t, c, m, Attr{})
	must(t, c.Pin(m.info.ID, true))
	if err := c.Remove(m.info.ID, "x"); !errors.Is(err, ErrPinned) {
		t.Fatal(err)
	}
	must(t, c.Close())
	must(t, o.State.Close())
	must(t, os.WriteFile(filepath.Join(o.StateDir, indexFile), []byte("rubbish"), 0o600))
	open()
	c = openOS(t, o)
	if list := c.Assets(); len(list) != 1 || !list[0].Pinned || list[0].Unknown != 1 {
		t.Fatalf("%+v", list)
	}
	must(t, c.Pin(m.info.ID, false))
	must(t, c.Remove(m.info.ID, "x"))
}

func TestIndexLostIsRebuiltFromTheFiles(t *testing.T) {
	o := osOptions(t)
	c := openOS(t, o)
	m := newMedia(t, 8, 20*testPiece+77)
	a := create(t, c, m, Attr{})
	for i := 0; i < 21; i += 2 {
		must(t, put(a, m, i))
	}
	must(t, c.Close())
	must(t, os.Remove(filepath.Join(o.StateDir, indexFile)))
	c = openOS(t, o)
	a, ok := c.Asset(m.info.ID)
	if !ok || a.HaveCount() != 0 || a.Unknown() != 21 || !o.Health.Has(CodeRebuilt) {
		t.Fatalf("%+v", a.Status())
	}
	r, err := a.OpenFile(context.Background(), m.info.Files[0].Path)
	must(t, err)
	_, err = r.Seek(20*testPiece, io.SeekStart)
	must(t, err)
	run(t, c)
	got, err := io.ReadAll(r)
	must(t, err)
	if !bytes.Equal(got, m.data[20*testPiece:]) {
		t.Fatal("the read that waited got something else")
	}
	must(t, r.Close())
	until(t, c, "all known", func() bool { return a.Unknown() == 0 })
	for i := range 21 {
		if a.Have(i) != (i%2 == 0) {
			t.Fatalf("piece %d: %v", i, a.Have(i))
		}
	}
	until(t, c, "warning gone", func() bool { return !o.Health.Has(CodeRebuilt) })
}

func TestNewerIndexIsLeftUntouched(t *testing.T) {
	o := osOptions(t)
	m, n := newMedia(t, 9, 3*testPiece), newMedia(t, 10, 3*testPiece)
	path := filepath.Join(o.StateDir, indexFile)
	newer := func() (rowStore, bool, error) {
		rows, rebuild, err := openBolt(o.StateDir, Format+1, o.Log)
		return rows, rebuild, err
	}
	o.setDefaults()
	future := o
	future.openRows = newer
	c := openOS(t, future)
	fill(t, create(t, c, m, Attr{}), m)
	must(t, c.Close())
	before, err := os.ReadFile(path)
	must(t, err)

	// The older program comes back after a rollback: it builds its own index, and changes things.
	c = openOS(t, o)
	stop := run(t, c)
	a, ok := c.Asset(m.info.ID)
	if !ok {
		t.Fatal("the blob was not adopted")
	}
	until(t, c, "blob checked", a.Complete)
	must(t, a.MarkMissing(1))
	_, err = a.WriteAt([]byte("garbage"), testPiece)
	must(t, err)
	fill(t, create(t, c, n, Attr{}), n)
	stop()
	must(t, c.Close())
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Fatal("the newer index was changed")
	}

	// The newer one comes back: what its own index says is old.
	c = openOS(t, future)
	a, ok = c.Asset(m.info.ID)
	if !ok || a.Have(1) || !a.Have(0) || !a.Have(2) {
		t.Fatal("the newer program believes what the older one has undone")
	}
	if b, ok := c.Asset(n.info.ID); !ok || !b.Complete() {
		t.Fatal("what the older program fetched is lost")
	}
	if _, err := os.Stat(state.Beside(path, Format)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the older index is still there: %v", err)
	}
}

func TestBoltRowsRefuseAStrangeKey(t *testing.T) {
	rows, _, err := openBolt(t.TempDir(), Format, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, rows.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(assetsBucket))
		if err != nil {
			return err
		}
		return b.Put([]byte("short"), []byte("x"))
	}))
	if err := rows.load(func(asset.ID, []byte) {}); !errors.Is(err, errRow) {
		t.Fatalf("strange key: %v", err)
	}
	must(t, rows.close())
}

// Whoever looks while an asset is given up does not find it; when it stays after all, it is there again.
func TestWhatIsBeingEvictedIsNotGivenOut(t *testing.T) {
	c := openMem(t, newMem(t, 0))
	m := newMedia(t, 2, testPiece)
	a := create(t, c, m, Attr{})
	told := 0
	c.OnEvict(func(id asset.ID) {
		told++
		if _, ok := c.Asset(id); ok {
			t.Error("given out while it goes")
		}
	})
	release := a.Hold()
	if err := c.Remove(m.info.ID, "test"); !errors.Is(err, ErrInUse) || told != 1 {
		t.Fatalf("held: %v, told %d times", err, told)
	}
	if got, ok := c.Asset(m.info.ID); !ok || got != a {
		t.Error("it stays, and is not found")
	}
	release()
	must(t, c.Remove(m.info.ID, "test"))
	if _, ok := c.Asset(m.info.ID); ok || told != 2 {
		t.Errorf("found after removal; told %d times", told)
	}
}

// Who waits for an asset to be whole and durable hears of it, also where the disk takes its time after the last piece.
func TestTheCommitOfTheLastPieceIsTold(t *testing.T) {
	c := openMem(t, newMem(t, 1<<20))
	m := newMedia(t, 1, 3*16<<10)
	a := create(t, c, m, Attr{})
	fill(t, a, m)
	if _, whole := a.Path(); whole {
		t.Fatal("it is durable before any commit: the test shows nothing")
	}
	changed := c.Changed()
	must(t, c.Flush())
	if _, whole := a.Path(); !whole {
		t.Error("it is not whole after the commit")
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
}
