package cache

import (
	"errors"
	"io"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
)

// ahead is how many bytes the demand reaches beyond a position.
func aheadOf(a *Asset, pos int64) (soon, all int64) {
	for _, s := range a.Demand() {
		end := int64(s.End)*a.e.pieceLen - pos
		if all = max(all, end); s.Soon {
			soon = max(soon, end)
		}
	}
	return soon, all
}

// What is asked for ahead follows the speed at which a player reads, within bounds, and falls while it rests.
func TestReadAheadFollowsTheSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openMem(t, newMem(t, 0), func(o *Options) { o.ReadAhead, o.ReadAheadMost = 4*testPiece, 400*testPiece })
		m := newMedia(t, 50, 2000*testPiece)
		a := create(t, c, m, Attr{})
		here := 0
		upTo := func(n int) {
			for ; here < n; here++ {
				must(t, put(a, m, here))
			}
		}
		upTo(1)
		r, err := a.OpenFile(t.Context(), m.info.Name)
		must(t, err)
		defer r.Close()
		buf := make([]byte, testPiece)
		if soon, all := aheadOf(a, 0); soon != 0 || all != 4*testPiece {
			t.Errorf("at first %d bytes ahead, %d of them soon", all, soon)
		}
		read := func(pieces int, each time.Duration) (soon, all int64) {
			for range pieces {
				upTo(int(r.pos/testPiece) + 1)
				_, err := r.Read(buf)
				must(t, err)
				time.Sleep(each)
			}
			return aheadOf(a, r.pos)
		}
		if soon, all := read(300, time.Second/5); soon < 17*testPiece || soon > 21*testPiece || all < 95*testPiece || all > 101*testPiece {
			t.Errorf("5 pieces a second: %d pieces ahead, %d of them soon", all/testPiece, soon/testPiece)
		}
		if _, all := read(600, time.Second/50); all != 400*testPiece {
			t.Errorf("50 a second: %d pieces ahead", all/testPiece)
		}
		time.Sleep(time.Minute)
		if soon, all := aheadOf(a, r.pos); soon > 2*testPiece || all > 8*testPiece {
			t.Errorf("after a minute's pause: %d pieces ahead, %d of them soon", all/testPiece, soon/testPiece)
		}
		upTo(here + 3) // less than what is wanted ahead, more than half of it
		if d := a.Demand(); len(d) == 0 {
			t.Error("nothing is asked for before there is enough ahead")
		}
		upTo(here + 8)
		if d := a.Demand(); len(d) != 0 {
			t.Errorf("enough is ahead, and still %v", d)
		}
		time.Sleep(time.Minute)
		for here-int(r.pos/testPiece) > 2 {
			if d := a.Demand(); len(d) != 0 {
				t.Errorf("%d pieces are ahead, and %v is asked for", here-int(r.pos/testPiece), d)
			}
			_, err := r.Read(buf)
			must(t, err)
		}
		_, err = r.Read(buf)
		must(t, err)
		if d := a.Demand(); len(d) == 0 {
			t.Error("nothing is asked for though little is ahead")
		}
		if _, err := r.Seek(1500*testPiece, 0); err != nil {
			t.Fatal(err)
		}
		if d := a.Demand(); len(d) == 0 || d[0].Begin != 1500 || !d[0].Soon {
			t.Errorf("after a seek: %v", d)
		}
	})
}

