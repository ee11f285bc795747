package lan

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"boxd/internal/asset"
	"boxd/internal/health"
)

const (
	dialTimeout      = 2 * time.Second
	handshakeTimeout = 5 * time.Second
	writeTimeout     = 2 * time.Second
	maxPending       = 16                     // inbound connections at once that are not admitted yet
	coalesce         = 50 * time.Millisecond  // between two states on one connection
	messagesPerSec   = 50                     // that one neighbour may make us parse; more waits in its socket
	byeTimeout       = 200 * time.Millisecond // for a goodbye at the end
)

// link is an admitted neighbour and the connection to it. The mutex of LAN guards what is below conn.
type link struct {
	lan    *LAN
	id     string
	hash   uint64
	addr   netip.AddrPort
	nonce  string
	dialer string // box id of the end that dialled
	conn   net.Conn
	since  time.Time
	wakeup chan struct{} // for the writer; never closed
	done   chan struct{} // closed when the reader has ended

	seen   time.Time
	rtt    time.Duration
	pings  uint64
	pinged time.Time
	pongs  []uint64 // to be sent
	sent   uint64   // seq of the own state that it knows
	idle   bool
	closed bool

	state  wireState
	public []Want
	demand []Demand
	wants  map[asset.ID]wireWant
	holds  map[asset.ID]bool
	vetoes map[veto]bool
}

// codeCloned is the health code of a home where another box has our identity; twinGone is how long after the last meeting it
// stays.
const (
	codeCloned = "identity-cloned"
	twinGone   = time.Hour
)

var errSelf = errors.New("connection to this box itself")

// poke makes the writer look for something to send.
func (k *link) poke() {
	select {
	case k.wakeup <- struct{}{}:
	default:
	}
}

func (k *link) neighbour() Neighbour {
	return Neighbour{
		ID: k.id, Addr: k.addr, Wants: k.public, Holds: k.state.Holds, Class: k.state.Class, WAN: k.state.WAN,
		WANRate: k.state.WANRate, Demand: k.demand, Got: k.state.Got, WANGot: k.state.WANGot, Health: k.state.Health,
		Since: k.since, LastSeen: k.seen, RTT: k.rtt,
	}
}

// accept takes household connections until the listener closes.
func (l *LAN) accept(ctx context.Context, stop func()) {
	defer stop()
	for {
		conn, err := l.opt.Listener.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				l.log.Warn("accept household connection", "err", err)
			}
			return
		}
		if !l.mayEnter(conn) {
			_ = conn.Close()
			continue
		}
		l.spawn(func() {
			err := l.serve(ctx, conn, false, func(error) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.pending--
			})
			if err != nil {
				l.log.Debug("household connection", "from", conn.RemoteAddr().String(), "err", err)
			}
		})
	}
}

// mayEnter checks the address and reserves a place among those not yet admitted.
func (l *LAN) mayEnter(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isLAN(addrOf(conn).Addr()) {
		l.stats.offLink.Add(1)
		return false
	}
	if l.pending >= maxPending {
		l.stats.refused.Add(1)
		return false
	}
	l.pending++
	return true
}

// serve greets the other end, admits it, says by entered how that went, and talks with it until the connection ends.
// It closes conn.
func (l *LAN) serve(ctx context.Context, conn net.Conn, dialled bool, entered func(error)) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(l.opt.now().Add(byeTimeout)) })
	defer stop()
	k, err := l.greet(conn, dialled)
	if err == nil {
		err = l.admit(k)
	}
	entered(err)
	if err != nil {
		return err
	}
	l.spawn(func() { k.write(ctx) })
	err = k.read(ctx)
	close(k.done)
	l.remove(k, err)
	return err
}

// greet exchanges hello and the first states.
func (l *LAN) greet(conn net.Conn, dialled bool) (*link, error) {
	id, fleet, err := l.peer(conn)
	if err != nil {
		l.stats.refused.Add(1)
		return nil, err
	}
	l.mu.Lock()
	self, own := l.id, l.fleet
	frame, seq := l.frame, l.seq
	l.mu.Unlock()
	if fleet != own || self == "" {
		l.stats.otherFleet.Add(1)
		return nil, fmt.Errorf("box %s is of fleet %q", id, fleet)
	}
	_ = conn.SetDeadline(l.opt.now().Add(handshakeTimeout))
	hello, err := encodeFrame(message{Kind: kindHello, V: protocolVersion, Port: l.opt.Port, Nonce: l.nonce})
	if err != nil {
		return nil, err
	}
	wrote := make(chan error, 1)
	l.spawn(func() {
		_, err := conn.Write(append(hello, frame...))
		wrote <- err
	})
	k, err := l.hear(conn)
	if err != nil {
		_ = conn.Close()
	}
	if werr := <-wrote; err == nil {
		err = werr
	}
	if err != nil {
		return nil, fmt.Errorf("greet %s: %w", id, err)
	}
	k.id, k.hash, k.sent, k.dialer = id, boxHash(id), seq, id
	if dialled {
		k.dialer = self
	}
	if id == self {
		if k.nonce != l.nonce {
			l.mu.Lock()
			l.twin = l.opt.now()
			l.mu.Unlock()
			l.opt.Health.Raise(health.Warning{
				Code: codeCloned, Severity: health.Critical,
				Text:   "another box in this home has the same identity (" + id + ") as this one",
				Action: "remove the identity that was copied with the image and enrol the box anew",
			})
		}
		return nil, errSelf
	}
	_ = conn.SetDeadline(time.Time{})
	return k, nil
}

