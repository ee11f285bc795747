package cache

import (
	"crypto/sha1" //nolint:gosec // BEP 3 v1 names pieces by SHA-1; who may publish is decided by TUF
	"errors"
	"fmt"
	"hash"
	"io"
	"syscall"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// piece is one that is being written. All fields are guarded by entry.mu, but h, which belongs to whoever set hashing.
type piece struct {
	writers int    // writes under way
	seq     uint64 // counts writes begun
	sealed  bool   // being judged: no write may begin

	h       hash.Hash // over [0,next)
	next    int64
	end     int64 // while hashing: [next,end) is being hashed
	hashing bool
	redo    bool // bytes under the hash were written again

	sum     [asset.HashSize]byte // of the whole piece, when summed == seq+1
	summed  uint64
	tainted bool // a sync failed since the first write: the disk may lack what memory shows
}

func (p *piece) reset() {
	p.h, p.next, p.redo = nil, 0, false
}

// WriteAt puts unverified bytes straight into the blob, where they will stay. Writing into a verified piece is
// ErrVerified, beyond what is reserved ErrNotReserved. Into a piece that was lost while a player is being sent it nothing
// is written before that player has it; after half a minute of waiting that is ErrInUse. Errors of the disk come back
// as they are and raise a warning.
// Several writers may write at once; of bytes that come in the order of the piece the hash is computed on the way.
func (a *Asset) WriteAt(p []byte, off int64) (int, error) {
	e := a.e
	if off < 0 || off+int64(len(p)) > e.length {
		return 0, fmt.Errorf("write %s: %d bytes at %d, length is %d", e.id.Short(), len(p), off, e.length)
	}
	done := 0
	for done < len(p) {
		i := int((off + int64(done)) / e.pieceLen)
		begin, length := e.span(i)
		in := off + int64(done) - begin
		n, err := e.writePiece(i, p[done:done+int(min(int64(len(p)-done), length-in))], in)
		done += n
		if err != nil {
			return done, fmt.Errorf("write %s piece %d: %w", e.id.Short(), i, err)
		}
	}
	return done, nil
}

func (e *entry) writePiece(i int, b []byte, in int64) (int, error) {
	pc, ordered, err := e.beginWrite(i, b, in)
	if err != nil {
		return 0, err
	}
	f, release, err := e.acquire(true)
	n := 0
	if err == nil {
		n, err = f.WriteAt(b, int64(i)*e.pieceLen+in)
		if err == nil && n != len(b) {
			err = io.ErrShortWrite
		}
		release()
	}
	if ordered && err == nil {
		pc.h.Write(b)
	}
	e.endWrite(pc, ordered, in, int64(len(b)), err)
	e.c.stats.written.Add(int64(n))
	e.c.wrote(err)
	return n, err
}

func (e *entry) beginWrite(i int, b []byte, in int64) (pc *piece, ordered bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		switch pc = e.progress[i]; {
		case e.gone:
			return nil, false, ErrGone
		case e.have.get(i) || pc != nil && pc.sealed:
			return nil, false, ErrVerified
		case i >= e.allocPieces():
			return nil, false, ErrNotReserved
		case e.leased(i): // lost while the kernel is sending it
			if !e.waitLease(i) {
				return nil, false, ErrInUse
			}
			continue
		}
		if !e.durable.get(i) {
			break
		}
		// The index still claims this piece.
		e.mu.Unlock()
		err := e.forget()
		e.mu.Lock()
		if err != nil {
			return nil, false, err
		}
	}
	if pc == nil {
		pc = e.newProgress(i)
	}
	e.unknown.clear(i)
	end := in + int64(len(b))
	if in < pc.next || pc.hashing && in < pc.end {
		if pc.hashing {
			pc.redo = true
		} else {
			pc.reset()
		}
	}
	pc.seq++
	pc.writers++
	if !pc.hashing && in == pc.next {
		ordered, pc.hashing, pc.end = true, true, end
		if pc.h == nil {
			pc.h = sha1.New() //nolint:gosec // see the import
		}
	}
	return pc, ordered, nil
}

func (e *entry) endWrite(pc *piece, ordered bool, in, n int64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	pc.writers--
	if ordered {
		pc.hashing = false
		if err != nil || pc.redo {
			pc.reset()
		} else {
			pc.next = in + n
			e.c.stats.hashedInline.Add(n)
		}
	}
	if pc.writers == 0 || ordered {
		e.idle.Broadcast()
	}
}

// wrote keeps the warning about writing in line with the last write.
func (c *Cache) wrote(err error) {
	if err == nil {
		if c.stats.writeFailing.Load() && c.stats.writeFailing.CompareAndSwap(true, false) {
			c.o.Health.Clear(CodeWrite)
		}
		return
	}
	if errors.Is(err, ErrGone) {
		return
	}
	c.stats.writeFailing.Store(true)
	c.o.Health.Raise(health.Warning{
		Code: CodeWrite, Severity: health.Critical, Text: "The cache cannot write to its disk: " + cause(err) + ".",
		Action: "Check the storage: it is full, read-only or failing.",
	})
}

// cause names the error of the system without the path, so that the text of a warning stays the same.
func cause(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	switch {
	case errors.Is(err, io.ErrShortWrite):
		return "short write"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "short file"
	case errors.Is(err, durable.ErrCrashed):
		return durable.ErrCrashed.Error()
	}
	return "unexpected error"
}
