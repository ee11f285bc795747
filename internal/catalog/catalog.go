// Package catalog is everything a box trusts: signed assets and campaigns, read from a TUF repository (specification
// 1.0.31), verified whole, kept on disk and handed out as immutable snapshots.
//
// Invariants: a Snapshot is only ever made from metadata whose whole chain of signatures leads to the firmware's root, whose
// parts belong together (hashes in timestamp and snapshot) and whose versions are not older than any that was verified
// before; it is on disk before anybody is told; when a refresh fails, for whatever reason, the last good one stays. A .torrent
// whose infohash is not the one in its signed path is left out. What cannot be fetched or verified costs bounded memory
// and time. Expiry is judged against the box's time floor while its clock is not trusted.
package catalog

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// Options says where the catalog comes from and where it is kept.
type Options struct {
	Dir    string          // where the last good catalog is kept; made if missing
	FS     durable.FS      // nil means the operating system's
	Root   []byte          // trusted root.json, from the firmware
	URL    string          // base: URL/metadata/… and URL/targets/…
	Client *http.Client    // nil means http.DefaultClient
	Groups func() []string // the groups this box is in; asked at each refresh; nil means none
	BoxID  func() string   // this box, for staged rollouts; nil or "" takes part in every stage
	// Now gives the time and whether it is trusted; untrusted, it is the time floor. Nil means the system clock.
	Now    func() (time.Time, bool)
	Poll   time.Duration // mean time between refreshes; 0 means 15 minutes
	Health *health.Set
	Log    *slog.Logger
	// OnTime, if set, is called with the time at which a verified catalog was signed: a safe time floor.
	OnTime func(time.Time)
}

// DefaultPoll is the mean time between refreshes. MQTT rings the bell when something changes; polling is the safety net.
const DefaultPoll = 15 * time.Minute

// Validate joins all faults of the options.
func (o *Options) Validate() error {
	var faults []error
	if o.Dir == "" {
		faults = append(faults, errors.New("no directory for the catalog"))
	}
	if len(o.Root) == 0 {
		faults = append(faults, errors.New("no trusted root.json"))
	}
	if !strings.HasPrefix(o.URL, "https://") && !strings.HasPrefix(o.URL, "http://") {
		faults = append(faults, fmt.Errorf("catalog URL %q is not an http or https address", o.URL))
	}
	if o.Poll < 0 {
		faults = append(faults, fmt.Errorf("poll interval %s is negative", o.Poll))
	}
	return errors.Join(faults...)
}

// Snapshot is one state of the catalog. It never changes; nobody may write to what it holds.
type Snapshot struct {
	Version   int64     // of the timestamp role; 0: there is no catalog yet
	SignedAt  time.Time // when the timestamp was signed; zero if it does not say
	Expires   time.Time // when the first of the roles it rests on expires
	Groups    []string  // the groups it was read for
	Campaigns []Campaign
	// Assets holds what the campaigns name and a publisher has signed. A campaign may name an asset that is not here; then
	// Rejected says why.
	Assets         map[asset.ID]*Asset
	Rejected       []Rejected
	Revoked        []string // serials of revoked certificates, lower-case hexadecimal
	OperationsKeys []ed25519.PublicKey
	Withdrawn      []asset.ID
}

// Fresh reports whether the catalog may still be believed at a time: if not, nothing new is fetched.
func (s *Snapshot) Fresh(now time.Time) bool { return s.Version > 0 && !now.After(s.Expires) }

// IsWithdrawn reports whether an asset was called back: it must not be fetched, served, played or kept.
func (s *Snapshot) IsWithdrawn(id asset.ID) bool { return slices.Contains(s.Withdrawn, id) }

// Asset is a signed asset.
type Asset struct {
	Info      *asset.Info
	Torrent   []byte
	Path      string            // of the target
	Name      string            // for people: the title, or the torrent's name
	Version   string            //
	Publisher string            // who signed it
	Types     map[string]string // file path → content type; may lack files
	SHA256    map[string]string // file path → hexadecimal SHA-256; may lack files

	sum string // SHA-256 of Torrent
}

