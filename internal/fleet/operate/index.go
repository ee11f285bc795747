package operate

import (
	"context"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/repo"
)

// Index answers from memory which assets there are and who may have them, for the tracker's every announce.
type Index struct {
	assets map[asset.ID]bool
	byID   map[asset.ID][]catalog.Campaign
}

func (f *Fleet) buildIndex() (*Index, error) {
	ix := &Index{assets: map[asset.ID]bool{}, byID: map[asset.ID][]catalog.Campaign{}}
	err := f.o.Repo.View(func(tx *repo.Tx) error {
		publishers, err := tx.Publishers()
		if err != nil {
			return err
		}
		for _, p := range publishers {
			entries, err := tx.Assets(p.Name)
			if err != nil {
				return err
			}
			for _, e := range entries {
				ix.assets[e.ID] = true
			}
		}
		gone, err := tx.Withdrawn()
		if err != nil {
			return err
		}
		for _, id := range gone {
			delete(ix.assets, id)
		}
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for _, g := range groups {
			list, err := tx.Campaigns(g)
			if err != nil {
				return err
			}
			for _, c := range list {
				for _, a := range c.Assets {
					ix.byID[a.ID] = append(ix.byID[a.ID], c)
				}
			}
		}
		return nil
	})
	return ix, err
}

// KeepIndex rebuilds the index whenever the catalog changes, until ctx ends.
func (f *Fleet) KeepIndex(ctx context.Context) error {
	for {
		changed := f.o.Repo.Changed()
		ix, err := f.buildIndex()
		if err != nil {
			f.log.Warn("catalog not indexed", "err", err)
		} else {
			f.index.Store(ix)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// Known reports whether the catalog has the asset.
func (f *Fleet) Known(id asset.ID) bool {
	ix := f.index.Load()
	return ix != nil && ix.assets[id]
}

// Allowed reports whether a campaign gives the asset to the box.
func (f *Fleet) Allowed(ctx context.Context, box, group string, id asset.ID) bool {
	ix := f.index.Load()
	if ix == nil || !ix.assets[id] {
		return false
	}
	for _, c := range ix.byID[id] {
		if c.Group == group && c.Includes(box, []string{group}) {
			return true
		}
	}
	return false
}

// GroupOf is the group of a box as the broker or the registry knows it.
func (f *Fleet) GroupOf(ctx context.Context, box string) string {
	f.mu.Lock()
	g, ok := f.groupOf[box]
	f.mu.Unlock()
	if ok {
		return g
	}
	b, err := f.o.Registry.Box(ctx, box)
	if err != nil {
		return ""
	}
	f.mu.Lock()
	f.groupOf[box] = b.Group
	f.mu.Unlock()
	return b.Group
}
