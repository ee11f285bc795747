// Package engine drives anacrolix/torrent as a swarm whose every connection is dialled and accepted by us: over mutual
// TLS, known to be LAN or WAN, counted and paced there, and named after the box at its other end.
//
// Invariants: the library discovers nobody and opens no socket of its own. No byte is read from the store for a peer
// unless its piece is verified. After the store has refused to mark a piece the torrent is never served again until it is
// dropped and loaded anew. After Drop returns nothing more is written to the store. A ban hits a box, never an address
// that it shares with others. The engine's mutex is a leaf: no call into the library is made while it is held.
package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/anacrolix/torrent"
	"golang.org/x/time/rate"

	"boxd/internal/asset"
	"boxd/internal/fetch/pace"
)

// Class says which link a connection uses.
type Class int

// The classes. LAN traffic never spends what the access line may carry.
const (
	LAN Class = iota
	WAN
	numClasses
)

func (c Class) String() string { return [...]string{"lan", "peer"}[c] }

// ErrNotRunning is returned while the engine does not run.
var ErrNotRunning = errors.New("the swarm engine does not run")

// Options of an Engine.
type Options struct {
	// ClientTLS returns the configuration for a dial to the box, or to any box if the name is empty. Nil means plain
	// connections without certificates, which only a test fleet uses.
	ClientTLS func(box, sni string) *tls.Config
	// Handshake makes a TLS connection of a dialled one; nil means crypto/tls alone.
	Handshake func(ctx context.Context, raw net.Conn, conf *tls.Config) (*tls.Conn, error)
	// PeerOf names the box at the other end.
	PeerOf func(tls.ConnectionState) (box string, err error)
	// Listener hands over accepted connections, as *tls.Conn after their handshake; nil means that nobody can dial us.
	Listener net.Listener
	Self     func() string // our own box id, to refuse a connection to ourselves
	IsLAN    func(netip.Addr) bool
	// Home reports that a box is in the household, and so is to be talked to over the LAN only; nil: none is.
	Home func(box string) bool
	// Lazy loads a torrent that a dialler named and that is not loaded; it reports whether it is now.
	Lazy func(ctx context.Context, id asset.ID) bool
	// Taken recognises a store's refusal of bytes that somebody else has brought meanwhile; nil: none.
	Taken func(error) bool
	// OnFailure is told, once, of a store that failed. It must not block.
	OnFailure func(id asset.ID, err error)
	Dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	Block     int // what is asked for at one time, in bytes; default: see ownBlock
	Limits    Limits
	Sockets   *pace.Sockets // watches connections over the access line; nil: nobody does
	Log       *slog.Logger
}

// ownBlock is what boxes ask each other for at one time: four times what stock clients, which have no part in a swarm with
// certificates, answer to. It saves both ends much of the work.
const ownBlock = 64 << 10

// Limits bound what the engine uses; zero fields take the defaults that suit a box with 512 MiB.
type Limits struct {
	PeersPerTorrent int   // connections of one torrent, default 30
	HalfOpen        int   // dials at one time, default 16
	UploadSlots     int   // WAN peers that are served at one time by a complete torrent, default 8
	RequestBytes    int   // read ahead for each peer that is being served, default 128 KiB
	Known           int   // addresses kept for each torrent, default 100
	Hashers         int   // default 1
	Unverified      int64 // bytes; kept zero (see config)
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.PeersPerTorrent, 30)
	def(&l.HalfOpen, 16)
	def(&l.UploadSlots, 8)
	def(&l.RequestBytes, 128<<10)
	def(&l.Known, 100)
	def(&l.Hashers, 1)
	return l
}

// Engine is a swarm. Its methods may be called from any goroutine.
type Engine struct {
	opts  Options
	log   *slog.Logger
	down  *pace.Bucket // WAN, all torrents
	up    *pace.Bucket
	lan   *pace.Bucket  // both ways
	ready chan struct{} // closed when client is set
	inbox *inbox
	lazy  chan struct{} // bounds the torrents that are being loaded for a dialler
	greet chan struct{} // bounds the unsecured connections that have not said what they want

	client *torrent.Client // set before ready closes

	mu       sync.Mutex // guards the fields below; a leaf
	torrents map[asset.ID]*swarm
	conns    map[*conn]struct{}
	targets  map[string]*remote    // by the address that the library dials
	pseudo   map[netip.Addr]string // box by the address that the library knows
	bans     bans
	slots    uint16
	changed  chan struct{}
}

