package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"boxd/internal/asset"
)

// The beginning of BitTorrent's handshake (BEP 3): the name of the protocol, 8 reserved bytes, the infohash.
const (
	plainName = "\x13BitTorrent protocol"
	plainHead = len(plainName) + 8 + asset.HashSize
)

// maxGreeted bounds the connections that are listened to before it is known what they want.
const maxGreeted = 64

// replay gives back what was read ahead of its reader.
type replay struct {
	net.Conn
	ahead []byte
}

// Read gives the bytes that were read ahead, then those of the connection.
func (r *replay) Read(p []byte) (int, error) {
	if len(r.ahead) > 0 {
		n := copy(p, r.ahead)
		r.ahead = r.ahead[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// NetConn is the connection below.
func (r *replay) NetConn() net.Conn { return r.Conn }

// peek reads n bytes that a later Read returns again.
func peek(nc net.Conn, n int) (*replay, error) {
	b := make([]byte, n)
	if err := nc.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(nc, b); err != nil {
		return nil, err
	}
	return &replay{Conn: nc, ahead: b}, nc.SetReadDeadline(time.Time{})
}

// identifyPlain reads which torrent an unsecured connection wants. Nobody knows who is at its other end.
func (e *Engine) identifyPlain(ctx context.Context, nc net.Conn, r *remote) (net.Conn, bool) {
	select {
	case e.greet <- struct{}{}:
		defer func() { <-e.greet }()
	default:
		return nil, false // too many at once; they come again
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	c, err := peek(nc, plainHead)
	if err != nil || !bytes.HasPrefix(c.ahead, []byte(plainName)) {
		return nil, false
	}
	var id asset.ID
	copy(id[:], c.ahead[plainHead-asset.HashSize:])
	var ok bool
	r.swarm, ok = e.find(ctx, id)
	return c, ok
}

// Split shares one port between TLS and unsecured BitTorrent connections, for a test fleet whose transport security is
// off: the first byte tells which it is.
type Split struct {
	l          net.Listener
	tls, plain *splitListener
	slots      chan struct{} // bounds the connections that have said nothing yet
	done       chan struct{}
}

// NewSplit wraps a listener. Nothing is accepted before Run.
func NewSplit(l net.Listener) *Split {
	s := &Split{l: l, slots: make(chan struct{}, 64), done: make(chan struct{})}
	s.tls = &splitListener{s: s, ready: make(chan net.Conn), closed: make(chan struct{})}
	s.plain = &splitListener{s: s, ready: make(chan net.Conn), closed: make(chan struct{})}
	return s
}

// TLS gives the connections that begin with a TLS handshake.
func (s *Split) TLS() net.Listener { return s.tls }

// Plain gives the connections that begin as BitTorrent does.
func (s *Split) Plain() net.Listener { return s.plain }

// Run accepts until ctx ends.
func (s *Split) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(s.done)
	stop := context.AfterFunc(ctx, func() { _ = s.l.Close() })
	defer stop()
	for {
		nc, err := s.l.Accept()
		switch {
		case ctx.Err() != nil:
			if nc != nil {
				_ = nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			if !pause(ctx, 100*time.Millisecond) { // out of descriptors, most likely
				return nil
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			_ = nc.Close()
			continue
		}
		wg.Go(func() {
			if !s.sort(ctx, nc) {
				_ = nc.Close()
			}
			<-s.slots
		})
	}
}

// tlsHandshake is the first byte of a TLS connection (RFC 8446, section 5.1).
const tlsHandshake = 22

// sort hands a connection over to whom it is for.
func (s *Split) sort(ctx context.Context, nc net.Conn) bool {
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	c, err := peek(nc, 1)
	if err != nil {
		return false
	}
	to := s.plain
	if c.ahead[0] == tlsHandshake {
		to = s.tls
	}
	select {
	case to.ready <- c:
		return true
	case <-to.closed:
	case <-ctx.Done():
	}
	return false
}

type splitListener struct {
	s      *Split
	ready  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept waits for the next connection of this kind.
func (l *splitListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.closed:
	case <-l.s.done:
	}
	return nil, net.ErrClosed
}

// Close ends this kind only.
func (l *splitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is the port that both share.
func (l *splitListener) Addr() net.Addr { return l.s.l.Addr() }