// A package is read ahead into the segments that follow, as people count, and for a while also when a segment is closed.
func TestReadAheadGoesOnInTheNextSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openMem(t, newMem(t, 0), func(o *Options) { o.ReadAhead, o.ReadAheadMost = 5*testPiece/2, 5*testPiece/2 })
		m := newMedia(t, 51, slices.Repeat([]int{testPiece}, 12)...)
		a := create(t, c, m, Attr{})
		piece := func(name string) int {
			f, ok := m.info.File(name)
			if !ok {
				t.Fatal(name)
			}
			return int(f.Offset / testPiece)
		}
		open := func(name string) *Reader {
			r, err := a.OpenFile(t.Context(), name)
			must(t, err)
			return r
		}
		list := func() (files []string) {
			for _, s := range a.Demand() {
				for i := s.Begin; i < s.End; i++ {
					for _, f := range m.info.Files {
						if int(f.Offset/testPiece) == i {
							files = append(files, f.Path)
						}
					}
				}
			}
			return files
		}
		r := open("part-8")
		if got := list(); !slices.Equal(got, []string{"part-8", "part-9", "part-10"}) {
			t.Errorf("in segment 8: %v", got)
		}
		must(t, put(a, m, piece("part-8")))
		_, err := r.Read(make([]byte, testPiece))
		must(t, err)
		must(t, r.Close())
		if got := list(); !slices.Equal(got, []string{"part-9", "part-10", "part-11"}) || a.Demand()[0].Soon {
			t.Errorf("after segment 8: %v", got)
		}
		time.Sleep(afterTime)
		if got := list(); len(got) != 0 {
			t.Errorf("long after segment 8: %v", got)
		}
		r = open("part-0")
		must(t, put(a, m, piece("part-0")))
		_, err = r.Read(make([]byte, testPiece))
		must(t, err)
		must(t, r.Close())
		r = open("part-4") // a seek
		if got := list(); !slices.Equal(got, []string{"part-4", "part-5", "part-6"}) {
			t.Errorf("in segment 4 after a seek: %v", got)
		}
		must(t, r.Close())
		r = open("part-11")
		must(t, r.Close()) // without reading it
		if got := list(); len(got) != 0 {
			t.Errorf("after a segment that was not read: %v", got)
		}
	})
}

func TestKindsOfSegments(t *testing.T) {
	same := [][2]string{{"v/s9.ts", "v/s10.ts"}, {"v/stream0-1.m4s", "v/stream0-02.m4s"}, {"9.ts", "10.ts"}, {"a.ts", "a.ts"}}
	other := [][2]string{{"v/s9.ts", "w/s9.ts"}, {"v/stream0-1.m4s", "v/stream1-1.m4s"}, {"s9.ts", "s9.vtt"}, {"a.mp4", "b.mp4"}}
	for _, p := range same {
		if kindOf(p[0]) != kindOf(p[1]) {
			t.Errorf("%s and %s: %q and %q", p[0], p[1], kindOf(p[0]), kindOf(p[1]))
		}
	}
	for _, p := range other {
		if kindOf(p[0]) == kindOf(p[1]) {
			t.Errorf("%s and %s: %q", p[0], p[1], kindOf(p[0]))
		}
	}
}

