package cache

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// Each operation on the disk fails in turn, once or for a while. Whatever the story makes of it: no crash, no wrong
// byte, no lie about the space or about what is durable, a warning, and work that goes on when the fault ends.
func TestFaultAtEveryOperation(t *testing.T) {
	faults := []error{
		syscall.EIO, syscall.ENOSPC, syscall.EROFS, &durable.ShortError{N: 100, Err: syscall.ENOSPC},
	}
	if testing.Short() {
		faults = faults[:1]
	}
	ms := storyMedia(t)
	for k, fault := range faults {
		bursts := []int{1}
		if os.Getenv("BOXD_POWER") != "" || k == 1 {
			bursts = []int{1, 6}
		}
		for _, burst := range bursts {
			hits := 0
			for op := 0; ; op++ {
				hit, err := faultOnce(t, ms, fault, op, burst)
				if err != nil {
					t.Fatalf("%v for %d operations from %d: %v", fault, burst, op, err)
				}
				if !hit {
					break
				}
				hits++
			}
			t.Logf("%v for %d: %d places", fault, burst, hits)
			if hits < 200 {
				t.Fatalf("only %d places were hit", hits)
			}
		}
	}
}

func faultOnce(t *testing.T, ms []*media, fault error, op, burst int) (hit bool, err error) {
	m := newMem(t, 64<<20)
	n, reads, changes := 0, false, true
	var kinds []string
	m.SetFault(func(o durable.Op) error {
		n++
		if n > op && n <= op+burst {
			hit = true
			kinds = append(kinds, string(o.Kind))
			reads = reads || o.Kind == durable.OpRead || o.Kind == durable.OpOpen
			changes = changes && o.Mutates()
			return fault
		}
		return nil
	})
	s := newStory(t, ms)
	s.health = health.New(nil)
	serr := s.tell(m)
	m.SetFault(nil)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w (story: %w; hit: %s)", err, serr, strings.Join(kinds, " "))
		}
	}()
	if serr != nil && s.c != nil && !errors.Is(serr, ErrNoSpace) && len(s.health.List()) == 0 && changes {
		return hit, errors.New("failed without a warning") // what only reads or lists may
	}
	if s.c != nil {
		if err := s.recovered(m); err != nil {
			return hit, err
		}
	}
	if reads {
		s.durable = map[asset.ID]map[int]bool{} // a piece that cannot be read is given up
	}
	return hit, s.judge(m.Crash(nil))
}

// recovered goes on with the same cache after the fault has ended.
func (s *story) recovered(m *durable.Mem) error {
	if s.c.closed {
		return nil
	}
	for _, md := range s.ms {
		if a, ok := s.c.Asset(md.info.ID); ok {
			if err := rightBytes(a, md); err != nil {
				return err
			}
		}
	}
	s.c.CheckSpace() // removes what could not be removed
	if err := s.c.Flush(); err != nil {
		return fmt.Errorf("flush when the fault is over: %w", err)
	}
	if err := consistent(s.c, m); err != nil {
		return fmt.Errorf("when the fault is over: %w", err)
	}
	md := s.ms[0]
	a, err := s.c.Create(md.torrent, Attr{Priority: 20})
	if err != nil {
		return fmt.Errorf("create when the fault is over: %w", err)
	}
	if a.Have(0) {
		if err := a.MarkMissing(0); err != nil {
			return err
		}
	}
	for i := range md.info.NumPieces() {
		if a.Have(i) {
			continue
		}
		if err := put(a, md, i); err != nil {
			return fmt.Errorf("write when the fault is over: %w", err)
		}
	}
	if err := s.flush(); err != nil {
		return err
	}
	for _, code := range []string{CodeWrite, CodeSync, CodeIndex} {
		if s.health.Has(code) {
			return fmt.Errorf("warning %s stays when the fault is over", code)
		}
	}
	return rightBytes(a, md)
}

func TestFailedSyncDiscardsWhatItDidNotSecure(t *testing.T) {
	m := newMem(t, 0)
	h := health.New(nil)
	c := openMem(t, m, func(o *Options) { o.Health = h })
	md := newMedia(t, 30, 6*testPiece)
	a := create(t, c, md, Attr{})
	must(t, put(a, md, 0))
	must(t, c.Flush())
	must(t, put(a, md, 1))
	off := int64(2 * testPiece)
	_, err := a.WriteAt(md.data[off:off+8192], off) // half of piece 2 is under way
	must(t, err)
	m.SetFault(func(o durable.Op) error {
		if o.Kind == durable.OpSync && strings.HasSuffix(o.Name, blobSuffix) {
			return syscall.EIO
		}
		return nil
	})
	must(t, c.Flush()) // the index is fine; the pieces are not in it
	m.SetFault(nil)
	if !a.Have(0) || a.Have(1) || !h.Has(CodeSync) {
		t.Fatalf("have 0 %v, have 1 %v, warnings %v", a.Have(0), a.Have(1), h.List())
	}
	must(t, put(a, md, 1))
	_, err = a.WriteAt(md.data[off+8192:off+testPiece], off+8192)
	must(t, err)
	must(t, a.MarkVerified(2)) // whose first half memory shows and the disk lacks
	must(t, c.Flush())
	if h.Has(CodeSync) {
		t.Fatal("the warning stays")
	}
	c = openMem(t, m.Crash(nil))
	a, _ = c.Asset(md.info.ID)
	if a.HaveCount() != 3 {
		t.Fatalf("%+v", a.Status())
	}
	must(t, rightBytes(a, md))
}
