package web

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
)

// Options configures a View.
type Options struct {
	Fleet  *operate.Fleet
	Origin func() map[asset.ID]int64 // bytes that the origin sent
	Now    func() time.Time
	Log    *slog.Logger
}

// View knows what the dashboard shows. Its methods may be called from any goroutine.
type View struct {
	o Options

	wanted chan struct{} // somebody looks

	mu      sync.Mutex // guards the fields below
	cur     *Overview
	changed chan struct{}           // closed when cur is replaced
	counts  map[string]Counted      // by campaign
	asked   map[string]time.Time    // campaigns that somebody looked at
	assets  map[asset.ID]AssetLabel // of the catalog
	catalog int64                   // version that assets are of
}

// Counted is how a campaign stood at a time.
type Counted struct {
	operate.Counts
	At time.Time `json:"at"`
}

// AssetLabel is what a list says of an asset.
type AssetLabel struct {
	ID        asset.ID `json:"id"`
	Name      string   `json:"name"`
	Version   string   `json:"version,omitempty"`
	Publisher string   `json:"publisher"`
	Length    int64    `json:"length"`
	Withdrawn bool     `json:"withdrawn,omitempty"`
}

// New makes a View; Run must run for it to answer.
func New(o Options) *View {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &View{
		o: o, wanted: make(chan struct{}, 1), changed: make(chan struct{}),
		counts: map[string]Counted{}, asked: map[string]time.Time{},
	}
}

const (
	minRest  = 2 * time.Second
	maxRest  = time.Minute
	fresh    = 10 * time.Second       // what is younger is answered at once
	patience = 150 * time.Millisecond // for something fresher than what there is
)

// Run counts while somebody looks, for at most a tenth of the time.
func (v *View) Run(ctx context.Context) error {
	for {
		begin := time.Now()
		if err := v.refresh(ctx); err != nil && ctx.Err() == nil {
			v.o.Log.Warn("dashboard not refreshed", "err", err)
		}
		rest := time.NewTimer(min(max(minRest, 10*time.Since(begin)), maxRest))
		select {
		case <-ctx.Done():
			rest.Stop()
			return nil
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.wanted:
		}
	}
}

// want asks for a refresh and waits for it as long as that pays. It returns the latest overview; nil if there is none yet.
func (v *View) want(ctx context.Context, campaign string) *Overview {
	v.mu.Lock()
	_, counted := v.counts[campaign]
	if campaign != "" {
		v.asked[campaign] = v.o.Now()
	}
	cur, changed := v.cur, v.changed
	v.mu.Unlock()
	select {
	case v.wanted <- struct{}{}:
	default:
	}
	if cur != nil && v.o.Now().Sub(cur.At) < fresh && (campaign == "" || counted) {
		return cur
	}
	wait := patience
	if cur == nil {
		wait = 30 * time.Second
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cur
}

// refresh makes a new overview.
func (v *View) refresh(ctx context.Context) error {
	if err := v.loadAssets(ctx); err != nil {
		return err
	}
	out, err := v.overview(ctx)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cur = out
	close(v.changed)
	v.changed = make(chan struct{})
	return nil
}

// loadAssets reads the catalog's assets again when the catalog has changed.
func (v *View) loadAssets(ctx context.Context) error {
	version, err := v.o.Fleet.CatalogVersion()
	if err != nil {
		return err
	}
	v.mu.Lock()
	same := v.assets != nil && v.catalog == version
	v.mu.Unlock()
	if same {
		return nil
	}
	list, err := v.o.Fleet.Assets(ctx, "")
	if err != nil {
		return err
	}
	by := make(map[asset.ID]AssetLabel, len(list))
	for _, a := range list {
		by[a.ID] = AssetLabel{a.ID, a.Name, a.Version, a.Publisher, a.Length, a.Withdrawn}
	}
	v.mu.Lock()
	v.assets, v.catalog = by, version
	v.mu.Unlock()
	return nil
}

func (v *View) label(id asset.ID) AssetLabel {
	v.mu.Lock()
	defer v.mu.Unlock()
	if a, ok := v.assets[id]; ok {
		return a
	}
	return AssetLabel{ID: id, Name: id.Short()}
}

func (v *View) registry() *registry.Registry { return v.o.Fleet.Registry() }
