package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
)

// model is what the cache must look like, kept by simple means.
type model struct {
	t     testing.TB
	rnd   *rand.Rand
	m     *durable.Mem
	c     *Cache
	o     Options
	now   time.Time
	sure  bool // the clock is trusted
	media []*media

	have    map[asset.ID]map[int]bool
	attr    map[asset.ID]Attr
	pinned  map[asset.ID]bool
	readers map[asset.ID][]*Reader
	holds   map[asset.ID][]func()
	told    map[asset.ID]bool // OnEvict was called in this step
	others  int64

	counts map[string]int
}

const (
	modelQuota    = 60 * testPiece
	modelReserve  = 20 * testPiece
	modelCapacity = 120*testPiece + 4*metaSlack
)

func newModel(t testing.TB, seed uint64) *model {
	d := &model{
		t: t, rnd: rand.New(rand.NewPCG(seed, 5)), now: time.Unix(1_700_000_000, 0), sure: true,
		have: map[asset.ID]map[int]bool{}, attr: map[asset.ID]Attr{}, pinned: map[asset.ID]bool{},
		readers: map[asset.ID][]*Reader{}, holds: map[asset.ID][]func(){}, counts: map[string]int{},
	}
	for i := range 24 {
		d.media = append(d.media, newMedia(t, uint64(100+i), 1+d.rnd.IntN(12*testPiece)))
	}
	d.m = newMem(t, modelCapacity)
	d.open()
	return d
}

func (d *model) open() {
	d.o = memOptions(d.m)
	d.o.Quota, d.o.Reserve, d.o.KeepPrefix = modelQuota, modelReserve, testPiece
	d.o.Now = func() (time.Time, bool) { return d.now, d.sure }
	c, err := Open(d.o)
	must(d.t, err)
	d.c = c
	settleAll(c)
	for id := range d.pinned { // without a state file pins do not outlive the process
		must(d.t, c.Pin(id, true))
	}
	c.OnEvict(func(id asset.ID) {
		d.told[id] = true
		if d.rnd.IntN(8) > 0 { // now and then the swarm does not let go
			d.release(id)
		}
	})
}

func (d *model) release(id asset.ID) {
	for _, f := range d.holds[id] {
		f()
	}
	delete(d.holds, id)
}

func (d *model) any() *media { return d.media[d.rnd.IntN(len(d.media))] }

func (d *model) handle(m *media) *Asset {
	a, ok := d.c.Asset(m.info.ID)
	if ok != (d.have[m.info.ID] != nil) {
		d.t.Fatalf("%s: in the cache %v, in the model %v", m.info.Name, ok, !ok)
	}
	return a
}

// step does one random thing and compares.
func (d *model) step() {
	d.told = map[asset.ID]bool{}
	d.now = d.now.Add(time.Duration(d.rnd.IntN(100)) * time.Second)
	m := d.any()
	switch k := d.rnd.IntN(100); {
	case k < 12:
		d.create(m)
	case k < 50:
		d.put(m)
	case k < 55:
		d.read(m)
	case k < 59:
		d.lose(m)
	case k < 63:
		d.grow(m)
	case k < 66:
		d.remove(m)
	case k < 69:
		d.pin(m)
	case k < 74:
		d.reader(m)
	case k < 79:
		d.hold(m)
	case k < 83:
		d.setAttr(m)
	case k < 88:
		must(d.t, d.c.Flush())
		d.counts["flush"]++
	case k < 92:
		d.fillDisk()
	case k < 93:
		d.sure = !d.sure
	case k < 94:
		d.restart()
	default:
		d.put(m)
	}
	d.compare(m)
}

func (d *model) randomAttr() Attr {
	at := func() time.Time {
		if d.rnd.IntN(3) == 0 {
			return time.Time{}
		}
		return d.now.Add(time.Duration(d.rnd.IntN(4000)-1000) * time.Second).Truncate(time.Second).UTC()
	}
	a := Attr{Name: strconv.Itoa(d.rnd.IntN(99)), Priority: d.rnd.IntN(3), Deadline: at(), KeepUntil: at()}
	a.NeighbourHolds = d.rnd.IntN(2) == 0
	if d.rnd.IntN(4) == 0 {
		a.PrefixBytes = int64(d.rnd.IntN(4 * testPiece))
	}
	return a
}

