package cache

import (
	"errors"
	"io"

	"boxd/internal/durable"
)

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
