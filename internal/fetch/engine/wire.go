package engine

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Wires makes the connections of a listener such that the engine can save work below TLS: what is written at one time
// leaves at one time, not a record at a time, and what trickles in is read in larger portions.
func Wires(l net.Listener) net.Listener { return wires{l} }

type wires struct{ net.Listener }

func (l wires) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newWire(c), nil
}

// Portions in which a wire moves bytes.
const (
	wireWrite = 128 << 10             // buffered at most
	wireRead  = 64 << 10              // waited for at most
	wireLeast = 16 << 10              // less is not worth waiting for
	wireSpan  = 5 * time.Millisecond  // what comes in so long is a portion
	wireLimit = 20 * time.Millisecond // so long is waited for one
	wireWatch = 50 * time.Millisecond // over so long it is measured how fast it comes
)

// wire is a connection below TLS. Until the engine has taken it over it changes nothing.
type wire struct {
	net.Conn
	raw syscall.RawConn // nil: the kernel does not handle it

	out sync.Mutex // guards buf
	buf *[]byte    // not nil while writes are held

	patient atomic.Bool
	outer   atomic.Int64 // the deadline of reads that the user has set, in ns since 1970; 0: none
	// The reader's own.
	low   int // what the kernel waits for before it wakes the reader
	since time.Time
	got   int // bytes since then
}

var wireBuffers = sync.Pool{New: func() any { b := make([]byte, 0, wireWrite); return &b }}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c, low: 1}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	return w
}

// wireOf finds the wire below a connection; nil when there is none.
func wireOf(c net.Conn) *wire {
	for range 8 {
		switch t := c.(type) {
		case *wire:
			return t
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// NetConn is the connection that was wrapped.
func (w *wire) NetConn() net.Conn { return w.Conn }

// hold keeps what is written from now on until release.
func (w *wire) hold() {
	w.out.Lock()
	w.buf = wireBuffers.Get().(*[]byte)
	w.out.Unlock()
}

// release sends what was held.
func (w *wire) release() error {
	w.out.Lock()
	defer w.out.Unlock()
	err := w.flush()
	wireBuffers.Put(w.buf)
	w.buf = nil
	return err
}

// flush sends what is held. w.out is held.
func (w *wire) flush() error {
	if len(*w.buf) == 0 {
		return nil
	}
	_, err := w.Conn.Write(*w.buf)
	*w.buf = (*w.buf)[:0]
	return err
}

// Write sends, or keeps for release.
func (w *wire) Write(p []byte) (int, error) {
	w.out.Lock()
	defer w.out.Unlock()
	if w.buf == nil {
		return w.Conn.Write(p)
	}
	if len(*w.buf)+len(p) > wireWrite {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > wireWrite {
		return w.Conn.Write(p)
	}
	*w.buf = append(*w.buf, p...)
	return len(p), nil
}

// wait lets the reader wait a little for larger portions while much comes in.
func (w *wire) wait() { w.patient.Store(w.raw != nil) }

// SetDeadline is for reads and writes.
func (w *wire) SetDeadline(t time.Time) error {
	if err := w.Conn.SetWriteDeadline(t); err != nil {
		return err
	}
	return w.SetReadDeadline(t)
}

// SetReadDeadline is for reads. A read that waits for much already must not come to wait for longer than it meant to.
func (w *wire) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		w.outer.Store(0)
	} else {
		w.outer.Store(t.UnixNano())
	}
	if soon := time.Now().Add(wireLimit); w.patient.Load() && (t.IsZero() || t.After(soon)) {
		t = soon
	}
	return w.Conn.SetReadDeadline(t)
}

// Read waits for a portion of what the last ones came at, but not for long.
func (w *wire) Read(p []byte) (int, error) {
	if !w.patient.Load() {
		return w.Conn.Read(p)
	}
	now := time.Now()
	for {
		var outer time.Time
		if ns := w.outer.Load(); ns != 0 {
			outer = time.Unix(0, ns)
		}
		until := outer
		if soon := time.Now().Add(wireLimit); w.low > 1 && (outer.IsZero() || outer.After(soon)) {
			until = soon
		}
		if err := w.Conn.SetReadDeadline(until); err != nil {
			return 0, err
		}
		n, err := w.Conn.Read(p)
		if errors.Is(err, os.ErrDeadlineExceeded) && (w.outer.Load() == 0 || time.Now().UnixNano() < w.outer.Load()) {
			w.expect(1)
			w.since, w.got = time.Time{}, 0
			continue
		}
		w.measure(now, n)
		return n, err
	}
}

// measure counts what came and adapts the portion to it now and then.
func (w *wire) measure(now time.Time, n int) {
	w.got += n
	took := now.Sub(w.since)
	if took < wireWatch {
		return
	}
	portion := 1
	if took < 4*wireWatch {
		portion = int(float64(w.got) * wireSpan.Seconds() / took.Seconds())
	}
	w.since, w.got = now, 0
	switch {
	case portion < wireLeast:
		w.expect(1)
	case portion < w.low*3/4 || portion > w.low*5/4:
		w.expect(min(portion, wireRead))
	}
}

// expect has the kernel wake the reader for so many bytes only.
func (w *wire) expect(n int) {
	if n == w.low {
		return
	}
	w.low = n
	wakeAt(w.raw, n)
}
