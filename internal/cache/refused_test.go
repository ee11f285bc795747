package cache

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"boxd/internal/durable"
)

// A peer's blocks that come while the space for them is being made, which then cannot be had, leave no piece behind that
// would be served as zeros once there is space.
func TestGrowthThatFailsLeavesNoPieceBehindIt(t *testing.T) {
	m := newMem(t, 0)
	c := openMem(t, m)
	film := newMedia(t, 1, 8*testPiece)
	a := create(t, c, film, Attr{PrefixBytes: 2 * testPiece})
	must(t, put(a, film, 0))
	must(t, put(a, film, 1))
	must(t, c.Flush())
	tried := false
	m.SetFault(func(op durable.Op) error {
		if op.Kind != durable.OpAllocate || !strings.HasSuffix(op.Name, ".blob") || tried {
			return nil
		}
		tried = true
		if err := put(a, film, 3); err == nil {
			t.Error("a piece was taken that has no space yet")
		}
		return syscall.ENOSPC
	})
	if err := a.Grow(film.info.Length); err == nil || !tried {
		t.Fatalf("grown on a full disk: %v", err)
	}
	m.SetFault(nil)
	must(t, a.Grow(film.info.Length))
	b := make([]byte, testPiece)
	if _, err := a.ReadVerifiedAt(b, 3*testPiece); err == nil && !bytes.Equal(b, film.piece(3)) {
		t.Error("wrong bytes are served")
	}
	must(t, put(a, film, 3))
	must(t, c.Flush())
	must(t, c.Close())
	c = openMem(t, m)
	a, _ = c.Asset(film.info.ID)
	if a.Reserved() != film.info.Length || a.HaveCount() != 3 {
		t.Errorf("after a restart %d bytes are reserved, and %d pieces are here", a.Reserved(), a.HaveCount())
	}
}

// A disk that turned read-only gives no room, so nothing is evicted from it that can still be played.
func TestReadOnlyDiskCostsNoAsset(t *testing.T) {
	m := newMem(t, 0)
	options := func(o *Options) { o.Quota = 5 * 5 * testPiece; o.KeepPrefix = -1 }
	c := openMem(t, m, options)
	var films []*media
	for i := range 4 {
		films = append(films, newMedia(t, uint64(i+1), 5*testPiece))
		fill(t, create(t, c, films[i], Attr{}), films[i])
	}
	must(t, c.Flush())
	m.SetFault(func(op durable.Op) error {
		if op.Mutates() && strings.HasPrefix(op.Name, "/cache") {
			return syscall.EROFS
		}
		return nil
	})
	next := newMedia(t, 9, 10*testPiece)
	if _, err := c.Create(next.torrent, Attr{Priority: 5}); err == nil {
		t.Error("something was taken on a disk that cannot be written")
	}
	all := func(c *Cache) {
		t.Helper()
		for i, f := range films {
			if a, ok := c.Asset(f.info.ID); !ok || !a.Complete() {
				t.Errorf("asset %d is not left", i)
			}
		}
	}
	all(c)
	m.SetFault(nil)
	all(openMem(t, m, options))
}

// Too many open files for a moment say nothing about the disk.
func TestTooManyOpenFilesCostNoPieces(t *testing.T) {
	m := newMem(t, 0)
	c := openMem(t, m)
	film := newMedia(t, 1, 8*testPiece)
	fill(t, create(t, c, film, Attr{}), film)
	must(t, c.Flush())
	must(t, c.Close())
	c = openMem(t, m)
	a, _ := c.Asset(film.info.ID)
	refused := false
	m.SetFault(func(op durable.Op) error {
		if op.Kind != durable.OpOpen || !strings.HasSuffix(op.Name, ".blob") || refused {
			return nil
		}
		refused = true
		return syscall.EMFILE
	})
	b := make([]byte, 8*testPiece)
	if _, err := a.ReadVerifiedAt(b, 0); err == nil {
		t.Error("read without a descriptor")
	}
	if a.HaveCount() != 8 || !refused {
		t.Errorf("%d of 8 verified pieces are left", a.HaveCount())
	}
	if _, err := a.ReadVerifiedAt(b, 0); err != nil || !bytes.Equal(b[:testPiece], film.piece(0)) {
		t.Errorf("afterwards: %v", err)
	}
}

