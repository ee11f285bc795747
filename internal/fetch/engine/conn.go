package engine

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"boxd/internal/fetch/pace"
)

// conn is one connection of the swarm: counted, and slowed when it uses the access line.
type conn struct {
	net.Conn
	e      *Engine
	remote *remote
	out    bool
	since  time.Time

	done chan struct{} // closed by Close
	once sync.Once

	debt int // bytes read and not yet paid for; only the reader uses it

	meter blockMeter  // used by who writes, one at a time
	gave  *tally      // of the box at the other end; nil while the torrent is not known
	mute  *blockMeter // not nil: the box at the other end is never unchoked

	sock *pace.Socket // set before the connection is handed out; nil for one of the LAN
	wire *wire        // what is below TLS; nil: nothing of ours

	in, sent atomic.Int64 // bytes on the connection, all protocols included
}

// RemoteAddr is the made-up address of the box.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline hides that the connection was closed meanwhile: the library panics at that, and finds out by itself when it
// reads or writes next.
func (c *conn) SetDeadline(t time.Time) error {
	_ = c.Conn.SetDeadline(t)
	return nil
}

// Close closes the connection once and forgets it.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		close(c.done)
		c.sock.Remove()
		err = c.Conn.Close()
		c.e.forget(c)
	})
	return err
}

// Read pays for what the last Read brought, then reads no more at once than the rate suggests: the receive window does
// the rest (the sender is slowed by the bytes that we leave unread).
func (c *conn) Read(p []byte) (int, error) {
	if err := c.pay(); err != nil {
		return 0, err
	}
	n := len(p)
	switch s := c.remote.swarm; {
	case c.remote.class == LAN:
		n = c.e.lan.Grant(n)
	case s != nil:
		n = s.down.Grant(c.e.down.Grant(n))
	default:
		n = c.e.down.Grant(n)
	}
	n, err := c.Conn.Read(p[:n])
	c.in.Add(int64(n))
	c.debt = n
	return n, err
}

func (c *conn) pay() error {
	if c.debt == 0 {
		return nil
	}
	n := c.debt
	c.debt = 0
	if c.remote.class == LAN {
		if err := c.e.lan.Take(n, c.done); err != nil {
			return net.ErrClosed
		}
		return nil
	}
	if s := c.remote.swarm; s != nil {
		if err := s.down.Take(n, c.done); err != nil {
			return net.ErrClosed
		}
	}
	if err := c.e.down.Take(n, c.done); err != nil {
		return net.ErrClosed
	}
	return nil
}

// Write sends in portions that the upload rate allows.
func (c *conn) Write(p []byte) (int, error) {
	var sent int
	for {
		bucket := c.e.up
		if c.remote.class == LAN {
			bucket = c.e.lan
		}
		n := len(p) - sent
		if c.mute != nil {
			// Requests only; they pass whatever the rate is. Who asks though it is choked gets nothing.
			if c.mute.written(p[sent:]) > 0 {
				return sent, net.ErrClosed
			}
		} else {
			n = bucket.Grant(n)
			if err := bucket.Take(n, c.done); err != nil {
				return sent, net.ErrClosed
			}
		}
		w, err := c.send(p[sent : sent+n])
		sent += w
		c.sent.Add(int64(w))
		if s := c.remote.swarm; s != nil {
			s.sent[c.remote.class].Add(int64(w))
		}
		if blocks := c.meter.written(p[sent-w : sent]); c.gave != nil && blocks > 0 {
			c.gave.out.Add(blocks)
		}
		if err != nil || sent == len(p) {
			return sent, err
		}
	}
}

// record is what TLS encrypts at one time.
const record = 16 << 10

// send writes all of p at one time, also when it is many records of TLS.
func (c *conn) send(p []byte) (int, error) {
	if c.wire == nil || len(p) <= record {
		return c.Conn.Write(p)
	}
	c.wire.hold()
	n, err := c.Conn.Write(p)
	if e := c.wire.release(); err == nil {
		err = e
	}
	return n, err
}

// track registers a connection, unless it may not be.
func (e *Engine) track(c *conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bans.has(c.remote.box, time.Now()) || !e.allowedLocked(c) {
		return false
	}
	e.conns[c] = struct{}{}
	if c.remote.class == WAN && !c.remote.swarm.policy.WANUp {
		c.mute = &blockMeter{choke: true}
	}
	if c.remote.class == WAN {
		c.sock = e.opts.Sockets.Add(c.Conn)
	}
	e.wakeLocked()
	return true
}

// allowedLocked reports whether the torrent's policy lets this connection live. e.mu is held.
func (e *Engine) allowedLocked(c *conn) bool {
	s := c.remote.swarm
	if s == nil || c.remote.class == LAN {
		return true
	}
	p := s.policy
	if !p.Complete {
		return p.WANDown
	}
	if !p.WANUp {
		return false
	}
	served := 0
	for o := range e.conns {
		if o.remote.swarm == s && o.remote.class == WAN && o != c {
			served++
		}
	}
	return served < e.opts.Limits.UploadSlots
}

func (e *Engine) forget(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.conns[c]; ok {
		delete(e.conns, c)
		e.wakeLocked()
	}
}

// closeConns closes those that match. The library drops them when their next read or write fails.
func (e *Engine) closeConns(match func(*conn) bool) {
	e.mu.Lock()
	var list []*conn
	for c := range e.conns {
		if match(c) {
			list = append(list, c)
		}
	}
	e.mu.Unlock()
	for _, c := range list {
		_ = c.Close() // the other end sees it either way
	}
}

// CloseBox ends the connections to a box that has left the home: one that was unplugged or frozen would else count for
// minutes as one that has its pieces. It does not wait, as the other end of a connection may be dead.
func (e *Engine) CloseBox(box string) {
	go e.closeConns(func(c *conn) bool { return c.remote.class == LAN && c.remote.box == box })
}

func (e *Engine) newConn(nc net.Conn, r *remote, out bool) *conn {
	c := &conn{Conn: nc, e: e, remote: r, out: out, since: time.Now(), done: make(chan struct{})}
	if r.swarm != nil {
		c.gave = r.swarm.boxes.of(e.nameOf(r), r.class)
	}
	w := wireOf(nc)
	if w == nil {
		return c
	}
	if r.class == LAN {
		w.wait() // over the access line the pace says how much is read
	}
	if _, ok := nc.(*tls.Conn); ok {
		c.wire = w
	}
	return c
}

// quiet drops what the library logs below warnings: it logs every connection that ends, and peers come and go.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}
func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(n string) slog.Handler      { return quiet{q.Handler.WithGroup(n)} }