func (d *model) create(m *media) {
	attr := d.randomAttr()
	had := d.have[m.info.ID] != nil
	_, err := d.c.Create(m.torrent, attr)
	if had {
		d.attr[m.info.ID] = attr
	}
	if err != nil {
		if !errors.Is(err, ErrNoSpace) {
			d.t.Fatal(err)
		}
		d.counts["refused"]++
		d.settle()
		return
	}
	d.counts["create"]++
	d.settle()
	if !had {
		d.have[m.info.ID], d.attr[m.info.ID] = map[int]bool{}, attr
		d.keepsReserve("create")
	}
}

// keepsReserve: after a reservation of our own there is at least the reserve free.
func (d *model) keepsReserve(what string) {
	if free, _, err := d.m.Free("/"); err != nil || free < modelReserve {
		d.t.Fatalf("%s left %d bytes free, reserve %d, %v", what, free, modelReserve, err)
	}
}

// settle takes over what was evicted in this step, after having judged it.
func (d *model) settle() {
	for id := range d.told {
		st, here := d.status(id)
		if len(d.readers[id]) > 0 || d.pinned[id] || len(d.holds[id]) > 0 {
			if !here || st.Have != len(d.have[id]) {
				d.t.Fatalf("%s was evicted while open, pinned or held", id.Short())
			}
			continue
		}
		if !here {
			delete(d.have, id)
			delete(d.attr, id)
			d.counts["evicted"]++
			continue
		}
		for i := range d.have[id] {
			if int64(i)*testPiece >= st.Reserved {
				delete(d.have[id], i)
			}
		}
		if at := d.attr[id]; at.PrefixBytes != st.Attr.PrefixBytes {
			at.PrefixBytes = st.Attr.PrefixBytes
			d.attr[id] = at
			d.counts["trimmed"]++
		}
	}
}

func (d *model) status(id asset.ID) (Status, bool) {
	for _, st := range d.c.Assets() {
		if st.ID == id {
			return st, true
		}
	}
	return Status{}, false
}

func (d *model) put(m *media) {
	a := d.handle(m)
	if a == nil {
		return
	}
	i := d.rnd.IntN(m.info.NumPieces())
	err := put(a, m, i)
	switch {
	case d.have[m.info.ID][i]:
		if !errors.Is(err, ErrVerified) {
			d.t.Fatalf("write over a verified piece: %v", err)
		}
	case int64(i)*testPiece >= a.Reserved():
		if !errors.Is(err, ErrNotReserved) {
			d.t.Fatalf("write where nothing is reserved: %v", err)
		}
	case err != nil:
		d.t.Fatal(err)
	default:
		d.have[m.info.ID][i] = true
		d.counts["put"]++
	}
}

func (d *model) read(m *media) {
	a := d.handle(m)
	if a == nil {
		return
	}
	off := d.rnd.IntN(len(m.data))
	buf := make([]byte, 1+d.rnd.IntN(3*testPiece))
	n, err := a.ReadVerifiedAt(buf, int64(off))
	end := min(off+len(buf), len(m.data))
	all := true
	for i := off / testPiece; i*testPiece < end; i++ {
		all = all && d.have[m.info.ID][i]
	}
	if all != !errors.Is(err, ErrNotVerified) || all && !bytes.Equal(buf[:n], m.data[off:end]) {
		d.t.Fatalf("read %d at %d: %d, %v; all verified: %v", len(buf), off, n, err, all)
	}
	d.counts["read"]++
}

func (d *model) lose(m *media) {
	if a := d.handle(m); a != nil {
		i := d.rnd.IntN(m.info.NumPieces())
		must(d.t, a.MarkMissing(i))
		delete(d.have[m.info.ID], i)
		d.counts["lost"]++
	}
}

func (d *model) grow(m *media) {
	a := d.handle(m)
	if a == nil {
		return
	}
	before := a.Reserved()
	err := a.Grow(1 + int64(d.rnd.IntN(len(m.data))))
	d.settle()
	if err != nil && !errors.Is(err, ErrNoSpace) {
		d.t.Fatal(err)
	}
	if err == nil {
		d.counts["grow"]++
		if a.Reserved() > before {
			d.keepsReserve("grow")
		}
	}
}

func (d *model) remove(m *media) {
	id := m.info.ID
	had := d.have[id] != nil
	err := d.c.Remove(id, "model")
	inUse := len(d.readers[id]) > 0 || len(d.holds[id]) > 0
	switch {
	case !had && errors.Is(err, ErrNotFound), had && d.pinned[id] && errors.Is(err, ErrPinned):
	case had && inUse && errors.Is(err, ErrInUse):
	case had && !d.pinned[id] && !inUse && err == nil:
		delete(d.have, id)
		delete(d.attr, id)
		d.counts["remove"]++
	default:
		d.t.Fatalf("remove: %v; had %v, pinned %v, in use %v", err, had, d.pinned[id], inUse)
	}
}

