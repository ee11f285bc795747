// Package operate is what an operator can do with a fleet: publish, schedule, watch, order, revoke. The HTTP API, the
// command line and the dashboard are its faces.
//
// Invariants: what changes a box is signed by the operations key before it leaves, for one box or group, with an expiry;
// a wish or command is sent again until the box has answered it or it has expired; every change is in the audit log.
// Content is signed by its publisher's key, which need not be on this machine.
package operate

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/mqttwire"
	"boxd/internal/ops"
)

// Bus speaks to boxes.
type Bus interface {
	Send(topic string, payload []byte) error   // not retained, does not wait
	Retain(topic string, payload []byte) error // retained
	Kick(box string) (int, error)              // closes the box's connections
}

// Options configures a Fleet. All but Now and Log are required.
type Options struct {
	ID         string // fleet id
	Repo       *repo.Repo
	Keys       string // directory of the catalog's private keys
	CA         *ca.CA
	Registry   *registry.Registry
	Bus        Bus
	OpsKey     ed25519.PrivateKey
	OriginDir  string
	OriginURLs []string
	Announce   []string
	Holder     string                  // names this fleetd in leases
	Floor      int64                   // wishes get versions above it: boxes may have been given up to that before a backup was restored
	Machine    func() []registry.Alert // what is wrong with the manager's machine; may be nil
	Now        func() time.Time
	Log        *slog.Logger
}

// Fleet is the operator's side as one thing.
type Fleet struct {
	o   Options
	now func() time.Time
	log *slog.Logger

	leases   leases            // nil where no other fleetd can share the database
	leasing  sync.Mutex        // the lease is asked for by one at a time
	flushing sync.Mutex        // who was heard of is written by one at a time
	imports  chan struct{}     // so many assets at a time are hashed
	judging  paced             // rollouts; lead's
	alerting paced             // lead's
	syncing  paced             // campaigns with the catalog; lead's
	resent   map[string]string // the box after which resending goes on, by target; resend's
	waits    map[string]string // campaigns whose stage will stay as it is, and why; lead's
	index    atomic.Pointer[Index]
	known    known
	messages atomic.Int64 // committed since the start
	refused  atomic.Int64 // of those, how many made no sense

	editing sync.Mutex        // a campaign's record and the catalog change together
	differs map[string]string // campaigns that could not be published, and why; guarded by editing
	settled int64             // the catalog's version whose assets the records have; guarded by editing

	quotas  sync.Mutex       // guards copying; what is left of a quota is looked up with it held
	copying map[string]int64 // bytes that each publisher's imports under way have, which neither catalog nor drafts know yet

	mu        sync.Mutex // guards the fields below
	wants     map[string]wish
	groupOf   map[string]string // as the broker last saw it
	receiving map[string]int64  // bytes of each publisher's quota that are on their way
	newBoxes  map[string]string // of those, what the registry does not know yet
	sentTo    map[string]time.Time
	listening time.Time            // since when all that was heard got to the database, or from the start
	lastSeen  map[string]time.Time // from telemetry, to be written
	aheads    map[string]ahead     // by target; to be lifted
	lifted    map[string]time.Time // by target
	over      map[string]time.Time // boxes that proved too much
	held      lease

	newGroup chan struct{} // a box of a group came that has no wish yet
}

// The faults that faces tell apart. Each is wrapped with what it was about.
var (
	ErrBad      = errors.New("bad request")
	ErrConflict = errors.New("conflict")
	ErrNoKey    = errors.New("the key is not on this machine")
)

// New makes a Fleet; Run starts its loops.
func New(o Options) *Fleet {
	f := &Fleet{
		o:         o,
		now:       o.Now,
		log:       o.Log,
		wants:     map[string]wish{},
		groupOf:   map[string]string{},
		sentTo:    map[string]time.Time{},
		lastSeen:  map[string]time.Time{},
		newBoxes:  map[string]string{},
		aheads:    map[string]ahead{},
		lifted:    map[string]time.Time{},
		over:      map[string]time.Time{},
		differs:   map[string]string{},
		receiving: map[string]int64{},
		resent:    map[string]string{},
		newGroup:  make(chan struct{}, 1),
		imports:   make(chan struct{}, importsAtOnce),
		copying:   map[string]int64{},
	}
	if o.Registry.Postgres() { // SQLite's one fleetd has a lock on its directory
		f.leases = o.Registry
	}
	if f.now == nil {
		f.now = time.Now
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	f.listening = f.now()
	return f
}

// Registry gives the faces their queries.
func (f *Fleet) Registry() *registry.Registry { return f.o.Registry }

// ID is the fleet's id.
func (f *Fleet) ID() string { return f.o.ID }

// Messages counts the boxes' messages that were committed since the start, and those that made no sense.
func (f *Fleet) Messages() (committed, refused int64) { return f.messages.Load(), f.refused.Load() }

// wish is the standing wish of a target as it is stored.
type wish struct {
	Target  string           `json:"target"` // box id or "group:<name>"
	Version int64            `json:"version"`
	Catalog int64            `json:"catalog_version"`
	Config  *mqttwire.Config `json:"config,omitempty"`
	Expires time.Time        `json:"expires"`
	Signed  []byte           `json:"signed"`
}

const (
	tableWishes = "desired"
	wishLife    = 60 * 24 * time.Hour // longer than a box may be cut off and still be told at once
	wishRenew   = 20 * 24 * time.Hour
)

// editWish changes a target's wish, signs it under the next version, stores it, and then tells.
func (f *Fleet) editWish(ctx context.Context, target string, edit func(*wish)) (wish, error) {
	var w wish
	err := registry.EditDoc(ctx, f.o.Registry, tableWishes, target, func(doc *wish) error {
		doc.Target = target
		edit(doc)
		doc.Version = max(doc.Version, f.o.Floor) + 1
		doc.Expires = f.now().Add(wishLife)
		payload, err := mqttwire.Encode(mqttwire.MaxDesired, &mqttwire.Desired{
			V: mqttwire.Version, Version: doc.Version, CatalogVersion: doc.Catalog, Config: doc.Config,
		})
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBad, err)
		}
		doc.Signed, err = ops.Sign(f.o.OpsKey, f.o.ID, "desired", target, doc.Expires, payload)
		w = *doc
		return err
	})
	if err != nil {
		return w, fmt.Errorf("desired state of %s: %w", target, err)
	}
	f.mu.Lock()
	f.wants[target] = w
	f.mu.Unlock()
	if err := f.o.Bus.Retain(wishTopic(f.o.ID, target), w.Signed); err != nil {
		f.log.Info("desired state not retained yet", "target", target, "err", err) // the conveyor goes on
	}
	return w, nil
}

