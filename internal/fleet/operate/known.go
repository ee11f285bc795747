package operate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/mqttwire"
)

// tableKnown has every asset that was ever in the catalog, by id: boxes prove its erasure after it has gone.
const tableKnown = "known"

// knownAsset is what a proof of an asset can say.
type knownAsset struct {
	ID         asset.ID `json:"id"`
	Name       string   `json:"name"`
	Length     int64    `json:"length"`
	Publishers []string `json:"publishers"`
}

// known is what was ever published. Proofs are what publishers pay by, so nothing of them is taken from a box that this
// manager knows better.
type known struct {
	mu        sync.RWMutex // guards the fields below
	assets    map[asset.ID]knownAsset
	campaigns map[string]bool
	version   int64 // of the catalog that they are of
}

// wasteAllowed is how many times an asset's length may have come from each source: pieces are fetched again at times.
const wasteAllowed = 4

// Learn brings what was ever published up to date. Call it once before messages are handled.
func (f *Fleet) Learn(ctx context.Context) error {
	docs, err := registry.ListDocs[knownAsset](ctx, f.o.Registry, tableKnown)
	if err != nil {
		return err
	}
	assets, campaigns := map[asset.ID]knownAsset{}, map[string]bool{}
	for _, k := range docs {
		assets[k.ID] = k
	}
	version, err := f.o.Repo.Version()
	if err != nil {
		return err
	}
	list, err := f.Assets(ctx, "")
	if err != nil {
		return err
	}
	fresh := map[string]knownAsset{}
	for _, a := range list {
		k := assets[a.ID]
		if slices.Contains(k.Publishers, a.Publisher) {
			continue
		}
		k = knownAsset{a.ID, a.Name, a.Length, append(slices.Clone(k.Publishers), a.Publisher)}
		assets[a.ID], fresh[a.ID.String()] = k, k
	}
	if len(docs) == 0 {
		gone, err := f.provenOnly(ctx, assets)
		if err != nil {
			return err
		}
		for id, k := range gone {
			assets[id], fresh[id.String()] = k, k
		}
	}
	if err := registry.PutDocs(ctx, f.o.Registry, tableKnown, fresh); err != nil {
		return err
	}
	records, err := f.Campaigns(ctx, false)
	if err != nil {
		return err
	}
	for i := range records {
		campaigns[records[i].ID] = true
	}
	f.known.mu.RLock()
	old := f.known.assets
	maps.Copy(campaigns, f.known.campaigns) // those of which no record is left
	f.known.mu.RUnlock()
	if err := f.attribute(ctx, assets, old, campaigns); err != nil {
		return err
	}
	f.known.mu.Lock()
	defer f.known.mu.Unlock()
	f.known.assets, f.known.campaigns, f.known.version = assets, campaigns, version
	f.o.Registry.Judge(f.known.judge)
	return nil
}

// provenOnly are the assets that have left the catalog before a manager kept what was ever published: proofs have them.
func (f *Fleet) provenOnly(ctx context.Context, listed map[asset.ID]knownAsset) (map[asset.ID]knownAsset, error) {
	list, err := f.o.Registry.Proven(ctx)
	if err != nil {
		return nil, err
	}
	gone := map[asset.ID]knownAsset{}
	for _, p := range list {
		if _, there := listed[p.Asset]; there {
			continue
		}
		k, there := gone[p.Asset]
		if !there {
			k = knownAsset{ID: p.Asset, Name: p.Name, Length: p.Length}
		}
		if !slices.Contains(k.Publishers, p.Publisher) {
			k.Publishers = append(k.Publishers, p.Publisher)
		}
		gone[p.Asset] = k
	}
	return gone, nil
}

// attribute mends the proofs that came before this manager knew their assets. old is what it knew before, nil when it has just
// started.
func (f *Fleet) attribute(ctx context.Context, assets, old map[asset.ID]knownAsset, campaigns map[string]bool) error {
	var nobodys map[asset.ID]bool
	if old == nil {
		var err error
		if nobodys, err = f.o.Registry.Nobodys(ctx); err != nil {
			return err
		}
	}
	for id, k := range assets {
		if _, had := old[id]; had || len(k.Publishers) != 1 || old == nil && !nobodys[id] {
			continue
		}
		p := registry.Proven{Asset: id, Publisher: k.Publishers[0], Name: k.Name, Length: k.Length}
		if err := f.o.Registry.Attribute(ctx, p, campaigns, k.most()); err != nil {
			return err
		}
	}
	return nil
}

// remember keeps a new asset, whose proofs may come after it has gone. Before this manager has learned for the first time there
// is nothing to do: that finds it in the catalog.
func (f *Fleet) remember(ctx context.Context, a *Asset) error {
	f.known.mu.RLock()
	learned := f.known.assets != nil
	f.known.mu.RUnlock()
	if !learned {
		return nil
	}
	return registry.EditDoc(ctx, f.o.Registry, tableKnown, a.ID.String(), func(k *knownAsset) error {
		if !slices.Contains(k.Publishers, a.Publisher) {
			*k = knownAsset{a.ID, a.Name, a.Length, append(k.Publishers, a.Publisher)}
		}
		return nil
	})
}

// most is how many bytes of it may have come from each source.
func (k *knownAsset) most() int64 { return min(wasteAllowed*k.Length, mqttwire.MaxAsset) }

// LearnOf learns anew when a batch has proofs of what is not known yet, and the catalog has changed since.
func (f *Fleet) LearnOf(ctx context.Context, batch []mqttwire.Message) error {
	strange := slices.ContainsFunc(batch, func(m mqttwire.Message) bool {
		var e mqttwire.Event
		return m.Topic.Kind == mqttwire.KindEvent && mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &e) == nil && !f.known.all(&e)
	})
	if !strange {
		return nil
	}
	version, err := f.o.Repo.Version()
	if errors.Is(err, repo.ErrNotFound) {
		return nil
	}
	f.known.mu.RLock()
	same := f.known.version == version
	f.known.mu.RUnlock()
	if err != nil || same {
		return err
	}
	return f.Learn(ctx)
}

func (k *known) all(e *mqttwire.Event) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	a, there := k.assets[e.Asset]
	return there && slices.Contains(a.Publishers, e.Publisher) && (e.Campaign == "" || k.campaigns[e.Campaign])
}

// judge corrects what a box says of an asset by what the manager knows of it. What never was published is in nobody's statement;
// what is not known yet gets there once it is, with its campaign.
func (k *known) judge(e *mqttwire.Event) (there bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	a, there := k.assets[e.Asset]
	if !there {
		e.Publisher = ""
		return false
	}
	e.Size, e.Name = a.Length, a.Name
	if !slices.Contains(a.Publishers, e.Publisher) {
		e.Publisher = ""
		if len(a.Publishers) == 1 {
			e.Publisher = a.Publishers[0]
		}
	}
	if !k.campaigns[e.Campaign] {
		e.Campaign = ""
	}
	for _, n := range []*int64{&e.From.LAN, &e.From.Peer, &e.From.Origin} {
		*n = min(*n, a.most())
	}
	return true
}
