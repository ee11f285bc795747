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
	fresh := map[asset.ID]knownAsset{}
	for _, a := range list {
		k := assets[a.ID]
		if slices.Contains(k.Publishers, a.Publisher) {
			continue
		}
		k = knownAsset{a.ID, a.Name, a.Length, append(slices.Clone(k.Publishers), a.Publisher)}
		assets[a.ID], fresh[a.ID] = k, k
	}
	for _, k := range fresh {
		if err := f.o.Registry.PutDoc(ctx, tableKnown, k.ID.String(), k); err != nil {
			return err
		}
	}
	records, err := f.Campaigns(ctx, false)
	if err != nil {
		return err
	}
	for i := range records {
		campaigns[records[i].ID] = true
	}
	f.known.mu.Lock()
	defer f.known.mu.Unlock()
	maps.Copy(campaigns, f.known.campaigns) // those of which no record is left
	f.known.assets, f.known.campaigns, f.known.version = assets, campaigns, version
	f.o.Registry.Judge(f.known.judge)
	return nil
}

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

// judge corrects what a box says of an asset by what the manager knows of it. What never was published is in nobody's statement.
func (k *known) judge(e *mqttwire.Event) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	a, there := k.assets[e.Asset]
	if !there {
		e.Publisher, e.Campaign = "", ""
		return
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
		*n = min(*n, wasteAllowed*a.Length)
	}
}
