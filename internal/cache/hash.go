package cache

import (
	"crypto/sha1" //nolint:gosec // BEP 3 v1 names pieces by SHA-1; TUF says who may publish
	"errors"
	"fmt"
	"hash"
	"io"

	"boxd/internal/asset"
)

// HashPiece is the SHA-1 of a piece as it stands, from what was hashed on the way and, for the rest, from the file.
func (a *Asset) HashPiece(i int) ([asset.HashSize]byte, error) {
	e := a.e
	if i < 0 || i >= e.n {
		return [asset.HashSize]byte{}, fmt.Errorf("hash %s piece %d of %d", e.id.Short(), i, e.n)
	}
	e.mu.Lock()
	pc := e.progress[i]
	e.mu.Unlock()
	var sum [asset.HashSize]byte
	var err error
	if pc == nil {
		sum, err = e.hashFile(i)
	} else {
		sum, err = e.hashProgress(i, pc)
	}
	if err != nil {
		return sum, fmt.Errorf("hash %s piece %d: %w", e.id.Short(), i, err)
	}
	return sum, nil
}

// hashFile hashes a piece from the file alone.
func (e *entry) hashFile(i int) (sum [asset.HashSize]byte, err error) {
	return e.hashFileUnless(nil, i)
}

// errBusy says that something that matters more has begun.
var errBusy = errors.New("somebody needs the box")

// hashFileUnless is hashFile, but it ends with errBusy within a portion when busy says so.
func (e *entry) hashFileUnless(busy func() bool, i int) (sum [asset.HashSize]byte, err error) {
	h := sha1.New() //nolint:gosec // see the import
	_, length := e.span(i)
	for from := int64(0); from < length; from += bufSize {
		if busy != nil && busy() {
			return sum, errBusy
		}
		if err := e.feed(h, i, from, min(from+bufSize, length), false); err != nil {
			return sum, err
		}
	}
	return [asset.HashSize]byte(h.Sum(nil)), nil
}

// feed hashes [from,to) of a piece out of the file. With rewrite it writes the same bytes again, so that the next sync
// takes them to the disk although an earlier one failed.
func (e *entry) feed(h hash.Hash, i int, from, to int64, rewrite bool) error {
	f, release, err := e.acquire(rewrite)
	if err != nil {
		return err
	}
	defer release()
	buf := <-e.c.bufs
	defer func() { e.c.bufs <- buf }()
	begin, _ := e.span(i)
	for from < to {
		b := buf[:min(int64(len(buf)), to-from)]
		n, err := f.ReadAt(b, begin+from)
		if n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		h.Write(b)
		if rewrite {
			if _, err := f.WriteAt(b, begin+from); err != nil {
				return err
			}
		}
		from += int64(n)
		e.c.stats.hashedReread.Add(int64(n))
	}
	return nil
}

// hashProgress hashes a piece that was written in this run, going on from where the order broke.
func (e *entry) hashProgress(i int, pc *piece) (sum [asset.HashSize]byte, err error) {
	_, length := e.span(i)
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		for pc.writers > 0 || pc.hashing {
			e.idle.Wait()
		}
		if e.gone {
			return sum, ErrGone
		}
		if pc.summed == pc.seq+1 && !pc.tainted {
			return pc.sum, nil
		}
		tainted := pc.tainted
		pc.tainted = false
		if tainted || pc.h == nil {
			pc.reset()
			pc.h = sha1.New() //nolint:gosec // see the import
		}
		seq, from := pc.seq, pc.next
		pc.hashing, pc.end = true, length
		e.mu.Unlock()
		err = e.feed(pc.h, i, from, length, tainted)
		e.mu.Lock()
		pc.hashing = false
		e.idle.Broadcast()
		if err != nil {
			pc.tainted = pc.tainted || tainted
			pc.reset()
			return sum, err
		}
		if pc.redo || pc.seq != seq || pc.tainted {
			pc.reset()
			continue
		}
		pc.next = length
		pc.sum, pc.summed = [asset.HashSize]byte(pc.h.Sum(nil)), seq+1
	}
}