// Rejected is an asset that a campaign names, or a campaign, that was left out.
type Rejected struct {
	ID     asset.ID `json:"id"`   // zero for a campaign
	Path   string   `json:"path"` // of the asset's target, or of the campaign's group
	Reason string   `json:"reason"`
}

// Catalog keeps the newest verified snapshot.
type Catalog struct {
	opt   Options
	fs    durable.FS
	log   *slog.Logger
	store *store

	refreshing sync.Mutex // held for the length of a refresh; guards the fields up to mu
	bundle     bundle     // what is on disk
	etag       string     // of the timestamp.json that cur was made from
	rootAsked  time.Time  // when a newer root was last asked for
	failures   int        // refreshes that failed in a row

	mu      sync.Mutex // guards the fields below
	cur     *Snapshot
	changed chan struct{}
	stats   Stats
}

// Stats counts what the catalog has cost since Open.
type Stats struct {
	Refreshes int64 `json:"refreshes"` // attempts
	Failures  int64 `json:"failures"`
	Requests  int64 `json:"requests"` // HTTP requests
	Bytes     int64 `json:"bytes"`    // of response bodies
}

// Open loads the last good catalog and verifies it again. A stored catalog that does not verify, or that another root
// signed, is set aside; the next Refresh starts from the firmware's root.
func Open(opt Options) (*Catalog, error) {
	if err := opt.Validate(); err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	if opt.Client == nil {
		opt.Client = http.DefaultClient
	}
	if opt.Groups == nil {
		opt.Groups = func() []string { return nil }
	}
	if opt.BoxID == nil {
		opt.BoxID = func() string { return "" }
	}
	if opt.Now == nil {
		opt.Now = func() (time.Time, bool) { return time.Now(), true }
	}
	if opt.Poll == 0 {
		opt.Poll = DefaultPoll
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.FS == nil {
		opt.FS = durable.OS()
	}
	opt.URL = strings.TrimSuffix(opt.URL, "/")
	c := &Catalog{
		opt: opt, fs: opt.FS, log: opt.Log, changed: make(chan struct{}),
		cur: &Snapshot{Assets: map[asset.ID]*Asset{}}, store: &store{fs: opt.FS, dir: opt.Dir},
	}
	if _, err := newTrust([][]byte{opt.Root}, time.Time{}); err != nil {
		return nil, fmt.Errorf("open catalog: the firmware's root.json: %w", err)
	}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	return c, nil
}

// Snapshot returns the newest verified state; before the first one it is empty, with Version 0. It is never nil.
func (c *Catalog) Snapshot() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur
}

// Changed returns a channel that is closed when Snapshot next changes. Get the channel first, then read the snapshot.
func (c *Catalog) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Stats returns the counters.
func (c *Catalog) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Run refreshes the catalog until ctx ends: at once, then about every Options.Poll, sooner after a failure.
func (c *Catalog) Run(ctx context.Context) error {
	failures := 0
	for {
		err := c.Refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			failures++
			c.log.Warn("catalog refresh failed", "error", err, "failures", failures)
		} else {
			failures = 0
		}
		timer := time.NewTimer(c.wait(failures))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// wait is how long to wait before the next refresh: half to one and a half times Poll, so that a fleet does not come at
// once; after failures full jitter under a bound that doubles from 10 seconds up to Poll.
func (c *Catalog) wait(failures int) time.Duration {
	if failures == 0 {
		return c.opt.Poll/2 + rand.N(c.opt.Poll)
	}
	bound := 10 * time.Second << min(failures-1, 10)
	return rand.N(min(bound, c.opt.Poll)) + time.Second
}

// publish makes s what Snapshot returns.
func (c *Catalog) publish(s *Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cur = s
	close(c.changed)
	c.changed = make(chan struct{})
}