// renameFS calls renamed after a blob was renamed, before the caller knows.
type renameFS struct {
	durable.FS
	renamed func()
}

func (f renameFS) Rename(from, to string) error {
	err := f.FS.Rename(from, to)
	if from != to && strings.HasSuffix(to, ".blob") {
		f.renamed()
	}
	return err
}

// A player that opens a blob in the moment of its renaming finds it.
func TestRenamingABlobLosesNoPiece(t *testing.T) {
	m := newMem(t, 0)
	c := openMem(t, m)
	film := newMedia(t, 1, 8*testPiece)
	fill(t, create(t, c, film, Attr{}), film)
	must(t, c.Flush())
	must(t, c.Close())
	var a *Asset
	read := make(chan error, 1)
	c = openMem(t, m, func(o *Options) {
		o.FS = renameFS{m, func() {
			go func() {
				_, err := a.ReadVerifiedAt(make([]byte, 4*testPiece), 4*testPiece)
				read <- err
			}()
			select {
			case err := <-read:
				read <- err
			case <-time.After(50 * time.Millisecond): // it waits for the new name, as it should
			}
		}}
	})
	a, _ = c.Asset(film.info.ID)
	must(t, a.MarkMissing(0)) // found rotten
	must(t, <-read)
	if a.HaveCount() != 7 {
		t.Errorf("%d of 8 verified pieces are left; one was rotten", a.HaveCount())
	}
}

// Two daemons with state directories of their own and one cache directory by mistake: the second is refused, and when it
// comes alone it checks what its index does not know, in place of taking it for leftovers.
func TestAnotherIndexOverTheSameBlobs(t *testing.T) {
	o := osOptions(t)
	film, other := newMedia(t, 1, 8*testPiece), newMedia(t, 2, 8*testPiece)
	c := openOS(t, o)
	fill(t, create(t, c, film, Attr{}), film)
	must(t, c.Flush())
	theirs := osOptions(t)
	c2 := openOS(t, theirs) // it has an index that is no new one
	fill(t, create(t, c2, other, Attr{}), other)
	must(t, c2.Close())
	theirs.Dir = o.Dir
	if _, err := Open(theirs); !errors.Is(err, ErrLocked) {
		t.Fatalf("the directory of a daemon that runs is opened: %v", err)
	}
	must(t, c.Close())
	whole := func(o Options, films ...*media) {
		t.Helper()
		c := openOS(t, o)
		stop := run(t, c)
		for _, f := range films {
			until(t, c, "the blob is checked", func() bool {
				a, ok := c.Asset(f.info.ID)
				return ok && a.Complete()
			})
		}
		if n := len(c.Assets()); n != len(films) {
			t.Errorf("%d assets, want %d", n, len(films))
		}
		stop()
		must(t, c.Close())
	}
	whole(theirs, film)
	c2 = openOS(t, theirs)
	fill(t, create(t, c2, other, Attr{}), other)
	must(t, c2.Close())
	whole(o, film, other)
	whole(o, film, other)
}

// An index that was lost is rebuilt to its end also when the power goes before the first commit.
func TestLostIndexAndThenThePower(t *testing.T) {
	o := osOptions(t)
	film := newMedia(t, 1, 8*testPiece)
	c := openOS(t, o)
	fill(t, create(t, c, film, Attr{}), film)
	must(t, c.Close())
	must(t, os.Remove(filepath.Join(o.StateDir, indexFile)))
	c = openOS(t, o)
	must(t, c.rows.close()) // as a process that is killed
	c.unlockDir()
	c = openOS(t, o)
	if a, ok := c.Asset(film.info.ID); !ok || a.Unknown()+a.HaveCount() != 8 {
		t.Error("the blob was taken for a leftover")
	}
}