// MarkVerified makes a piece servable, if its hash is the published one: that is checked here, with what HashPiece found
// when nothing was written since. ErrHash means that the piece has to be fetched again. The bit becomes durable with
// the next group commit; when the disk does not keep up, MarkVerified waits for it.
func (a *Asset) MarkVerified(i int) error {
	e := a.e
	if i < 0 || i >= e.n {
		return fmt.Errorf("verify %s piece %d of %d", e.id.Short(), i, e.n)
	}
	pc, err := e.beginJudging(i)
	if err != nil {
		return fmt.Errorf("verify %s piece %d: %w", e.id.Short(), i, err)
	}
	if pc == nil {
		return nil
	}
	sum, err := e.hashProgress(i, pc)
	if err == nil && sum != a.info.PieceHash(i) {
		err = ErrHash
	}
	complete, err := e.endJudging(i, pc, err)
	if err != nil {
		return fmt.Errorf("verify %s piece %d: %w", e.id.Short(), i, err)
	}
	e.c.accepted(e, complete)
	e.writeSoon(i)
	e.c.throttle()
	return nil
}

// beginJudging keeps writers away from a piece. It returns nil when the piece is verified already, if need be after
// waiting for somebody else who judges it.
func (e *entry) beginJudging(i int) (*piece, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		pc := e.progress[i]
		switch {
		case e.gone:
			return nil, ErrGone
		case e.have.get(i):
			return nil, nil //nolint:nilnil // nothing to judge, and nothing wrong
		case i >= e.allocPieces():
			return nil, ErrNotReserved
		case pc == nil: // nothing was written in this run; the file may be right all the same
			pc = e.newProgress(i)
		case pc.sealed:
			e.idle.Wait()
			continue
		}
		pc.sealed = true
		return pc, nil
	}
}

// newProgress must be called with mu held.
func (e *entry) newProgress(i int) *piece {
	if e.progress == nil {
		e.progress = map[int]*piece{}
	}
	pc := &piece{}
	e.progress[i] = pc
	return pc
}

// endJudging lets writers in again, or accepts the piece.
func (e *entry) endJudging(i int, pc *piece, err error) (complete bool, _ error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	pc.sealed = false
	e.idle.Broadcast()
	switch {
	case err != nil:
	case e.gone:
		err = ErrGone
	case e.progress[i] != pc:
		err = ErrNotReserved // the tail was evicted in between
	case pc.tainted:
		err = ErrNotVerified // a sync failed in between
	}
	if e.progress[i] == pc && (err == nil || errors.Is(err, ErrHash) || pc.seq == 0) {
		delete(e.progress, i)
	}
	if err == nil {
		e.accept(i)
	}
	return e.have.full(), err
}

// accept makes a piece servable. mu must be held.
func (e *entry) accept(i int) {
	e.have.set(i)
	delete(e.broken, i)
	e.unknown.clear(i)
	if e.pending == nil {
		e.pending = map[int]uint64{}
	}
	e.accepts++
	e.pending[i] = e.accepts
	_, n := e.span(i)
	e.c.addPending(n)
	e.c.stats.verified.Add(1)
	e.notify()
}

// accepted is what follows accept once mu is released.
func (c *Cache) accepted(e *entry, complete bool) {
	c.mark(e)
	c.mu.Lock()
	c.wake()
	c.mu.Unlock()
	if complete {
		c.poke(c.kick) // a proof of arrival waits for it
	}
}

// MarkMissing takes a piece back: its bytes turned out to be wrong or gone. It is not served from this moment on; when
// the error is nil its place may be written again.
func (a *Asset) MarkMissing(i int) error {
	e := a.e
	if i < 0 || i >= e.n {
		return fmt.Errorf("forget %s piece %d of %d", e.id.Short(), i, e.n)
	}
	e.mu.Lock()
	e.unknown.clear(i)
	lost := e.lose(i)
	if pc := e.progress[i]; pc != nil && !pc.sealed && pc.writers == 0 && !pc.hashing {
		delete(e.progress, i)
	}
	e.mu.Unlock()
	if !lost {
		return nil
	}
	err := e.forget()
	e.c.mu.Lock()
	e.c.wake()
	e.c.mu.Unlock()
	return err
}
