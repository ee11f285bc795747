package cache

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"boxd/internal/durable"
)

// sendChunk is how much the kernel is asked to send at a time.
const sendChunk = 1 << 20

// leaseGrace is how long the bytes of a transmission that broke off may still be read by the other side.
const leaseGrace = 20 * time.Second

// inFlight is more bytes than a TCP connection can hold between the sender and the program that receives. sendfile hands
// on the pages of the file itself: until the receiver has read them, whoever writes to the file changes what is
// received. Once so many bytes were sent after them, it has.
var inFlight = sync.OnceValue(func() int64 {
	total := int64(sendChunk)
	for name, typical := range map[string]int64{"tcp_wmem": 4 << 20, "tcp_rmem": 32 << 20} {
		b, err := os.ReadFile("/proc/sys/net/ipv4/" + name) // least, default, most
		f := strings.Fields(string(b))
		if err == nil && len(f) == 3 {
			if n, err := strconv.ParseInt(f[2], 10, 64); err == nil && n > 0 {
				total += n
				continue
			}
		}
		total += typical
	}
	return total
})

// leasedUntil is a lease that ends when so many bytes were sent.
type leasedUntil struct {
	*lease
	sent int64
}

// SendN writes the next n bytes (fewer at the end of the file) to w, waiting for missing pieces as Read does. When w is
// a network connection, or an http.ResponseWriter over one, the kernel copies them from the file (sendfile), but for
// the last ones, which nothing follows that would prove that they have arrived.
func (r *Reader) SendN(w io.Writer, n int64) (sent int64, err error) {
	e := r.a.e
	limit := e.c.o.inFlight
	if limit == 0 {
		limit = inFlight()
	}
	n = min(n, r.left())
	var leases []leasedUntil
	defer func() {
		if len(leases) > 0 { // it broke off
			time.AfterFunc(leaseGrace, func() { e.endLeases(leases) })
		}
	}()
	for sent < n {
		off, k, err := r.next(min(sendChunk, n-sent))
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return sent, err
		}
		var m int64
		if n-sent-k >= limit {
			var l *lease
			l, m, err = r.sendSpan(w, off, k)
			if l != nil {
				leases = append(leases, leasedUntil{l, sent + m + limit})
			}
		} else {
			m, err = r.copySpan(w, off, k)
		}
		sent += m
		r.advance(m)
		done := 0
		for done < len(leases) && leases[done].sent <= sent {
			done++
		}
		e.endLeases(leases[:done])
		leases = leases[done:]
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

func (e *entry) endLeases(list []leasedUntil) {
	if len(list) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range list {
		delete(e.leases, l.lease)
	}
	e.idle.Broadcast()
}

// left is how many bytes of the file are behind the position.
func (r *Reader) left() int64 {
	r.a.e.mu.Lock()
	defer r.a.e.mu.Unlock()
	return r.size - r.pos
}

// WriteTo sends the rest of the file: see SendN.
func (r *Reader) WriteTo(w io.Writer) (int64, error) { return r.SendN(w, r.size) }

// sendSpan has the kernel send a span. The lease that it returns must last until the other side has read the bytes.
func (r *Reader) sendSpan(w io.Writer, off, n int64) (*lease, int64, error) {
	e := r.a.e
	rf, ok := w.(io.ReaderFrom)
	if ok {
		ok = r.openRaw()
	}
	if !ok {
		sent, err := r.copySpan(w, off, n)
		return nil, sent, err
	}
	l := e.lease(off, n)
	if l == nil {
		return nil, 0, nil // lost since: the caller waits again
	}
	if _, err := r.raw.Seek(off, io.SeekStart); err != nil {
		return l, 0, e.readFailed(off, off+1, err)
	}
	sent, err := rf.ReadFrom(&io.LimitedReader{R: r.raw, N: n})
	e.c.stats.sendfile.Add(sent)
	if sent == n {
		return l, sent, err
	}
	if err == nil {
		err = io.ErrShortWrite
	}
	// Whose fault was it? A read that fails takes the piece out; the player asks again and gets it repaired.
	if rerr := e.probe(off+sent, n-sent); rerr != nil {
		err = rerr
	}
	return l, sent, err
}

// lease keeps a span of verified pieces from being written. It is nil when they are not verified any more.
func (e *entry) lease(off, n int64) *lease {
	l := &lease{int(off / e.pieceLen), int((off+n-1)/e.pieceLen) + 1}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || !e.verified(off, n) {
		return nil
	}
	if e.leases == nil {
		e.leases = map[*lease]bool{}
	}
	e.leases[l] = true
	return l
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
