package control

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/config"
	"boxd/internal/fetch"
	"boxd/internal/health"
	"boxd/internal/lan"
)

// Identity is who this box is; *identity.Identity is one.
type Identity interface {
	BoxID() string
	Fleet() string
	Group() string
	Enrolled() bool
	Expires() time.Time
	Now() (t time.Time, trusted bool)
	Renew(ctx context.Context) error
	Changed() <-chan struct{}
}

// Household is the home; *lan.LAN is one.
type Household interface {
	Neighbours() []lan.Neighbour
	Changed() <-chan struct{}
}

// Fetcher is what moves bytes. FromFetch makes one of a *fetch.Fetcher.
type Fetcher interface {
	State() FetchState
	Day(length time.Duration) []Slot
	SetPaused(paused bool)
	SetPlayback(active bool)
	SetLimits(l Limits)
	Alive(ctx context.Context) bool
	Changed() <-chan struct{}
}

// RemoteReader opens a file that another box of the home holds; *remote.Remote is one.
type RemoteReader interface {
	Open(ctx context.Context, info *asset.Info, path string) (io.ReadSeekCloser, error)
}

// FetchState is what a Fetcher tells. Fetch.Paused, Playback, Players and Limits are filled in by control.
type FetchState struct {
	Fetch  Fetch
	Assets map[asset.ID]AssetFetch
	Peers  []Peer
	Given  []Given
}

// AssetFetch is what a Fetcher tells about one asset.
type AssetFetch struct {
	State                    AssetState
	Code, Reason, Why        string
	Role, Courier            string
	Campaign                 string
	Peers                    int
	Rates, Bytes             Sources
	Priority                 int
	Deadline, KeepUntil, ETA time.Time
	Danger, Late             bool
	Started, Done            time.Time
	Accepted                 time.Time     // when Bytes began to count
	Outlook                  fetch.Outlook // for a player; unless it comes, Reason says why
}

// Options of a Box. Config, Identity, Catalog and Cache are required; what else is nil is shown as not there.
type Options struct {
	Version   string
	Config    *config.Config
	Identity  Identity
	Catalog   *catalog.Catalog
	Cache     *cache.Cache
	LAN       Household
	Fetch     Fetcher
	Playing   func(active bool) // told beside Fetch that somebody watches, or no longer
	Remote    RemoteReader      // plays what other boxes of the home hold and this one has no room for
	Broker    func() Broker
	Strangers func() Strangers
	FleetTLS  func() *tls.Config // for the doctor
	Store     Store              // remembers paused and set-limits across restarts
	HTTP      string             // base address of the loopback server
	SwarmPort int
	Ports     func() PortMapping // what the router was asked; nil: nothing
	Ports6    func() PortMapping // the same over IPv6
	Health    *health.Set
	LogRing   *LogRing
	Log       *slog.Logger
	Host      string
}

// Store is state.db.
type Store interface {
	Get(bucket string, key []byte) ([]byte, bool, error)
	Put(bucket string, key, val []byte) error
}

// Validate joins all faults.
func (o *Options) Validate() error {
	if o.Config == nil || o.Identity == nil || o.Catalog == nil || o.Cache == nil {
		return errors.New("control: Config, Identity, Catalog and Cache are required")
	}
	return nil
}

// Box is the box as one thing.
type Box struct {
	o        Options
	log      *slog.Logger
	start    time.Time
	playback *Playback
	rec      recorder
	probes   probes
	answers  answers
	ledger   ledger

	mu      sync.Mutex // guards the fields below
	changed chan struct{}
	limits  limits
	cfg     *config.Config
}

// New checks the options and reads what was remembered; it starts nothing.
func New(o Options) (*Box, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &Box{o: o, log: o.Log, start: time.Now(), changed: make(chan struct{}), cfg: o.Config}
	b.playback = NewPlayback(func(active bool) {
		if o.Fetch != nil {
			o.Fetch.SetPlayback(active)
		}
		if o.Playing != nil {
			o.Playing(active)
		}
		b.wake()
	}, time.Now)
	b.limits.own = limitsOf(o.Config)
	b.limits.load(o.Store, o.Log)
	return b, nil
}

// Playback knows whether somebody is watching.
func (b *Box) Playback() *Playback { return b.playback }

// Changed returns a channel that is closed when Snapshot next differs by more than the time.
func (b *Box) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *Box) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
}

// Reconfigure takes over what may change while the box runs: the limits.
func (b *Box) Reconfigure(cfg *config.Config) {
	b.mu.Lock()
	b.cfg = cfg
	b.limits.own = limitsOf(cfg)
	b.mu.Unlock()
	b.applyLimits()
}

// Run joins the changes of all services into one, records what moves and follows the players, until ctx ends.
func (b *Box) Run(ctx context.Context) error {
	b.applyLimits()
	var wg sync.WaitGroup
	wg.Go(func() { b.playback.Run(ctx) })
	wg.Go(func() { b.record(ctx) })
	wg.Go(func() { b.follow(ctx) })
	wg.Wait()
	return nil
}

func (b *Box) record(ctx context.Context) {
	tick := time.NewTicker(fineStep)
	defer tick.Stop()
	for {
		if b.o.Fetch != nil {
			f := b.o.Fetch.State()
			now, _ := b.o.Identity.Now()
			b.rec.add(now, f.Fetch.Bytes, f.Fetch.Sent)
			b.ledger.look(f.Peers, time.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// followGap is the least time between two changes that are told.
const followGap = 250 * time.Millisecond

func (b *Box) follow(ctx context.Context) {
	gap := time.NewTimer(0)
	defer gap.Stop()
	for {
		var home, fetch <-chan struct{}
		if b.o.LAN != nil {
			home = b.o.LAN.Changed()
		}
		if b.o.Fetch != nil {
			fetch = b.o.Fetch.Changed()
		}
		who, what, disk, ill := b.o.Identity.Changed(), b.o.Catalog.Changed(), b.o.Cache.Changed(), b.o.Health.Changed()
		if b.o.Fetch != nil {
			b.ledger.look(b.o.Fetch.State().Peers, time.Now()) // also those that are gone within a step
		}
		b.wake()
		gap.Reset(followGap)
		select {
		case <-ctx.Done():
			return
		case <-gap.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-home:
		case <-fetch:
		case <-who:
		case <-what:
		case <-disk:
		case <-ill:
		}
	}
}

// History is what moved lately.
func (b *Box) History() History { return b.rec.history() }

// Day plays the schedule forward.
func (b *Box) Day(length time.Duration) Day {
	now, _ := b.o.Identity.Now()
	d := Day{From: now, To: now.Add(length), Slots: []Slot{}}
	if b.o.Fetch != nil {
		d.Slots = append(d.Slots, b.o.Fetch.Day(length)...)
	}
	return d
}

// Ready says whether the box can do all it is for, or what is missing.
func (b *Box) Ready() (bool, string) {
	switch {
	case !b.o.Identity.Enrolled():
		return false, "the box has no certificate of its fleet yet"
	case b.o.Catalog.Snapshot().Version == 0:
		return false, "no catalog has been verified yet"
	}
	return true, ""
}
