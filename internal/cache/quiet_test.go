package cache

import (
	"sync/atomic"
	"testing"

	"boxd/internal/asset"
	"boxd/internal/courtesy"
)

// A box that always plays something finds out all the same what it holds after its index was lost.
func TestAQuietCacheIsRebuiltToo(t *testing.T) {
	t.Parallel()
	disk := newMem(t, 0)
	m := newMedia(t, 7, 2*testPiece)
	c := openMem(t, disk)
	fill(t, create(t, c, m, Attr{}), m)
	must(t, c.Close())
	must(t, disk.Remove("/state/index"))
	c = openMem(t, disk)
	a, ok := c.Asset(m.info.ID)
	if !ok || a.Unknown() != 2 {
		t.Fatalf("the index is not lost: %v", ok)
	}
	c.SetQuiet(true)
	run(t, c)
	until(t, c, "all known", func() bool { return a.Unknown() == 0 && a.Complete() })
}

// classRows notes with what I/O priority the index is written.
type classRows struct {
	rowStore
	idle atomic.Bool
}

func (r *classRows) apply(puts map[asset.ID][]byte, dels []asset.ID) error {
	r.idle.Store(courtesy.IOClass() == 3)
	return r.rowStore.apply(puts, dels)
}

// Who waits for a commit does not wait for the disk's last place.
func TestCommitsAreNotIdle(t *testing.T) {
	t.Parallel()
	disk := newMem(t, 0)
	var rows classRows
	c := openMem(t, disk, func(o *Options) {
		open := o.openRows
		o.openRows = func() (rowStore, bool, error) {
			r, rebuild, err := open()
			rows.rowStore = r
			return &rows, rebuild, err
		}
		o.GroupInterval = 1
	})
	m := newMedia(t, 8, testPiece)
	run(t, c)
	a := create(t, c, m, Attr{})
	fill(t, a, m)
	until(t, c, "durable", a.Durable)
	if rows.idle.Load() {
		t.Error("the index is committed with idle priority")
	}
}
