package cache

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"boxd/internal/health"
)

// lease is a span of pieces whose pages the kernel may be sending: they are not written while it lasts.
type lease struct{ begin, end int }

// leased must be called with mu held.
func (e *entry) leased(i int) bool {
	for l := range e.leases {
		if i >= l.begin && i < l.end {
			return true
		}
	}
	return false
}

// waitLease waits until a piece is not leased any more, and says whether that came about. mu must be held.
func (e *entry) waitLease(i int) bool {
	limit := e.c.o.leaseWait
	if limit == 0 {
		limit = leaseGrace + 10*time.Second
	}
	late := false
	timer := time.AfterFunc(limit, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		late = true
		e.idle.Broadcast()
	})
	defer timer.Stop()
	for e.leased(i) && !late && !e.gone {
		e.idle.Wait()
	}
	return !e.leased(i) || e.gone
}

// ReadVerifiedAt reads bytes of verified pieces; ErrNotVerified when any byte is not. When the disk fails, the piece is
// lost (and so will be fetched again) and the error is ErrNotVerified too.
func (a *Asset) ReadVerifiedAt(p []byte, off int64) (int, error) {
	e := a.e
	if off < 0 || off > e.length {
		return 0, fmt.Errorf("read %s at %d: length is %d", e.id.Short(), off, e.length)
	}
	var eof error
	if int64(len(p)) > e.length-off {
		p, eof = p[:e.length-off], io.EOF
	}
	if len(p) == 0 {
		return 0, eof
	}
	for {
		e.mu.Lock()
		ok, seq := e.verified(off, int64(len(p))), e.lostSeq
		gone := e.gone
		e.mu.Unlock()
		if gone {
			return 0, ErrGone
		}
		if !ok {
			return 0, fmt.Errorf("read %s at %d: %w", e.id.Short(), off, ErrNotVerified)
		}
		if err := e.pread(p, off); err != nil {
			return 0, err
		}
		e.mu.Lock()
		same := seq == e.lostSeq
		e.mu.Unlock()
		if same {
			e.c.stats.copied.Add(int64(len(p)))
			return len(p), eof
		}
		// A piece was lost meanwhile, and may have been written again under the read: judge anew.
	}
}

// verified must be called with mu held.
func (e *entry) verified(off, length int64) bool {
	begin, end := int(off/e.pieceLen), int((off+length-1)/e.pieceLen)+1
	return e.have.next(begin, false) >= end
}

// pread reads exactly len(p) bytes. After a second failure the piece in which it happened is lost.
func (e *entry) pread(p []byte, off int64) error {
	f, release, err := e.acquire(false)
	if err != nil {
		if errors.Is(err, ErrGone) || passing(err) {
			return err
		}
		return e.readFailed(off, off+int64(len(p)), err)
	}
	defer release()
	n, err := f.ReadAt(p, off)
	if n < len(p) {
		var m int
		m, err = f.ReadAt(p[n:], off+int64(n))
		n += m
	}
	if n == len(p) {
		e.c.readWorks()
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	at := off + int64(n)
	return e.readFailed(at, at+1, err)
}

// passing says that an error is the system's want of something for a moment, and says nothing about what is on the disk.
func passing(err error) bool {
	for _, no := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EINTR} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// readFailed takes the pieces that cannot be read out of what is served.
func (e *entry) readFailed(from, to int64, err error) error {
	c := e.c
	c.stats.readErrors.Add(1)
	c.stats.readFailing.Store(true)
	e.mu.Lock()
	for i := int(from / e.pieceLen); int64(i)*e.pieceLen < to; i++ {
		e.lose(i)
		if e.broken == nil {
			e.broken = map[int]bool{}
		}
		e.broken[i] = true
	}
	e.mu.Unlock()
	c.mark(e)
	c.poke(c.arm)
	c.mu.Lock()
	c.wake()
	c.mu.Unlock()
	c.o.Log.Error("cached bytes cannot be read, to be fetched again", "asset", e.id, "offset", from, "err", err)
	c.o.Health.Raise(health.Warning{
		Code: CodeRead, Severity: health.Warn,
		Text:   "The cache could not read back what it had stored (" + cause(err) + "); it is fetched again.",
		Action: "If it stays or comes back, the storage is failing.",
	})
	return fmt.Errorf("read %s at %d: %w: %w", e.id.Short(), from, ErrNotVerified, err)
}

func (c *Cache) readWorks() {
	if c.stats.readFailing.Load() && c.stats.readFailing.CompareAndSwap(true, false) {
		c.o.Health.Clear(CodeRead)
	}
}

// ReadRawAt reads bytes whether they are verified or not: only for hashing, never to be shown to anybody.
func (a *Asset) ReadRawAt(p []byte, off int64) (int, error) {
	f, release, err := a.e.acquire(false)
	if err != nil {
		return 0, err
	}
	defer release()
	return f.ReadAt(p, off)
}

// probe reads a span and throws it away.
func (e *entry) probe(off, n int64) error {
	buf := <-e.c.bufs
	defer func() { e.c.bufs <- buf }()
	for n > 0 {
		k := min(n, int64(len(buf)))
		if err := e.pread(buf[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}