// New returns an engine that has started nothing.
func New(opts Options) *Engine {
	opts.Limits = opts.Limits.withDefaults()
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Dial == nil {
		opts.Dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	if opts.Block == 0 && opts.ClientTLS != nil {
		opts.Block = ownBlock
	}
	if opts.Handshake == nil {
		opts.Handshake = handshake
	}
	if opts.Taken == nil {
		opts.Taken = func(error) bool { return false }
	}
	if opts.Home == nil {
		opts.Home = func(string) bool { return false }
	}
	if opts.Self == nil {
		opts.Self = func() string { return "" }
	}
	return &Engine{
		opts: opts, log: opts.Log,
		down: pace.NewBucket(pace.Unlimited), up: pace.NewBucket(pace.Unlimited), lan: pace.NewBucket(pace.Unlimited),
		ready: make(chan struct{}), inbox: newInbox(opts.Listener), lazy: make(chan struct{}, 16),
		greet:    make(chan struct{}, maxGreeted),
		torrents: map[asset.ID]*swarm{}, conns: map[*conn]struct{}{}, targets: map[string]*remote{},
		pseudo: map[netip.Addr]string{}, bans: newBans(), changed: make(chan struct{}),
	}
}

// Down is the bucket that all bytes from the WAN go through, the origin's too.
func (e *Engine) Down() *pace.Bucket { return e.down }

// Up is the bucket of all bytes to the WAN.
func (e *Engine) Up() *pace.Bucket { return e.up }

// LAN is the bucket of all bytes from and to boxes of the home: it takes nothing from the other two.
func (e *Engine) LAN() *pace.Bucket { return e.lan }

// Ready is closed when torrents can be loaded.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Changed returns a channel that is closed when peers come, go or make progress.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// wakeLocked tells who waits on Changed. e.mu is held.
func (e *Engine) wakeLocked() {
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *Engine) config() *torrent.ClientConfig {
	c := torrent.NewDefaultClientConfig()
	c.DisableTCP, c.DisableUTP, c.NoDHT, c.DisablePEX = true, true, true, true
	c.DisableWebtorrent, c.DisableWebseeds, c.DisableTrackers = true, true, true
	c.NoDefaultPortForwarding, c.DialForPeerConns = true, false
	c.DisableIPv6, c.DisableIPv4 = false, false
	c.HeaderObfuscationPolicy = torrent.HeaderObfuscationPolicy{RequirePreferred: true}
	c.Seed, c.DropDuplicatePeerIds, c.DropMutuallyCompletePeers = true, true, true
	c.AlwaysWantConns = true
	c.StealRequestGrace = time.Second // a block that was asked for lately is most likely on its way
	c.DefaultStorage = refuseStorage{}
	// Not bounded by the library: pieces that no connected peer has come first in its order and would use up the
	// bound, so that nothing is asked from peers that have only a part. Unverified bytes are on disk, not in memory.
	c.MaxUnverifiedBytes = e.opts.Limits.Unverified
	c.MaxAllocPeerRequestDataPerConn = e.opts.Limits.RequestBytes
	c.EstablishedConnsPerTorrent = e.opts.Limits.PeersPerTorrent
	c.HalfOpenConnsPerTorrent = e.opts.Limits.HalfOpen
	c.TotalHalfOpenConns = e.opts.Limits.HalfOpen
	c.TorrentPeersHighWater = e.opts.Limits.Known
	c.TorrentPeersLowWater = 1
	c.PieceHashersPerTorrent = e.opts.Limits.Hashers
	c.NominalDialTimeout, c.MinDialTimeout = 15*time.Second, 5*time.Second
	c.HandshakesTimeout = 10 * time.Second
	c.DialRateLimiter = rate.NewLimiter(50, 50)
	c.ExtendedHandshakeClientVersion, c.Bep20 = "boxd", "-BX0001-"
	c.Slogger = slog.New(quiet{e.log.Handler()})
	c.Callbacks.ReadMessage = e.onMessage
	c.Callbacks.ReceivedUsefulData = append(c.Callbacks.ReceivedUsefulData, e.onUseful)
	c.Callbacks.PeerConnAdded = append(c.Callbacks.PeerConnAdded, e.onAdded)
	return c
}

// Run serves until ctx ends. It returns an error when the engine cannot start.
func (e *Engine) Run(ctx context.Context) error {
	client, err := torrent.NewClient(e.config())
	if err != nil {
		return fmt.Errorf("start the swarm engine: %w", err)
	}
	client.AddDialer(dialer{e})
	client.AddListener(e.inbox)
	e.client = client
	close(e.ready)

	var wg sync.WaitGroup
	if e.opts.Listener != nil {
		wg.Go(func() { e.accept(ctx, &wg) })
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-t.C:
			e.tick(time.Now())
		}
	}
	client.Close()
	e.inbox.close()
	e.closeConns(func(*conn) bool { return true })
	if e.opts.Listener != nil {
		_ = e.opts.Listener.Close() // its only reader stops here
	}
	wg.Wait()
	e.waitConns()
	return nil
}

// waitConns returns when the library has let go of every connection, or after a while.
func (e *Engine) waitConns() {
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	for {
		e.mu.Lock()
		n, changed := len(e.conns), e.changed
		e.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-deadline.C:
			e.log.Warn("connections outlived the swarm engine", "count", n)
			return
		case <-changed:
		}
	}
}

func (e *Engine) tick(now time.Time) {
	e.learnBans(now)
	e.judge(now)
	e.redial(now)
}

func (e *Engine) swarm(id asset.ID) (*swarm, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.torrents[id]
	return s, ok
}