// hear reads the other end's hello and first state.
func (l *LAN) hear(conn net.Conn) (*link, error) {
	k := &link{
		lan: l, conn: conn, wakeup: make(chan struct{}, 1), done: make(chan struct{}),
		since: l.opt.now(), seen: l.opt.now(),
	}
	m, err := readMessage(conn, maxHello)
	if err == nil && m.Kind != kindHello {
		err = fmt.Errorf("%w: %q where a hello belongs", errMessage, m.Kind)
	}
	if err == nil {
		k.nonce, k.addr = m.Nonce, netip.AddrPortFrom(addrOf(conn).Addr(), uint16(m.Port))
		m, err = readMessage(conn, maxFrame)
	}
	if err == nil && m.Kind != kindState {
		err = fmt.Errorf("%w: %q where a state belongs", errMessage, m.Kind)
	}
	if err != nil {
		if errors.Is(err, errMessage) {
			l.stats.malformed.Add(1)
		}
		return nil, err
	}
	k.take(m.State)
	return k, nil
}

// peer asks the connection who is at its other end.
func (l *LAN) peer(conn net.Conn) (id, fleet string, err error) {
	t, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return "", "", fmt.Errorf("connection of type %T has no TLS", conn)
	}
	id, fleet, err = l.opt.PeerOf(t.ConnectionState())
	if err == nil && (id == "" || len(id) > maxBoxID) {
		err = fmt.Errorf("box id of %d characters", len(id))
	}
	return id, fleet, err
}

// admit puts a link into the table. When two daemons dial each other at the same time both ends keep the connection
// that the box with the smaller id dialled. Otherwise the newer one wins: its maker has found the older one dead.
func (l *LAN) admit(k *link) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, had := l.links[k.id]
	preferred := min(k.id, l.id)
	switch {
	case had && old.nonce == k.nonce && old.dialer == preferred && k.dialer != preferred &&
		k.since.Sub(old.since) < handshakeTimeout:
		return fmt.Errorf("connected to %s already", k.id)
	case had:
		old.shut()
	case len(l.links) >= MaxNeighbours:
		l.stats.refused.Add(1)
		l.opt.Health.Raise(health.Warning{
			Code: "lan-full", Severity: health.Warn,
			Text: fmt.Sprintf("more than %d boxes in this home; the others are not used", MaxNeighbours),
		})
		return errors.New("enough neighbours")
	}
	l.links[k.id] = k
	l.found.admitted(k.id, k.addr, l.opt.now())
	l.stats.admitted.Add(1)
	if !had {
		l.log.Info("neighbour", "box", k.id, "addr", k.addr.String())
	}
	k.extend()
	l.refresh()
	k.poke()
	return nil
}

func (l *LAN) remove(k *link, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.shut()
	if l.links[k.id] != k {
		return
	}
	delete(l.links, k.id)
	l.found.lost(k.id, l.opt.now())
	l.log.Info("neighbour gone", "box", k.id, "why", why)
	l.opt.Health.Clear("lan-full")
	l.refresh()
}

// shut ends the connection below TLS, whose own Close may wait seconds for a dead neighbour to take its last record.
func (k *link) shut() {
	k.closed = true
	if t, ok := k.conn.(interface{ NetConn() net.Conn }); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = k.conn.Close()
}

// end is shut for who does not hold the mutex.
func (k *link) end() {
	k.lan.mu.Lock()
	defer k.lan.mu.Unlock()
	k.shut()
}

// addrOf is the other end's address, unmapped; the zero address, which is not LAN, when it has none.
func addrOf(conn net.Conn) netip.AddrPort { return unmapped(conn.RemoteAddr()) }

func localAddr(conn net.Conn) netip.Addr { return unmapped(conn.LocalAddr()).Addr().WithZone("") }

func unmapped(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
