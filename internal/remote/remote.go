// Package remote plays what another box of the home holds, for a box whose cache has no room for it.
//
// Boxes talk HTTP/1.1 over a protocol of their own (ALPN) on the swarm's port: GET /<infohash>/<piece> returns one piece.
// docs/home.md describes it.
//
// Invariants: a byte reaches the player only after its piece had the hash that the signed metainfo names, whoever sent
// it; only boxes of the fleet on the LAN are asked or answered; nothing is stored; at most MaxReaders players and
// maxServed requests at a time, with at most two pieces in memory for each player; nothing waits for ever.
package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"boxd/internal/asset"
	"boxd/internal/identity"
	"boxd/internal/lan"
)

// ALPN is the protocol's name.
const ALPN = identity.ALPNRead

// Bounds.
const (
	MaxReaders  = 4                // players at a time on a box
	maxPiece    = 8 << 20          // bytes; assets with larger pieces are not played from afar
	maxServed   = 4                // requests that a box answers at a time
	idleTimeout = 20 * time.Second // without a chunk, not counting what our own pace makes it wait
	dialTimeout = 3 * time.Second
	patience    = 10 * time.Second // for a piece that nobody in the home gives at the moment
)

// What Open fails with.
var (
	ErrNobody = errors.New("no box of this home holds it")
	ErrBusy   = errors.New("too many players read from other boxes")
)

// Identity is who this box is; *identity.Identity is one.
type Identity interface {
	SwarmClient(boxID, sni, alpn string) *tls.Config
	Client(ctx context.Context, raw net.Conn, cfg *tls.Config) (*tls.Conn, error)
}

// Household is the home; *lan.LAN is one.
type Household interface {
	Neighbours() []lan.Neighbour
	IsLAN(addr netip.Addr) bool
}

// Store is an asset of this box's cache; *cache.Asset is one.
type Store interface {
	Info() *asset.Info
	ReadVerifiedAt(p []byte, off int64) (int, error)
	Hold() (release func())
}

// Options of a Remote. All but Listener, Pay and Log are required.
type Options struct {
	Identity Identity
	Home     Household
	Asset    func(id asset.ID) (Store, bool) // of this box's cache
	Listener net.Listener                    // of ALPN, handshaken *tls.Conn; nil: nobody is answered
	Log      *slog.Logger
	// Pay waits until n bytes may cross the LAN, or done closes; nil: no limit.
	Pay func(n int, done <-chan struct{}) error
}

// Remote reads from other boxes and answers theirs.
type Remote struct {
	o       Options
	log     *slog.Logger
	client  *http.Client
	seats   chan struct{} // of players here
	serving chan struct{}

	idle, patience time.Duration // the constants, but in tests

	played, served, wrong atomic.Int64
}

// Stats counts since the start.
type Stats struct {
	Played int64 // bytes that players here got from other boxes
	Served int64 // bytes given to other boxes
	Wrong  int64 // pieces that other boxes sent with a wrong hash
}

// New checks the options and starts nothing.
func New(o Options) (*Remote, error) {
	if o.Identity == nil || o.Home == nil || o.Asset == nil {
		return nil, errors.New("remote: Identity, Home and Asset are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Pay == nil {
		o.Pay = func(int, <-chan struct{}) error { return nil }
	}
	r := &Remote{
		o: o, log: o.Log, seats: make(chan struct{}, MaxReaders), serving: make(chan struct{}, maxServed),
		idle: idleTimeout, patience: patience,
	}
	r.client = &http.Client{Transport: &http.Transport{
		DialTLSContext: r.dial, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxIdleConnsPerHost: 1, MaxIdleConns: 2 * MaxReaders, IdleConnTimeout: 30 * time.Second,
		DisableCompression: true, MaxResponseHeaderBytes: 4 << 10,
	}}
	return r, nil
}

// Stats returns the counters.
func (r *Remote) Stats() Stats {
	return Stats{Played: r.played.Load(), Served: r.served.Load(), Wrong: r.wrong.Load()}
}

// holders lists the boxes of the home that hold an asset whole.
func (r *Remote) holders(id asset.ID) (boxes []string) {
	for _, n := range r.o.Home.Neighbours() {
		for _, h := range n.Holds {
			if h == id {
				boxes = append(boxes, n.ID)
				break
			}
		}
	}
	return boxes
}

// dial connects to the box that the address names: its host is the box id.
func (r *Remote) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	box, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	for _, n := range r.o.Home.Neighbours() {
		if n.ID != box {
			continue
		}
		d := net.Dialer{Timeout: dialTimeout}
		raw, err := d.DialContext(ctx, "tcp", n.Addr.String())
		if err != nil {
			return nil, err
		}
		return r.o.Identity.Client(ctx, raw, r.o.Identity.SwarmClient(box, "read.boxd", ALPN))
	}
	return nil, fmt.Errorf("dial %s: %w", box, ErrNobody)
}
