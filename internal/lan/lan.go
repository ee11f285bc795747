// Package lan knows the household: which boxes of this fleet are on the same LAN, what they want and hold, and which
// one of them is the courier of an asset, the box that carries it over the access line for all.
//
// Boxes find each other by mDNS (`_boxd._tcp`) or a static list, keep one mutually authenticated connection to each
// other, and tell each other their state over it whenever it changes. Every box computes the couriers by itself from
// what it knows; nobody is asked and nobody decides for others. docs/home.md describes the protocol.
//
// Invariants: what mDNS says is a hint, a box counts only after mutual TLS with a certificate of its fleet and its
// first state; only addresses on the same link, or in a prefix that the config names, are dialled or accepted; at
// most MaxNeighbours boxes, and candidates, messages and their lists are all bounded; a neighbour that is silent for
// a few seconds is gone, one that says goodbye at once; when two boxes have seen each other's state they agree on
// every courier.
package lan

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/health"
	"boxd/internal/identity"
)

// ALPN is the protocol name of household connections.
const ALPN = identity.ALPNHome

// Limits, all of them per box.
const (
	MaxNeighbours = 64   // admitted boxes
	MaxWants      = 128  // wants that a box tells
	MaxHolds      = 1024 // whole assets that a box tells, those that neighbours want first
	MaxDemand     = 64   // piece spans that a box's player needs next
)

// Times of the protocol.
const (
	heartbeat     = time.Second            // between pings while somebody wants something
	silence       = 3 * time.Second        // then a neighbour is dead
	idleHeartbeat = 5 * time.Second        // the same when nobody wants anything
	idleSilence   = 12 * time.Second       //
	hearTime      = 150 * time.Millisecond // after a box begins to want something, so that it hears who else does
	settleTime    = 3 * time.Second        // after a start, a sleep or a change of interfaces nobody makes itself courier
	stallAfter    = 30 * time.Second       // a courier whose asset has not moved for so long is voted down
	vetoFor       = time.Minute            // how long a vote stands
	holderVetoFor = 10 * time.Minute       // how long one against a box that holds the asset and does not give it
	longPowered   = 10 * time.Minute       // a box that was on for so long will probably stay on
	slowAfter     = 10 * time.Second       // a courier that is half as fast as another box for so long yields
	fasterNow     = 3                      // times faster at the same moment, on the same line
	tick          = 500 * time.Millisecond
)

// Identity is what this package needs of the box's identity.
type Identity interface {
	BoxID() string // "" until enrolled
	Fleet() string
	// SwarmClient is the TLS config to dial a box; boxID "" takes any box of the fleet.
	SwarmClient(boxID, sni, alpn string) *tls.Config
	// Client shakes hands over raw, which it closes when that fails, and ends the connection when the other end's
	// certificate is revoked; so must the Listener's maker do for its connections.
	Client(ctx context.Context, raw net.Conn, cfg *tls.Config) (*tls.Conn, error)
	Changed() <-chan struct{}
}

// Options says how to be in a household.
type Options struct {
	Identity   Identity
	PeerOf     func(tls.ConnectionState) (boxID, fleet string, err error) // who is at the other end; nil: identity.PeerOf
	Listener   net.Listener                                               // handshaken *tls.Conn; Run closes it
	Port       int                                                        // the port to announce: the swarm's and the household's
	Static     []string                                                   // host:port of neighbours, for networks without multicast
	MDNS       bool
	Interfaces []string       // names to use; none: all that are up and can multicast
	Prefixes   []netip.Prefix // LAN beside what is on-link
	Health     *health.Set
	Log        *slog.Logger

	nics     func() ([]nic, error)                            // the interfaces now; tests bring their own
	watch    func(ctx context.Context, moved chan<- struct{}) // signals when they may have changed
	discover discoverer
	dial     func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	now      func() time.Time
}

// Want is an asset that a box wants and does not hold whole.
type Want struct {
	ID       asset.ID
	InFlight bool  // being fetched: the class that the box announces for it stays as it is
	Have     int   // verified pieces
	NoWAN    bool  // its plan does not let it use the WAN for this asset now: it cannot be the courier
	WANBytes int64 // bytes of it that came over the WAN: how others see that a courier moves
	WANRate  int64 // bytes/s over the WAN lately
	Paced    bool  // that is not what its way to the WAN gives, but what a limit or the swarm allows
	Stalled  bool  // the WAN gives this box nothing: another should be the courier
	Acting   bool  // set by this package in what neighbours told: it acts as the courier
}