func wishTopic(fleet, target string) string {
	if group, ok := groupTarget(target); ok {
		return mqttwire.GroupDesired(fleet, group)
	}
	return mqttwire.BoxTopic(fleet, target, "desired")
}

func groupTarget(target string) (string, bool) {
	if len(target) > len(ops.GroupPrefix) && target[:len(ops.GroupPrefix)] == ops.GroupPrefix {
		return target[len(ops.GroupPrefix):], true
	}
	return "", false
}

// SetConfig wishes a remote config for a box or "group:<name>". It may only narrow; boxes refuse the rest and say so.
func (f *Fleet) SetConfig(ctx context.Context, who, target string, c *mqttwire.Config) (int64, error) {
	if err := f.checkTarget(ctx, target); err != nil {
		return 0, err
	}
	w, err := f.editWish(ctx, target, func(w *wish) { w.Config = c })
	if err != nil {
		return 0, err
	}
	detail, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	return w.Version, f.o.Registry.Audit(ctx, who, "config", target, string(detail))
}

// Config returns the wished config of a target and its version.
func (f *Fleet) Config(ctx context.Context, target string) (*mqttwire.Config, int64, error) {
	w, err := registry.GetDoc[wish](ctx, f.o.Registry, tableWishes, target)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, 0, nil
	}
	return w.Config, w.Version, err
}

// CheckTarget says whether there is such a box, or could be such a group.
func (f *Fleet) CheckTarget(ctx context.Context, target string) error {
	return f.checkTarget(ctx, target)
}

func (f *Fleet) checkTarget(ctx context.Context, target string) error {
	if group, ok := groupTarget(target); ok {
		if !mqttwire.ValidName(group) {
			return fmt.Errorf("%w: group %q", ErrBad, group)
		}
		return nil
	}
	_, err := f.o.Registry.Box(ctx, target)
	return err
}

// ringBell tells every group of the catalog's version.
func (f *Fleet) ringBell(ctx context.Context) error {
	version, err := f.o.Repo.Version()
	if err != nil {
		return err
	}
	groups, err := f.groups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		target := ops.GroupPrefix + g
		f.mu.Lock()
		w, known := f.wants[target]
		f.mu.Unlock()
		if known && w.Catalog >= version && w.Expires.Sub(f.now()) > wishRenew {
			continue
		}
		if _, err := f.editWish(ctx, target, func(w *wish) { w.Catalog = max(w.Catalog, version) }); err != nil {
			return err
		}
	}
	return nil
}

// DefaultGroup is there from the beginning.
const DefaultGroup = "default"

// groups are those that boxes, tokens or campaigns name.
func (f *Fleet) groups(ctx context.Context) ([]string, error) {
	set := map[string]bool{DefaultGroup: true}
	counts, err := f.o.Registry.Groups(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range counts {
		set[c.Group] = true
	}
	err = f.o.Repo.View(func(tx *repo.Tx) error {
		list, err := tx.Groups()
		for _, g := range list {
			set[g] = true
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("groups of the catalog: %w", err)
	}
	f.mu.Lock()
	for _, g := range f.groupOf {
		set[g] = true
	}
	f.mu.Unlock()
	var list []string
	for g := range set {
		if mqttwire.ValidName(g) {
			list = append(list, g)
		}
	}
	return list, nil
}

// CatalogRoles says until when the signature of each role of the catalog is good.
func (f *Fleet) CatalogRoles() ([]repo.RoleStatus, error) { return f.o.Repo.Status() }

// CatalogVersion is the version of the published catalog.
func (f *Fleet) CatalogVersion() (int64, error) { return f.o.Repo.Version() }
