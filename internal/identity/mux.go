package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The bounds of a Mux. Half-open connections cost about 20 KiB each.
const (
	maxHandshakes    = 64 // at once
	maxHandshakesOf  = 16 // at once from one address
	evictHandshakes  = time.Second
	maxAccepted      = 256 // live connections
	maxAcceptedOfBox = 64  // live connections of one box: one for each torrent that both have
	acceptQueue      = 16  // handshaken, not taken by Accept yet
)

// Mux splits one TLS listener by ALPN. Whoever has not shown a certificate yet costs a bounded number of bytes, for a
// bounded time, in a bounded number of connections; when that number is reached the oldest goes, so that somebody who
// opens connections and says nothing cannot shut the door for others.
type Mux struct {
	l       net.Listener
	cfg     *tls.Config
	log     *slog.Logger
	conns   *connTable
	revoked func(serial string) bool
	done    chan struct{}
	once    sync.Once
	refused refusals

	mu   sync.Mutex // guards the fields below
	subs map[string]*muxListener
	half map[*halfOpen]struct{}
}

// halfOpen is a connection whose handshake runs.
type halfOpen struct {
	conn  *liveConn
	host  netip.Addr
	since time.Time
}

// NewMux wraps a listener. Prefer Identity.NewMux, which also closes connections of boxes that get revoked.
func NewMux(l net.Listener, cfg *tls.Config, log *slog.Logger) *Mux {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Mux{
		l: l, cfg: cfg, log: log, conns: newConnTable(), revoked: func(string) bool { return false },
		done: make(chan struct{}), subs: map[string]*muxListener{}, half: map[*halfOpen]struct{}{},
	}
}

// NewMux wraps the listener that other boxes dial.
func (i *Identity) NewMux(l net.Listener) *Mux {
	m := NewMux(l, i.SwarmServer(), i.log)
	m.conns, m.revoked = i.conns, i.Revoked
	return m
}

// Listener gives the connections that negotiated this protocol, as *tls.Conn whose handshake is done. It must be asked for
// before Run, once for each protocol. Connections of a protocol that nobody listens for are closed.
func (m *Mux) Listener(alpn string) net.Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.subs[alpn]; s != nil {
		return s
	}
	s := &muxListener{m: m, ready: make(chan net.Conn, acceptQueue), closed: make(chan struct{})}
	m.subs[alpn] = s
	return s
}

// Run accepts until ctx ends, then closes the listener and what nobody has taken. Connections that were taken stay.
func (m *Mux) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		m.once.Do(func() { close(m.done) })
		wg.Wait()
		m.drain()
	}()
	stop := context.AfterFunc(ctx, func() { m.l.Close() })
	defer stop()
	var pause time.Duration
	for {
		raw, err := m.l.Accept()
		if err == nil {
			pause = 0
			if h := m.admit(raw); h != nil {
				wg.Go(func() { m.serve(ctx, h) })
			}
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Out of file descriptors or memory: wait for some to come back.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		m.log.Warn("accept failed", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// admit makes room for one more handshake, or closes the connection.
func (m *Mux) admit(raw net.Conn) *halfOpen {
	h := &halfOpen{conn: m.conns.wrap(raw), host: hostOf(raw.RemoteAddr()), since: time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	var oldest *halfOpen
	same := 0
	for o := range m.half {
		if o.host == h.host {
			same++
		}
		if oldest == nil || o.since.Before(oldest.since) {
			oldest = o
		}
	}
	if len(m.half) >= maxHandshakes && h.since.Sub(oldest.since) > evictHandshakes {
		delete(m.half, oldest)
		oldest.conn.Close()
	}
	if len(m.half) >= maxHandshakes || same >= maxHandshakesOf {
		m.refused.crowded.Add(1)
		raw.Close()
		return nil
	}
	m.half[h] = struct{}{}
	return h
}

func (m *Mux) serve(ctx context.Context, h *halfOpen) {
	tc := tls.Server(h.conn, m.cfg)
	err := h.conn.handshake(ctx, tc)
	m.mu.Lock()
	delete(m.half, h)
	m.mu.Unlock()
	if err == nil {
		err = m.deliver(tc, h.conn)
	}
	if err != nil {
		h.conn.Close()
		m.refused.count(err)
		if !errors.Is(err, io.EOF) {
			m.log.Debug("connection refused", "remote", h.conn.RemoteAddr(), "error", err)
		}
	}
}

func (m *Mux) deliver(tc *tls.Conn, live *liveConn) error {
	cs := tc.ConnectionState()
	for _, s := range serialsOf(cs) {
		if m.revoked(s) {
			return ErrRevoked
		}
	}
	if all, ofBox := m.conns.counts(live.box); all > maxAccepted || ofBox > maxAcceptedOfBox {
		return errCrowded
	}
	m.mu.Lock()
	sub := m.subs[cs.NegotiatedProtocol]
	m.mu.Unlock()
	if sub == nil {
		return errors.New("nobody listens for this protocol")
	}
	select {
	case <-m.done:
		return net.ErrClosed
	case <-sub.closed:
		return net.ErrClosed
	default:
	}
	select {
	case sub.ready <- tc:
		return nil
	default:
		return errors.New("nobody accepts connections of this protocol")
	}
}

// drain closes what was handed over but not taken.
func (m *Mux) drain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.subs {
		s.drain()
	}
}

func hostOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	host := ap.Addr().Unmap()
	if host.Is6() {
		// One subscriber has a whole /64.
		if p, err := host.WithZone("").Prefix(64); err == nil && !host.IsLinkLocalUnicast() {
			return p.Addr()
		}
	}
	return host
}

type muxListener struct {
	m      *Mux
	ready  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *muxListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.m.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.closed:
	case <-l.m.done:
	}
	return nil, net.ErrClosed
}

// Close stops this protocol only; the port stays open for the other.
func (l *muxListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.drain()
	return nil
}

func (l *muxListener) Addr() net.Addr { return l.m.l.Addr() }

func (l *muxListener) drain() {
	for {
		select {
		case c := <-l.ready:
			c.Close()
		default:
			return
		}
	}
}