// Demand is a span of pieces that a player of the box needs next; Last is included.
type Demand struct {
	ID          asset.ID
	First, Last int
	Soon        bool // within seconds; else it is read-ahead
}

// Self is what this box tells its neighbours.
type Self struct {
	Wants   []Want // most urgent first
	Holds   []asset.ID
	Class   int   // 0 best to 2; what is told is one worse on Wi-Fi, and one worse in a daemon's first minutes
	WAN     bool  // it can reach the WAN
	WANRate int64 // bytes/s that it lately got over the WAN for anything, 0 unknown
	Demand  []Demand
	Got     []Got // what it got over the LAN from each box, at most MaxNeighbours
	WANGot  int64 // bytes that it got over the access line
}

// Got is how many bytes a box got from another over the LAN.
type Got struct {
	Box   string `json:"box"`
	Bytes int64  `json:"bytes"`
}

// Neighbour is an admitted box. Its slices are shared and never changed: do not write to them.
type Neighbour struct {
	ID       string
	Addr     netip.AddrPort // where its swarm listens
	Wants    []Want
	Holds    []asset.ID
	Class    int
	WAN      bool
	WANRate  int64
	Demand   []Demand
	Got      []Got // what it says that it got from each box
	WANGot   int64
	Health   health.Severity // of the worst warning that it has; empty: none
	Since    time.Time       // admitted
	LastSeen time.Time
	RTT      time.Duration // smoothed; 0 unknown
}

// LAN is the household as this box sees it. Its methods may be called from any goroutine.
type LAN struct {
	opt   Options
	log   *slog.Logger
	nonce string // of this run: tells a restarted neighbour from a second connection, and a cloned identity from our own
	stats counters
	wg    sync.WaitGroup

	mu       sync.Mutex // guards all below
	running  bool
	twin     time.Time // when another box with our identity was last met
	id       string    // own box id, "" until enrolled
	fleet    string
	self     Self
	frozen   map[asset.ID]int       // class of wants in flight
	acting   map[asset.ID]bool      // own courierships
	yielded  map[asset.ID]bool      // couriership given up until the want is gone
	slow     map[asset.ID]time.Time // since when another box would be twice as fast
	watch    map[asset.ID]progress  // the couriers' progress, for votes
	told     map[asset.ID]string    // the couriers of what is wanted, as the watchers were last woken for
	vetoes   map[veto]time.Time     // own votes and their ends
	settled  time.Time              // not courier before this
	heard    map[asset.ID]time.Time // nor of this asset before this
	anew     chan struct{}          // something is wanted anew
	links    map[string]*link       // admitted, by box id
	pending  int                    // inbound connections that are not admitted yet
	found    *candidates
	dialling map[netip.AddrPort]bool
	onlink   []netip.Prefix
	own      map[netip.Addr]bool
	radio    bool       // there is no way into the home but Wi-Fi
	started  time.Time  // Run
	ticked   time.Time  // the loop was alive: after a sleep nobody acts on what was before it
	last     *wireState // own state as last encoded
	frame    []byte     // the same, framed
	seq      uint64     // of frame
	urgent   uint64     // seq of the last change that neighbours must hear at once
	changed  chan struct{}
}