func TestNaturalOrder(t *testing.T) {
	names := []string{"a/1.ts", "a/02.ts", "a/3b.ts", "a/10.ts", "a/b1c2.ts", "a/b1c10.ts", "a/c.ts", "a/c.tsx"}
	for i, a := range names {
		for j, b := range names {
			if got := natural(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
	info := &asset.Info{Files: []asset.File{{Path: "v/10.ts"}, {Path: "v/9.ts"}, {Path: "v/9.vtt"}, {Path: "w/9.ts"}}}
	if got := new(entry).filesAfter(info, "v/8.ts"); len(got) != 2 || got[0].Path != "v/9.ts" || got[1].Path != "v/10.ts" {
		t.Errorf("%v", got)
	}
}

// What one reader sees far ahead, another may stand before: that is asked for soon, once, whichever of them read last.
func TestSoonForOneReaderIsSoon(t *testing.T) {
	for _, last := range []int{0, 30} {
		c := openMem(t, newMem(t, 0), func(o *Options) { o.ReadAhead, o.ReadAheadMost = 64*testPiece, 64*testPiece })
		m := newMedia(t, 52, 200*testPiece)
		a := create(t, c, m, Attr{})
		for _, at := range []int{0, 30} {
			must(t, put(a, m, at))
			r, err := a.OpenFile(t.Context(), m.info.Name)
			must(t, err)
			defer r.Close()
			_, err = r.Seek(int64(at)*testPiece, 0)
			must(t, err)
			_, err = r.Read(make([]byte, testPiece))
			must(t, err)
			if at != last {
				r.active = r.active.Add(-time.Minute)
			}
		}
		asked := map[int]int{}
		for _, s := range a.Demand() {
			for i := s.Begin; i < s.End; i++ {
				asked[i]++
			}
			if first := s.Begin == 1 || s.Begin == 31; s.Now != first || s.Soon != first {
				t.Errorf("the reader at %d read last: %+v", last, s)
			}
		}
		for i := range 200 {
			want := 0
			if i > 0 && i < 95 && i != 30 {
				want = 1
			}
			if asked[i] != want {
				t.Errorf("the reader at %d read last: piece %d is asked for %d times", last, i, asked[i])
			}
		}
	}
}

// A film's index at its end is read first: that asks for nothing of the next film in the folder.
func TestTheEndOfAFilmThatIsNotWatchedAsksForNothing(t *testing.T) {
	c := openMem(t, newMem(t, 0), func(o *Options) { o.ReadAhead, o.ReadAheadMost = 16*testPiece, 16*testPiece })
	m := newMedia(t, 45, 100*testPiece, 100*testPiece)
	a := create(t, c, m, Attr{})
	for i := range 100 {
		if i >= 20 {
			must(t, put(a, m, i))
		}
	}
	open := func(from int64) *Reader {
		r, err := a.OpenFile(t.Context(), m.info.Files[0].Path)
		must(t, err)
		_, err = r.Seek(from, io.SeekStart)
		must(t, err)
		return r
	}
	index := open(99 * testPiece)
	none := func(when string) {
		t.Helper()
		if d := a.Demand(); len(d) != 0 {
			t.Errorf("%s: %+v", when, d)
		}
	}
	none("while the index is read")
	_, err := io.ReadAll(index)
	must(t, err)
	must(t, index.Close())
	none("when it was read")
	film := open(20 * testPiece)
	_, err = io.CopyN(io.Discard, film, 70*testPiece)
	must(t, err)
	if d := a.Demand(); len(d) == 0 || d[0].Begin != 100 {
		t.Errorf("near the end of the film: %+v", d)
	}
	must(t, film.Close())
}

// An error of one asset's disk, mended a moment later, ends no player of another that just comes slowly.
func TestAnotherAssetsReadErrorEndsNoPlayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMem(t, 0)
		c := openMem(t, mem)
		m1, m2 := newMedia(t, 43, 2*testPiece), newMedia(t, 44, 2*testPiece)
		a, b := create(t, c, m1, Attr{}), create(t, c, m2, Attr{})
		must(t, put(a, m1, 0))
		fill(t, b, m2)
		bad := true
		mem.SetFault(func(op durable.Op) error {
			if op.Kind == durable.OpRead && bad {
				return syscall.EIO
			}
			return nil
		})
		_, err := b.ReadVerifiedAt(make([]byte, 10), 0)
		if err == nil {
			t.Fatal("the disk did not fail")
		}
		bad = false
		read := func(x *Asset, name string, off int64) chan error {
			r, err := x.OpenFile(t.Context(), name)
			must(t, err)
			_, err = r.Seek(off, io.SeekStart)
			must(t, err)
			done := make(chan error, 1)
			go func() {
				_, err := r.Read(make([]byte, 10))
				done <- err
				_ = r.Close()
			}()
			return done
		}
		slow, lost := read(a, m1.info.Name, testPiece), read(b, m2.info.Name, 0)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		select {
		case err := <-lost:
			if !errors.Is(err, ErrNotVerified) {
				t.Errorf("the player of what was lost: %v", err)
			}
		default:
			t.Error("the player of what was lost waits for ever")
		}
		must(t, put(a, m1, 1))
		if err := <-slow; err != nil {
			t.Errorf("the other one: %v", err)
		}
	})
}