func (d *model) pin(m *media) {
	id := m.info.ID
	if d.pinned[id] || len(d.pinned) > 3 {
		must(d.t, d.c.Pin(id, false))
		delete(d.pinned, id)
		return
	}
	must(d.t, d.c.Pin(id, true))
	d.pinned[id] = true
}

func (d *model) reader(m *media) {
	id := m.info.ID
	if list := d.readers[id]; len(list) > 0 {
		must(d.t, list[0].Close())
		if d.readers[id] = list[1:]; len(list) == 1 {
			delete(d.readers, id)
		}
		return
	}
	if a := d.handle(m); a != nil && len(d.readers) < 4 {
		r, err := a.OpenFile(context.Background(), m.info.Files[0].Path)
		must(d.t, err)
		d.readers[id] = append(d.readers[id], r)
		d.counts["open"]++
	}
}

func (d *model) hold(m *media) {
	if a := d.handle(m); a != nil && len(d.holds[m.info.ID]) == 0 {
		d.holds[m.info.ID] = append(d.holds[m.info.ID], a.Hold())
		return
	}
	d.release(m.info.ID)
}

func (d *model) setAttr(m *media) {
	attr := d.randomAttr()
	err := d.c.SetAttr(m.info.ID, attr)
	if (err == nil) != (d.have[m.info.ID] != nil) {
		d.t.Fatal(err)
	}
	if err == nil {
		d.attr[m.info.ID] = attr
	}
}

// fillDisk lets others take or give back space, and the cache react.
func (d *model) fillDisk() {
	d.others = int64(d.rnd.IntN(110 * testPiece))
	d.m.SetOthers(d.others)
	d.c.CheckSpace()
	d.settle()
	d.counts["shrink"]++
	if free, _, err := d.m.Free("/"); err != nil || free < modelReserve {
		for _, st := range d.c.Assets() {
			if !st.Pinned && st.Readers == 0 && !st.Held {
				d.t.Fatalf("%d bytes free, reserve %d, and %s was spared", free, modelReserve, st.ID.Short())
			}
		}
	}
}

// restart closes and opens the cache, or cuts the power after a commit.
func (d *model) restart() {
	for id, list := range d.readers {
		for _, r := range list {
			must(d.t, r.Close())
		}
		delete(d.readers, id)
	}
	clear(d.holds)
	if d.rnd.IntN(2) == 0 {
		must(d.t, d.c.Close())
		d.counts["close"]++
	} else {
		must(d.t, d.c.Flush())
		d.m = d.m.Crash(d.rnd)
		d.counts["crash"]++
	}
	d.open()
	for id, at := range d.attr {
		at.NeighbourHolds = false
		d.attr[id] = at.stored()
	}
}

func (d *model) compare(m *media) {
	if err := consistent(d.c, d.m); err != nil {
		d.t.Fatal(err)
	}
	if n := d.c.Usage().Assets; n != len(d.have) {
		d.t.Fatalf("%d assets, the model has %d", n, len(d.have))
	}
	a := d.handle(m)
	if a == nil {
		return
	}
	have := d.have[m.info.ID]
	st := a.Status()
	if st.Have != len(have) || st.Complete != (len(have) == m.info.NumPieces()) ||
		st.Attr.stored() != d.attr[m.info.ID].stored() {
		d.t.Fatalf("%+v\nmodel: %d pieces, %+v", st, len(have), d.attr[m.info.ID])
	}
	sum := int64(0)
	for i := range have {
		if !a.Have(i) {
			d.t.Fatalf("piece %d is lost", i)
		}
		_, n := m.info.PieceSpan(i)
		sum += n
	}
	if sum != st.Bytes {
		d.t.Fatalf("%d bytes, the model has %d", st.Bytes, sum)
	}
}

func TestModel(t *testing.T) {
	steps, seed := 100_000, uint64(1)
	if s := os.Getenv("BOXD_MODEL_STEPS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		steps, seed = n, uint64(time.Now().UnixNano())
	}
	if testing.Short() {
		steps = 5_000
	}
	d := newModel(t, seed)
	i := 0
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, step %d", seed, i)
		}
	}()
	for ; i < steps; i++ {
		d.step()
	}
	t.Log(fmt.Sprint(i, " steps: ", d.counts))
	for _, what := range []string{
		"create", "put", "read", "refused", "evicted", "trimmed", "lost", "grow", "remove", "open", "shrink", "close", "crash",
	} {
		if d.counts[what] < steps/5000 {
			t.Errorf("%s happened only %d times", what, d.counts[what])
		}
	}
}