// New checks the options; Run starts.
func New(opt Options) (*LAN, error) {
	var errs []error
	if opt.Identity == nil {
		errs = append(errs, errors.New("no identity"))
	}
	if opt.Listener == nil {
		errs = append(errs, errors.New("no listener"))
	}
	if opt.Port < 1 || opt.Port > 65535 {
		errs = append(errs, fmt.Errorf("port %d is not 1 to 65535", opt.Port))
	}
	if len(opt.Static) > MaxNeighbours {
		errs = append(errs, fmt.Errorf("%d static neighbours, at most %d", len(opt.Static), MaxNeighbours))
	}
	for _, s := range opt.Static {
		if _, _, err := net.SplitHostPort(s); err != nil {
			errs = append(errs, fmt.Errorf("static neighbour: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("lan options: %w", err)
	}
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // never fails
	l := &LAN{
		opt: opt, log: opt.Log, nonce: hex.EncodeToString(nonce[:]),
		frozen: map[asset.ID]int{}, acting: map[asset.ID]bool{}, yielded: map[asset.ID]bool{},
		heard: map[asset.ID]time.Time{}, anew: make(chan struct{}, 1),
		slow: map[asset.ID]time.Time{}, watch: map[asset.ID]progress{}, vetoes: map[veto]time.Time{},
		told:  map[asset.ID]string{},
		links: map[string]*link{}, found: newCandidates(), dialling: map[netip.AddrPort]bool{},
		own: map[netip.Addr]bool{}, changed: make(chan struct{}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.opt.nics == nil {
		l.opt.nics = func() ([]nic, error) { return systemNICs(opt.Interfaces) }
	}
	if l.opt.watch == nil {
		l.opt.watch = watchNICs
	}
	if l.opt.discover == nil {
		l.opt.discover = multicastDNS
	}
	if l.opt.dial == nil {
		l.opt.dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to.String())
		}
	}
	if l.opt.PeerOf == nil {
		l.opt.PeerOf = func(cs tls.ConnectionState) (boxID, fleet string, err error) {
			p, err := identity.PeerOf(cs)
			return p.BoxID, p.Fleet, err
		}
	}
	if l.opt.now == nil {
		l.opt.now = time.Now
	}
	l.found.ownPort = uint16(opt.Port)
	l.mu.Lock()
	l.readNICs()
	l.encode()
	l.mu.Unlock()
	return l, nil
}

// Changed returns a channel that is closed at the next change of the household: a box came or went or told something
// new, a courier changed, or what is LAN.
func (l *LAN) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *LAN) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// SetSelf tells the neighbours, in time, what this box wants and holds. The slices are kept: do not change them. Who calls
// this waits for Changed, too: its own word wakes nobody, only a courier that it changes does.
func (l *LAN) SetSelf(s Self) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Wants = s.Wants[:min(len(s.Wants), MaxWants)]
	s.Demand = s.Demand[:min(len(s.Demand), MaxDemand)]
	s.Got = s.Got[:min(len(s.Got), MaxNeighbours)]
	s.Class = min(max(s.Class, 0), worstClass)
	l.self = s
	l.forgetWants()
	if l.electAll() {
		l.wake()
	}
	l.encode()
}

// Neighbours returns the admitted boxes, ordered by id.
func (l *LAN) Neighbours() []Neighbour {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]Neighbour, 0, len(l.links))
	for _, k := range l.links {
		list = append(list, k.neighbour())
	}
	sortNeighbours(list)
	return list
}

// Courier returns the box that carries the asset over the access line. It is "" when a neighbour holds the asset
// whole and is not voted down, when no box may use the WAN for it, and as long as this box has not looked round yet.
func (l *LAN) Courier(id asset.ID) (boxID string, self bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	boxID = l.courier(id)
	return boxID, boxID != "" && boxID == l.id
}

// IsLAN reports whether an address is in the home: on-link, this machine's own, or in a prefix of the config.
func (l *LAN) IsLAN(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isLAN(a)
}

// Run takes part in the household until ctx ends.
func (l *LAN) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	if l.running {
		l.mu.Unlock()
		return errors.New("lan: Run called twice")
	}
	l.running, l.started = true, l.opt.now()
	l.settle()
	l.mu.Unlock()

	moved := make(chan struct{}, 1) // interfaces changed
	l.spawn(func() { l.accept(ctx, cancel) })
	l.spawn(func() { l.opt.watch(ctx, moved) })
	l.spawn(func() { l.loop(ctx, moved) })
	<-ctx.Done()
	_ = l.opt.Listener.Close() // unblocks accept; a mux that is closed already says so, which is no news
	l.wg.Wait()
	return nil
}

func (l *LAN) spawn(f func()) {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		f()
	}()
}

// settle holds couriership back for a moment: who has just started, slept or moved does not know who else is there.
func (l *LAN) settle() {
	if l.opt.MDNS || len(l.opt.Static) > 0 {
		l.settled = l.opt.now().Add(settleTime)
	}
}
