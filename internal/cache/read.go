package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"
	"sync"
	"time"

	"boxd/internal/durable"
	"boxd/internal/health"
)

// lease is a span of pieces whose bytes the kernel reads on its own: they are not written while it lasts.
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
		if errors.Is(err, ErrGone) {
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

// readFailed takes the pieces that cannot be read out of what is served.
func (e *entry) readFailed(from, to int64, err error) error {
	c := e.c
	c.stats.readErrors.Add(1)
	c.stats.readFailing.Store(true)
	e.mu.Lock()
	for i := int(from / e.pieceLen); int64(i)*e.pieceLen < to; i++ {
		e.lose(i)
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

// Span is pieces [Begin, End).
type Span struct{ Begin, End int }

// Reader reads one file of an asset. Read, Seek and SendN are for one goroutine at a time; Close may come from any.
type Reader struct {
	a    *Asset
	ctx  context.Context //nolint:containedctx // a Reader is one request: an io.Reader has no other way to be cancelled
	base int64           // of the file in the asset
	size int64
	stop chan struct{}

	once sync.Once
	raw  *os.File // for sendfile; opened at need

	// guarded by entry.mu
	pos    int64
	closed bool
	active time.Time // of the last read
}

// OpenFile opens a file of the asset for a player. Reads wait for pieces that are missing, until ctx ends, and make
// Demand ask for them; space for what lies beyond the reservation is reserved when it is first wanted. Until the Reader
// is closed the asset is not evicted.
func (a *Asset) OpenFile(ctx context.Context, path string) (*Reader, error) {
	f, ok := a.info.File(path)
	if !ok {
		return nil, fmt.Errorf("open %s %q: %w", a.e.id.Short(), path, fs.ErrNotExist)
	}
	c := a.e.c
	c.mu.Lock()
	now := c.tick()
	c.mu.Unlock()
	r := &Reader{a: a, ctx: ctx, base: f.Offset, size: f.Length, stop: make(chan struct{}), active: time.Now()}
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	if a.e.gone {
		return nil, ErrGone
	}
	if a.e.readers == nil {
		a.e.readers = map[*Reader]bool{}
	}
	a.e.readers[r] = true
	a.e.lastUse = now
	c.stats.readers.Add(1)
	return r, nil
}

// Size is the length of the file in bytes.
func (r *Reader) Size() int64 { return r.size }

// Seek sets where the next Read begins; it waits for nothing.
func (r *Reader) Seek(off int64, whence int) (int64, error) {
	e := r.a.e
	e.mu.Lock()
	defer e.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		off += r.pos
	case io.SeekEnd:
		off += r.size
	}
	if off < 0 {
		return 0, fmt.Errorf("seek to %d in %s: %w", off, e.id.Short(), fs.ErrInvalid)
	}
	r.pos = off
	return off, nil
}

// Read waits for the first byte and returns as much as is verified behind it.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var failed time.Time
	for {
		off, n, err := r.next(int64(len(p)))
		if err != nil {
			return 0, err
		}
		k, err := r.a.ReadVerifiedAt(p[:n], off)
		switch {
		case err == nil || errors.Is(err, io.EOF):
			r.advance(int64(k))
			return k, nil
		case !errors.Is(err, ErrNotVerified):
			return 0, err
		}
		// Lost under the read: wait for its repair, but not for ever.
		if failed.IsZero() {
			failed = time.Now()
			continue
		}
		if time.Since(failed) > r.a.e.c.o.RepairWait {
			return 0, err
		}
	}
}

func (r *Reader) advance(n int64) {
	e := r.a.e
	e.mu.Lock()
	r.pos += n
	e.mu.Unlock()
}

// next waits until the byte at the position is verified and returns where it is in the asset and how many bytes from
// there, at most limit, are verified and in the file.
func (r *Reader) next(limit int64) (off, n int64, err error) {
	e := r.a.e
	var lost <-chan time.Time
	for {
		e.mu.Lock()
		switch {
		case r.closed:
			err = fs.ErrClosed
		case e.gone:
			err = ErrGone
		case r.pos >= r.size:
			err = io.EOF
		case r.ctx.Err() != nil:
			err = r.ctx.Err()
		}
		if err != nil {
			e.mu.Unlock()
			return 0, 0, err
		}
		off = r.base + r.pos
		i := int(off / e.pieceLen)
		r.active = time.Now()
		if end := e.have.next(i, false); end > i {
			n = min(limit, r.size-r.pos, int64(end)*e.pieceLen-off)
			e.mu.Unlock()
			return off, n, nil
		}
		changed, short := e.wait(), i >= e.allocPieces()
		e.mu.Unlock()
		if short {
			if err := r.a.Grow(e.length); err != nil {
				return 0, 0, err
			}
			continue
		}
		if lost == nil && e.c.stats.readFailing.Load() {
			lost = time.After(e.c.o.RepairWait)
		}
		r.announce()
		select {
		case <-changed:
		case <-r.stop:
		case <-r.ctx.Done():
		case <-lost:
			return 0, 0, fmt.Errorf("read %s at %d: not repaired in time: %w", e.id.Short(), off, ErrNotVerified)
		}
	}
}

// announce tells whoever fetches or re-hashes that this reader waits.
func (r *Reader) announce() {
	c := r.a.e.c
	c.poke(c.check)
	c.mu.Lock()
	c.wake()
	c.mu.Unlock()
}

// sendChunk bounds how long one lease lasts.
const sendChunk = 1 << 20

// SendN writes the next n bytes (fewer at the end of the file) to w, waiting for missing pieces as Read does. When w is
// a network connection, or an http.ResponseWriter over one, the kernel copies them from the file (sendfile).
func (r *Reader) SendN(w io.Writer, n int64) (sent int64, err error) {
	for sent < n {
		off, k, err := r.next(min(sendChunk, n-sent))
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return sent, err
		}
		m, err := r.sendSpan(w, off, k)
		sent += m
		r.advance(m)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// WriteTo sends the rest of the file: see SendN.
func (r *Reader) WriteTo(w io.Writer) (int64, error) { return r.SendN(w, r.size) }

func (r *Reader) sendSpan(w io.Writer, off, n int64) (int64, error) {
	e := r.a.e
	rf, ok := w.(io.ReaderFrom)
	if ok {
		ok = r.openRaw()
	}
	if !ok {
		return r.copySpan(w, off, n)
	}
	l := &lease{int(off / e.pieceLen), int((off+n-1)/e.pieceLen) + 1}
	e.mu.Lock()
	if !e.verified(off, n) || e.gone {
		e.mu.Unlock()
		return 0, nil // lost since: the caller waits again
	}
	if e.leases == nil {
		e.leases = map[*lease]bool{}
	}
	e.leases[l] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.leases, l)
		e.mu.Unlock()
	}()
	if _, err := r.raw.Seek(off, io.SeekStart); err != nil {
		return 0, e.readFailed(off, off+1, err)
	}
	sent, err := rf.ReadFrom(&io.LimitedReader{R: r.raw, N: n})
	e.c.stats.sendfile.Add(sent)
	if sent == n {
		return sent, err
	}
	// Whose fault was it? A read that fails takes the piece out, and the caller waits for its repair.
	if rerr := e.probe(off+sent, n-sent); rerr != nil {
		return sent, nil
	}
	if err == nil {
		err = io.ErrShortWrite
	}
	return sent, err
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

func (r *Reader) copySpan(w io.Writer, off, n int64) (sent int64, err error) {
	c := r.a.e.c
	for sent < n {
		k, err := r.copyOnce(w, c, off+sent, n-sent)
		sent += k
		if errors.Is(err, ErrNotVerified) {
			return sent, nil // the caller waits for its repair
		}
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

func (r *Reader) copyOnce(w io.Writer, c *Cache, off, n int64) (int64, error) {
	buf := make([]byte, min(n, 64<<10)) // not from the pool: a slow player must not hold up the hashing
	if _, err := r.a.ReadVerifiedAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	k, err := w.Write(buf)
	if err == nil && k < len(buf) {
		err = io.ErrShortWrite
	}
	return int64(k), err
}

// openRaw opens the blob once more, with an offset of its own, for the kernel to send from.
func (r *Reader) openRaw() bool {
	if r.raw != nil {
		return true
	}
	e := r.a.e
	e.mu.Lock()
	defer e.mu.Unlock() // the name must not change meanwhile
	if e.gone || r.closed {
		return false
	}
	f, err := e.c.fs.Open(e.c.blobPath(e.id, e.gen))
	if err != nil {
		return false
	}
	of, ok := f.(durable.OSFile)
	if !ok {
		_ = f.Close() // opened for reading: nothing to lose
		return false
	}
	r.raw = of.OSFile()
	return true
}

// Close lets the asset be evicted again and ends a Read that waits.
func (r *Reader) Close() error {
	r.once.Do(func() {
		e := r.a.e
		close(r.stop)
		e.c.mu.Lock()
		now := e.c.tick()
		e.c.mu.Unlock()
		e.mu.Lock()
		r.closed = true
		delete(e.readers, r)
		e.lastUse = now
		e.notify()
		raw := r.raw
		e.mu.Unlock()
		e.c.stats.readers.Add(-1)
		e.c.mark(e) // the time of use goes with the next commit
		if raw != nil {
			_ = raw.Close() // opened for reading: nothing to lose
		}
	})
	return nil
}

// Demand is the missing pieces that open readers need next, nearest first, without those that are only to be hashed
// again. Readers that read last come first.
func (a *Asset) Demand() []Span {
	e := a.e
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*Reader, 0, len(e.readers))
	for r := range e.readers {
		if r.pos < r.size {
			list = append(list, r)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].active.After(list[j].active) })
	var spans []Span
	seen := map[int]bool{}
	for _, r := range list {
		begin := int((r.base + r.pos) / e.pieceLen)
		end := pieces(min(r.base+r.pos+e.c.o.ReadAhead, r.base+r.size), e.pieceLen)
		for i := e.have.next(begin, false); i < end; i = e.have.next(i+1, false) {
			if seen[i] || e.unknown.get(i) {
				continue
			}
			seen[i] = true
			if k := len(spans) - 1; k >= 0 && spans[k].End == i {
				spans[k].End++
			} else {
				spans = append(spans, Span{i, i + 1})
			}
		}
	}
	return spans
}
