package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"boxd/internal/asset"
)

// inbox is the listener that the library accepts from; we put in what we have admitted.
type inbox struct {
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
	addr net.Addr
}

func newInbox(l net.Listener) *inbox {
	in := &inbox{ch: make(chan net.Conn), done: make(chan struct{}), addr: &net.TCPAddr{IP: net.IPv6zero}}
	if l != nil {
		in.addr = l.Addr()
	}
	return in
}

// Accept hands over the next admitted connection.
func (in *inbox) Accept() (net.Conn, error) {
	select {
	case c := <-in.ch:
		return c, nil
	case <-in.done:
		return nil, net.ErrClosed
	}
}

// Addr is where the real listener listens; the library takes the port from it.
func (in *inbox) Addr() net.Addr { return in.addr }

func (in *inbox) close() { in.once.Do(func() { close(in.done) }) }

func (in *inbox) put(ctx context.Context, c net.Conn) bool {
	select {
	case in.ch <- c:
		return true
	case <-in.done:
	case <-ctx.Done():
	}
	return false
}

// accept admits connections until the listener closes.
func (e *Engine) accept(ctx context.Context, wg *sync.WaitGroup) {
	stop := context.AfterFunc(ctx, func() { _ = e.opts.Listener.Close() })
	defer stop()
	for {
		nc, err := e.opts.Listener.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if nc != nil {
				_ = nc.Close()
			}
			return
		}
		if err != nil {
			e.log.Warn("accepting a swarm connection failed", "err", err)
			if !pause(ctx, 100*time.Millisecond) { // out of descriptors, most likely
				return
			}
			continue
		}
		wg.Go(func() {
			if !e.welcome(ctx, nc) {
				_ = nc.Close()
			}
		})
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// welcome admits one accepted connection and reports whether it was handed on.
func (e *Engine) welcome(ctx context.Context, nc net.Conn) bool {
	r := &remote{class: WAN}
	if a, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil {
		r.addr = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	if r.addr.IsValid() && e.opts.IsLAN(r.addr.Addr()) {
		r.class = LAN
	}
	var ok bool
	if e.opts.ClientTLS != nil {
		ok = e.identify(ctx, nc, r)
	} else {
		var seen net.Conn
		if seen, ok = e.identifyPlain(ctx, nc, r); ok {
			nc = seen
		}
	}
	if !ok {
		return false
	}
	e.mu.Lock()
	kind, name := "box", r.box
	if name == "" {
		kind, name = "addr", r.addr.String()
	}
	a := madeUpAddr(kind, name, e.bans.generation(name))
	e.nameLocked(a, name)
	e.mu.Unlock()
	r.key = netip.AddrPortFrom(a, r.swarm.slot).String()
	c := e.newConn(nc, r, false)
	if !e.track(c) {
		return false
	}
	if !e.inbox.put(ctx, c) {
		_ = c.Close()
		return false
	}
	return true
}

// identify takes the box from the certificate and the torrent from the server name, loading it if need be.
func (e *Engine) identify(ctx context.Context, nc net.Conn, r *remote) bool {
	tc, ok := nc.(*tls.Conn)
	if !ok {
		return false
	}
	box, err := e.admit(tc, "")
	if err != nil || r.class == WAN && e.opts.Home(box) {
		return false
	}
	r.box = box
	id, ok := assetOf(tc.ConnectionState().ServerName)
	if !ok {
		return false
	}
	r.swarm, ok = e.find(ctx, id)
	return ok
}

// find returns the torrent that a dialler names, loading it if need be.
func (e *Engine) find(ctx context.Context, id asset.ID) (*swarm, bool) {
	s, ok := e.swarm(id)
	if ok || e.opts.Lazy == nil {
		return s, ok
	}
	select {
	case e.lazy <- struct{}{}:
	default:
		return nil, false // too many at once; they come again
	}
	lctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	loaded := e.opts.Lazy(lctx, id)
	cancel()
	<-e.lazy
	if !loaded {
		return nil, false
	}
	return e.swarm(id)
}
