package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// dialer is what the library dials with: the address it is given is one that we made up.
type dialer struct{ e *Engine }

// DialerNetwork names the network for the library's statistics.
func (dialer) DialerNetwork() string { return "tcp" }

// Dial connects to the box behind a made-up address.
func (d dialer) Dial(ctx context.Context, addr string) (net.Conn, error) {
	e := d.e
	e.mu.Lock()
	r, ok := e.targets[addr]
	if ok {
		r = &remote{key: r.key, box: r.box, class: r.class, addr: r.addr, swarm: r.swarm}
	}
	e.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("dial %s: no longer known", addr)
	}
	nc, err := e.dialBox(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", r.box, r.addr, err)
	}
	c := e.newConn(nc, r, true)
	if !e.track(c) {
		_ = nc.Close() // it is not wanted
		return nil, fmt.Errorf("dial %s: not allowed now", r.box)
	}
	return c, nil
}

func (e *Engine) dialBox(ctx context.Context, r *remote) (net.Conn, error) {
	raw, err := e.opts.Dial(ctx, "tcp", r.addr.String())
	if err != nil {
		return nil, err
	}
	raw = newWire(raw)
	if e.opts.ClientTLS == nil {
		return raw, nil
	}
	hctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tc, err := e.opts.Handshake(hctx, raw, e.opts.ClientTLS(r.box, ServerName(r.swarm.id)))
	if err != nil {
		return nil, err
	}
	box, err := e.admit(tc, r.box)
	if err != nil {
		_ = tc.Close()
		return nil, err
	}
	r.box = box
	e.learnBox(r)
	if r.class == WAN && e.opts.Home(box) {
		_ = tc.Close()
		return nil, errors.New("it is in this home: over the LAN only")
	}
	return tc, nil
}

func handshake(ctx context.Context, raw net.Conn, conf *tls.Config) (*tls.Conn, error) {
	tc := tls.Client(raw, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is the one that matters
		return nil, err
	}
	return tc, nil
}

// admit names the box at the other end, or refuses it.
func (e *Engine) admit(tc *tls.Conn, want string) (string, error) {
	box, err := e.opts.PeerOf(tc.ConnectionState())
	switch {
	case err != nil:
		return "", err
	case box == e.opts.Self():
		return "", errors.New("that is this box itself")
	case want != "" && box != want:
		return "", fmt.Errorf("answered as %s", box)
	}
	return box, nil
}

// maxNames bounds Engine.pseudo.
const maxNames = 4096

// nameLocked notes who is behind an address that the library knows. e.mu is held.
func (e *Engine) nameLocked(a netip.Addr, name string) {
	if len(e.pseudo) >= maxNames {
		clear(e.pseudo) // bans in force are kept by name
	}
	e.pseudo[a] = name
}

// learnBox notes which box is behind an address that was made up before the box was known, so that a ban finds it.
func (e *Engine) learnBox(r *remote) {
	ap, err := netip.ParseAddrPort(r.key)
	if err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nameLocked(ap.Addr(), r.box)
	if t, ok := e.targets[r.key]; ok {
		t.box = r.box
	}
}
