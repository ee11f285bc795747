package fetch

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/pace"
	"boxd/internal/health"
	"boxd/internal/lan"
	"boxd/internal/schedule"
)

// Asset is one asset of the cache.
type Asset interface {
	engine.Store
	HaveCount() int
	Bytes() int64 // verified
	Complete() bool
	Durable() bool // all of it survives power loss
	Reserved() int64
	Unknown() int // pieces that are being hashed again; not to be fetched yet
	Demand() []Span
	Changed() <-chan struct{}
	Hold() (release func())
}

// Span is pieces [First, End) that a reader needs.
type Span struct {
	First, End int
	Soon       bool // it waits for them, or will within seconds
	Now        bool // the first of them is the first that it lacks, and soon
}

// Attr is what the cache must know about an asset to decide what to evict.
type Attr struct {
	Name, Version, Publisher string
	Priority                 int
	Deadline, KeepUntil      time.Time
	PrefixBytes              int64 // reserve only so much from the front; 0 is all
	NeighbourHolds           bool
}

// Cache is where assets are kept; FromCache makes one of a *cache.Cache.
type Cache interface {
	Create(torrent []byte, attr Attr) (Asset, error)
	Asset(id asset.ID) (Asset, bool)
	IDs() []asset.ID
	SetAttr(id asset.ID, attr Attr) error
	Remove(id asset.ID, why string) error
	Pin(id asset.ID, pin bool) error
	Pinned(id asset.ID) bool
	OnEvict(func(asset.ID))
	Changed() <-chan struct{}
	Waiting() <-chan struct{} // closed when a player comes to wait for something else than before
}

// Catalog is what the operator wants.
type Catalog interface {
	Snapshot() *catalog.Snapshot
	Changed() <-chan struct{}
}

// LAN is the household. Nil means that there is none.
type LAN interface {
	SetSelf(lan.Self)
	Neighbours() []lan.Neighbour
	Courier(asset.ID) (box string, self bool)
	IsLAN(netip.Addr) bool
	Changed() <-chan struct{}
}

// Identity is who this box is.
type Identity interface {
	BoxID() string
	Group() string
	Now() (time.Time, bool)
}

// Store keeps counters across restarts; *state.DB is one.
type Store interface {
	Get(bucket string, key []byte) ([]byte, bool, error)
	Put(bucket string, key, val []byte) error
	Delete(bucket string, key []byte) error
}

// Swarm is the engine, or a scripted one.
type Swarm interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
	Changed() <-chan struct{}
	Load(store engine.Store, p engine.Policy, down *pace.Bucket) error
	Drop(id asset.ID) (last engine.Stats, ok bool)
	SetPolicy(id asset.ID, p engine.Policy)
	SetPriorities(id asset.ID, want []engine.Priority)
	Refresh(id asset.ID, pieces ...int)
	AddPeers(id asset.ID, peers ...engine.Peer)
	Stats(id asset.ID) (engine.Stats, bool)
	Availability(id asset.ID, class engine.Class) []int
	Pardon(box string)
	Banned() []string
	Down() *pace.Bucket
	Up() *pace.Bucket
}

// Limits are what the box's owner and its operator allow. A zero schedule.Limit is no limit; LimitTo(0) stops.
type Limits struct {
	WANDown, WANUp schedule.Limit // bytes per second
	LAN            schedule.Limit // bytes per second within the home, both ways together
	Budget         schedule.Limit // bytes over the WAN in a calendar month
	MaxActive      int            // assets that use the WAN at one time; default schedule.DefaultMaxActive
	MaxLoaded      int            // torrents loaded at one time, default 16
	UploadOff      bool           // nothing is sent to the WAN
	UploadRatio    float64        // bytes sent over the WAN for each byte of the asset; 0: default 2
	PlaybackOff    bool           // playing does not open the WAN outside the windows
}

// Options of a Fetcher. Cache, Catalog, Identity and Swarm are required.
type Options struct {
	Cache    Cache
	Catalog  Catalog
	Identity Identity
	LAN      LAN
	State    Store
	// NewSwarm makes the engine; the Fetcher gives it what it needs of itself.
	NewSwarm func(Hooks) Swarm
	// Taken recognises a store's refusal of bytes that somebody else has brought meanwhile. May be nil.
	Taken func(error) bool
	// Origin and Tracker speak HTTP; see origin.Client.
	Origin, Tracker *http.Client
	// Tracker6 announces over IPv6, beside Tracker, which then does so over IPv4: the tracker learns both addresses of the box.
	// Nil: Tracker alone, over whichever family it takes.
	Tracker6   *http.Client
	TrackerURL string   // empty: no tracker
	OriginURLs []string // used for assets whose .torrent names no web seed
	Port       int      // where the swarm listens
	// ExternalPort is where it is reached from outside, if a router maps it; nil: Port. See package portmap.
	ExternalPort func() int
	// ExternalPort6 is the same for what Tracker6 announces.
	ExternalPort6 func() int
	Class         func() int // how good a courier this box would be, 0 to 2, see lan.Self; nil: 0
	Location      *time.Location
	Limits        Limits
	Probe         Probe
	Health        *health.Set
	Log           *slog.Logger
}

// Hooks is what the engine calls back.
type Hooks struct {
	Lazy      func(ctx context.Context, id asset.ID) bool
	OnFailure func(id asset.ID, err error)
	IsLAN     func(netip.Addr) bool
	Home      func(box string) bool // the box is in the household: it is talked to over the LAN only
	Sockets   *pace.Sockets         // connections over the access line go here
}

// Validate joins all faults.
func (o *Options) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("fetch: no "+what))
		}
	}
	need(o.Cache != nil, "cache")
	need(o.Catalog != nil, "catalog")
	need(o.Identity != nil, "identity")
	need(o.NewSwarm != nil, "swarm")
	return errors.Join(errs...)
}
