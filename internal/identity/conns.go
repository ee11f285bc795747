package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	handshakeTime = 10 * time.Second
	// handshakeBytes is what a peer may send before it is known who it is: a hello and two certificates are 3 KiB.
	handshakeBytes = 16 << 10
)

var errHandshakeTooLong = errors.New("the handshake is too long")

// connTable holds the live connections by the serial numbers of their peers, to close those that are revoked.
type connTable struct {
	mu   sync.Mutex // guards live
	live map[*liveConn]struct{}
}

func newConnTable() *connTable { return &connTable{live: map[*liveConn]struct{}{}} }

// liveConn is the raw connection under a TLS one. Until the peer is known it counts what it sends.
type liveConn struct {
	net.Conn
	table   *connTable
	left    atomic.Int64 // bytes that may still come before the handshake is done
	known   atomic.Bool
	serials []string // set under table.mu when the peer is known
	box     string
	closed  bool // under table.mu
}

func (t *connTable) wrap(raw net.Conn) *liveConn {
	c := &liveConn{Conn: raw, table: t}
	c.left.Store(handshakeBytes)
	return c
}

// NetConn is the connection that was wrapped.
func (c *liveConn) NetConn() net.Conn { return c.Conn }

func (c *liveConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.known.Load() && c.left.Add(int64(-n)) < 0 {
		return 0, errHandshakeTooLong
	}
	return n, err
}

func (c *liveConn) Close() error {
	c.table.mu.Lock()
	c.closed = true
	delete(c.table.live, c)
	c.table.mu.Unlock()
	return c.Conn.Close()
}

// handshake runs the handshake of tc, which lies on c, and enters it into the table.
func (c *liveConn) handshake(ctx context.Context, tc *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return err
	}
	c.known.Store(true)
	c.enter(tc.ConnectionState())
	return nil
}

func (c *liveConn) enter(cs tls.ConnectionState) {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.serials = serialsOf(cs)
	if len(cs.PeerCertificates) > 0 {
		c.box = cs.PeerCertificates[0].Subject.CommonName
	}
	if !c.closed {
		c.table.live[c] = struct{}{}
	}
}

// counts returns how many connections are live, and how many of them are of one box.
func (t *connTable) counts(box string) (all, ofBox int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.live {
		if c.box == box {
			ofBox++
		}
	}
	return len(t.live), ofBox
}

// closeMatching closes every connection that depends on a serial number that match says yes to.
func (t *connTable) closeMatching(match func(serial string) bool) int {
	t.mu.Lock()
	var doomed []*liveConn
	for c := range t.live {
		if slices.ContainsFunc(c.serials, match) {
			doomed = append(doomed, c)
		}
	}
	t.mu.Unlock()
	for _, c := range doomed {
		c.Close()
	}
	return len(doomed)
}

// Client does the client's handshake on a connection that the caller dialled, in at most 10 s, and closes it when that
// fails. The result is closed when the peer is revoked.
func (i *Identity) Client(ctx context.Context, raw net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	live := i.conns.wrap(raw)
	tc := tls.Client(live, cfg)
	if err := live.handshake(ctx, tc); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", raw.RemoteAddr(), err)
	}
	// A revocation that came between the check and the entry into the table has not seen this connection.
	for _, s := range serialsOf(tc.ConnectionState()) {
		if i.Revoked(s) {
			tc.Close()
			return nil, fmt.Errorf("connect to %s: %w", raw.RemoteAddr(), ErrRevoked)
		}
	}
	return tc, nil
}

// Dial connects over TCP and then does as Client.
func (i *Identity) Dial(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	d := net.Dialer{Timeout: handshakeTime}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return i.Client(ctx, raw, cfg)
}
