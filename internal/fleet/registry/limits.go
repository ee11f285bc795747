package registry

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"boxd/internal/mqttwire"
)

// How much one box may write in a day, so that none fills the database for all. An honest box that comes back from a month
// without a manager has at most 4,096 proofs to tell.
const (
	maxProofs = 5000
	maxLines  = 2000 // of history
	dayMS     = 24 * 60 * 60 * 1000
	maxSpent  = 1 << 18 // boxes that are remembered before those that have all of theirs again are forgotten
	sweepMS   = 30_000  // at most so often: that looks at each of them
)

// spent is what boxes have written of late: it drains by a day's worth in a day. It is this process's own: a box cannot
// make it start again.
type spent struct {
	mu    sync.Mutex // guards the fields below
	boxes map[string]written
	swept int64 // milliseconds
}

type written struct {
	proofs, lines float64
	at            int64 // milliseconds
	told          bool  // that there are no more lines, since half of them were left
}

func (w written) drained(now int64) written {
	days := max(float64(now-w.at)/dayMS, 0)
	proofs, lines := max(w.proofs-maxProofs*days, 0), max(w.lines-maxLines*days, 0)
	return written{proofs, lines, now, w.told && lines > maxLines/2}
}

func (s *spent) of(box string, now int64) written {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boxes[box].drained(now)
}

// add counts what a committed batch has written.
func (s *spent) add(batch map[string]written) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.boxes == nil {
		s.boxes = map[string]written{}
	}
	var now int64
	for _, w := range batch {
		now = max(now, w.at)
	}
	s.sweep(now)
	for box, w := range batch {
		old := s.boxes[box].drained(w.at)
		s.boxes[box] = written{old.proofs + w.proofs, old.lines + w.lines, w.at, old.told || w.told}
	}
}

// sweep forgets the boxes that have all of theirs again, when there are many. The caller holds mu.
func (s *spent) sweep(now int64) {
	if len(s.boxes) < maxSpent || now >= s.swept && now < s.swept+sweepMS {
		return
	}
	s.swept = now
	for id, w := range s.boxes {
		if w = w.drained(now); w.proofs == 0 && w.lines == 0 {
			delete(s.boxes, id)
		}
	}
}

// refuses reports whether a box has none of the day's proofs left, and this one is not known already.
func (b *batch) refuses(ctx context.Context, tx *sql.Tx, box string, e *mqttwire.Event, at int64) (bool, error) {
	if b.g.spent.of(box, at).proofs+b.wrote[box].proofs < maxProofs {
		return false, nil
	}
	var n int
	err := tx.QueryRowContext(ctx, b.g.q("SELECT COUNT(*) FROM proofs WHERE box = ? AND epoch = ? AND evt = ?"),
		box, e.Epoch, int64(e.Evt)).Scan(&n) //nolint:gosec // a count
	if err != nil {
		return false, fmt.Errorf("proof of %s: %w", box, err)
	}
	return n == 0, nil
}

func (b *batch) proved(box string, at int64) {
	w := b.wrote[box]
	w.proofs++
	w.at = at
	b.wrote[box] = w
}

// mayNote takes one of the day's lines of a box's history; the last one says that there are no more. Those that the box gets
// again little by little are its own.
func (b *batch) mayNote(box string, at int64) (yes, last bool) {
	w, old := b.wrote[box], b.g.spent.of(box, at)
	left := maxLines - old.lines - w.lines
	if left < 1 {
		return false, false
	}
	last = left < 2 && !old.told && !w.told
	w.lines++
	w.at = at
	w.told = w.told || last
	b.wrote[box] = w
	return true, last
}
