package cache

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// story is a workload that goes through everything that changes the disk, and remembers what must survive.
type story struct {
	t       testing.TB
	c       *Cache
	ms      []*media
	durable map[asset.ID]map[int]bool // pieces that a commit has secured and nothing has taken back since
	now     time.Time
	health  *health.Set
}

const wrongBytes = "wrong bytes are served"

const storyQuota = 40*testPiece + 6000

func newStory(t testing.TB, ms []*media) *story {
	return &story{t: t, ms: ms, durable: map[asset.ID]map[int]bool{}}
}

func (s *story) options(o *Options) {
	o.Quota, o.Reserve, o.KeepPrefix = storyQuota, 1<<20, 2*testPiece
	s.now = time.Unix(1_700_000_000, 0)
	o.Now = func() (time.Time, bool) { s.now = s.now.Add(time.Second); return s.now, true }
}

// tell runs the story until the first error, which it returns.
func (s *story) tell(m *durable.Mem) error {
	o := memOptions(m)
	s.options(&o)
	if s.health != nil {
		o.Health = s.health
	}
	c, err := Open(o)
	if err != nil {
		return err
	}
	s.c = c
	c.OnEvict(func(id asset.ID) { s.durable[id] = nil })
	steps := []func() error{
		func() error { return s.create(0, Attr{Name: "a", Priority: 1}) },
		func() error { return s.put(0, 0, 1, 2) },
		s.flush,
		func() error { return s.create(1, Attr{Name: "b", Priority: 1, PrefixBytes: 2 * testPiece}) },
		func() error { return s.put(1, 0, 1) },
		func() error { return s.put(0, 3, 4, 5, 6, 7, 8, 9, 10, 11) },
		s.flush,
		func() error { return s.lose(0, 1) },
		func() error { return s.garbage(0, 1) },
		func() error { return s.put(0, 1) },
		s.flush,
		func() error { return s.grow(1) },
		func() error { return s.put(1, 2, 3) },
		s.flush,
		func() error { return s.create(2, Attr{Name: "c", Priority: 2}) }, // takes the tail of a, or all of it
		func() error { return s.put(2, 0, 2, 1, 19) },
		s.flush,
		func() error { return s.remove(1) },
		func() error { return s.create(1, Attr{Name: "b again", Priority: 0}) },
		func() error { return s.put(1, 3) },
		c.Close,
	}
	for i, f := range steps {
		if err := f(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func (s *story) asset(m int) *Asset {
	a, ok := s.c.Asset(s.ms[m].info.ID)
	if !ok {
		return nil
	}
	return a
}

// errNoHandle is when the metainfo cannot be read just now.
var errNoHandle = errors.New("no handle")

func (s *story) create(m int, attr Attr) error {
	_, err := s.c.Create(s.ms[m].torrent, attr)
	return err
}

func (s *story) put(m int, list ...int) error {
	a := s.asset(m)
	if a == nil {
		return errNoHandle
	}
	for _, i := range list {
		if err := put(a, s.ms[m], i); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) flush() error {
	if err := s.c.Flush(); err != nil {
		return err
	}
	for _, m := range s.ms {
		a, ok := s.c.Asset(m.info.ID)
		if !ok {
			continue
		}
		set := map[int]bool{}
		for i := range m.info.NumPieces() {
			if a.Have(i) {
				set[i] = true
			}
		}
		s.durable[m.info.ID] = set
	}
	return nil
}

func (s *story) lose(m, i int) error {
	a := s.asset(m)
	if a == nil {
		return errNoHandle
	}
	delete(s.durable[s.ms[m].info.ID], i)
	return a.MarkMissing(i)
}

func (s *story) garbage(m, i int) error {
	a := s.asset(m)
	if a == nil {
		return errNoHandle
	}
	off, n := s.ms[m].info.PieceSpan(i)
	_, err := a.WriteAt(bytes.Repeat([]byte("garbage!"), int(n/8)), off)
	return err
}

func (s *story) grow(m int) error {
	a := s.asset(m)
	if a == nil {
		return errNoHandle
	}
	return a.Grow(s.ms[m].info.Length)
}

func (s *story) remove(m int) error {
	s.durable[s.ms[m].info.ID] = nil
	return s.c.Remove(s.ms[m].info.ID, "told to")
}

// settleAll does what Run does for pieces about which nothing is known.
func settleAll(c *Cache) {
	for {
		e, i, _ := c.unknownNext()
		if e == nil {
			return
		}
		c.settle(e, i)
	}
}

// judge opens the cache after a power cut and says what is wrong with it; it then goes on with the work.
func (s *story) judge(m *durable.Mem) error {
	o := memOptions(m)
	s.options(&o)
	c, err := Open(o)
	if err != nil {
		return fmt.Errorf("does not open: %w", err)
	}
	if err := consistent(c, m); err != nil {
		return err
	}
	settleAll(c)
	for _, md := range s.ms {
		a, ok := c.Asset(md.info.ID)
		if !ok {
			if len(s.durable[md.info.ID]) > 0 {
				return fmt.Errorf("%s is lost with %d pieces", md.info.Name, len(s.durable[md.info.ID]))
			}
			continue
		}
		if err := rightBytes(a, md); err != nil {
			return err
		}
		for i := range s.durable[md.info.ID] {
			if !a.Have(i) {
				return fmt.Errorf("%s: piece %d was durable and is lost", md.info.Name, i)
			}
		}
	}
	md := s.ms[2]
	a, err := c.Create(md.torrent, Attr{Priority: 9})
	if err != nil {
		return fmt.Errorf("create afterwards: %w", err)
	}
	for i := range md.info.NumPieces() {
		if !a.Have(i) {
			if err := put(a, md, i); err != nil {
				return fmt.Errorf("go on: %w", err)
			}
		}
	}
	if err := errors.Join(rightBytes(a, md), consistent(c, m), c.Close()); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	return nil
}

// rightBytes reads all that is served.
func rightBytes(a *Asset, md *media) error {
	for i := range md.info.NumPieces() {
		want := md.piece(i)
		got := make([]byte, len(want))
		off, _ := md.info.PieceSpan(i)
		_, err := a.ReadVerifiedAt(got, off)
		switch {
		case errors.Is(err, ErrNotVerified):
		case err != nil:
			return fmt.Errorf("%s piece %d: %w", md.info.Name, i, err)
		case !bytes.Equal(got, want):
			return fmt.Errorf("%s piece %d: %s", md.info.Name, i, wrongBytes)
		}
	}
	return nil
}

// consistent compares what the cache says of its space with its assets and with the files.
func consistent(c *Cache, fsys durable.FS) error {
	c.space.Lock()
	defer c.space.Unlock()
	sum := int64(0)
	for _, st := range c.Assets() {
		e := c.entries[st.ID]
		sum += st.Reserved + e.torrentLen
		fi, err := fsys.Stat(c.blobPath(st.ID, e.gen))
		if err != nil {
			return fmt.Errorf("blob of %s: %w", st.ID.Short(), err)
		}
		if fi.Size() > st.Reserved {
			return fmt.Errorf("blob of %s: %d bytes, %d reserved", st.ID.Short(), fi.Size(), st.Reserved)
		}
	}
	u := c.Usage()
	if u.Used != sum {
		return fmt.Errorf("usage says %d, assets have %d", u.Used, sum)
	}
	if u.Quota > 0 && u.Used > u.Quota {
		return fmt.Errorf("usage %d is above the quota %d", u.Used, u.Quota)
	}
	list, err := fsys.ReadDir(c.dir)
	if err != nil {
		return err
	}
	if len(list) > 2*u.Assets {
		return fmt.Errorf("%d files for %d assets", len(list), u.Assets)
	}
	return nil
}

func storyMedia(t testing.TB) []*media {
	return []*media{newMedia(t, 20, 12*testPiece), newMedia(t, 21, 3*testPiece+100), newMedia(t, 22, 20*testPiece)}
}

// The power is cut before every single operation on the disk, and for each the disk may have kept nothing, or any part,
// of what was not synced.
func TestPowerCutAtEveryOperation(t *testing.T) {
	variants := uint64(4)
	if os.Getenv("BOXD_POWER") != "" {
		variants = 30
	}
	if testing.Short() {
		variants = 2
	}
	ms := storyMedia(t)
	cuts := 0
	for op := 0; ; op++ {
		done := false
		for v := range variants {
			m := newMem(t, 64<<20)
			cutAt(m, op)
			s := newStory(t, ms)
			err := s.tell(m)
			done = err == nil
			var rnd *rand.Rand
			if v > 0 {
				rnd = rand.New(rand.NewPCG(uint64(op), v))
			}
			after := m.Crash(rnd)
			if v%2 == 1 {
				// The power goes again while the cache comes up.
				cutAt(after, rnd.IntN(8))
				o := memOptions(after)
				s.options(&o)
				if c, err := Open(o); err == nil {
					settleAll(c)
					_ = c.Flush() // cut or not: judge finds out
				}
				after = after.Crash(rnd)
			}
			if jerr := s.judge(after); jerr != nil {
				t.Fatalf("cut before operation %d, variant %d (story ended with %v): %v", op, v, err, jerr)
			}
			cuts++
		}
		if done {
			t.Logf("%d operations, %d power cuts", op, cuts)
			if op < 150 {
				t.Fatalf("the story has only %d operations", op)
			}
			return
		}
	}
}

// cutAt turns the power off before operation op that changes or secures anything.
func cutAt(m *durable.Mem, op int) {
	n := 0
	m.SetFault(func(o durable.Op) error {
		if o.Mutates() {
			if n == op {
				m.PowerOff()
			}
			n++
		}
		return nil
	})
}

// The negative control: on a disk that lies about syncing the data, the same cuts must be seen to serve wrong bytes.
func TestPowerCutOnALyingDiskServesWrongBytes(t *testing.T) {
	ms := storyMedia(t)
	for op := 40; op < 400; op += 5 {
		m := newMem(t, 64<<20)
		cutAt(m, op)
		s := newStory(t, ms)
		syncs := map[string]int{}
		m.SetLying(func(name string) bool {
			syncs[name]++
			// The first one secures the length: without it the blob would be found to be too short.
			return strings.HasSuffix(name, blobSuffix) && syncs[name] > 1
		})
		_ = s.tell(m) // how far it gets does not matter
		if err := s.judge(m.Crash(nil)); err != nil && strings.Contains(err.Error(), wrongBytes) {
			return
		}
	}
	t.Fatal("a disk that never syncs passed: the test proves nothing")
}
