package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/registry"
)

// tableRemoving has the assets that are being removed: the path each had in the catalog.
const tableRemoving = "removing"

// syncCampaigns brings records and catalog together after a crash between the two, or a failure of the second. The record
// says how far a campaign is open; the catalog says which assets there are, since those change there first.
func (f *Fleet) syncCampaigns(ctx context.Context) error {
	f.editing.Lock()
	defer f.editing.Unlock()
	list, err := f.Campaigns(ctx, false)
	if err != nil {
		return err
	}
	have, err := f.publishedCampaigns()
	if err != nil {
		return err
	}
	if err := errors.Join(f.settleAssets(ctx, list, have), f.noteEnded(ctx, list, have)); err != nil {
		return err
	}
	for i := range list {
		c := &list[i]
		if c.State == CampaignDrafted || same(c, have[c.Group+"/"+c.ID]) {
			delete(f.differs, c.ID)
			continue
		}
		err := f.publishCampaign(c)
		if err == nil {
			delete(f.differs, c.ID)
			f.log.Info("campaign published as its record says", "campaign", c.ID, "state", c.State)
		} else if f.differs[c.ID] != err.Error() {
			f.differs[c.ID] = err.Error()
			f.log.Warn("campaign differs from the catalog", "campaign", c.ID, "err", err)
		}
	}
	return nil
}

// same reports whether the catalog, which may lack the campaign, says what its record says.
func same(c *Campaign, have *catalog.Campaign) bool {
	if c.over() || have == nil {
		return c.over() && have == nil
	}
	return have.Paused == c.Paused && perMille(have.Rollout) == perMille(c.Rollout) && slices.Equal(have.Assets, c.Assets)
}

func perMille(r *catalog.Rollout) int {
	if r == nil {
		return 1000
	}
	return r.PerMille
}

// settleAssets makes the records name the assets that their campaigns have in the catalog, and none that is no longer there.
// It changes list too. The caller holds f.editing.
func (f *Fleet) settleAssets(ctx context.Context, list []Campaign, have map[string]*catalog.Campaign) error {
	version, err := f.o.Repo.Version()
	if err != nil || version == f.settled {
		return err
	}
	assets, err := f.Assets(ctx, "")
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(assets))
	for _, a := range assets {
		there[a.Path] = !a.Withdrawn
	}
	for i := range list {
		c := &list[i]
		if c.over() {
			continue
		}
		refs := c.Assets
		if published := have[c.Group+"/"+c.ID]; published != nil {
			refs = published.Assets
		}
		refs = slices.DeleteFunc(slices.Clone(refs), func(r catalog.AssetRef) bool { return !there[r.Path] })
		if slices.Equal(refs, c.Assets) {
			continue
		}
		if err := f.settleCampaign(ctx, c, refs); err != nil {
			return err
		}
	}
	f.settled = version
	return nil
}

func (f *Fleet) settleCampaign(ctx context.Context, c *Campaign, refs []catalog.AssetRef) error {
	var ids []string
	for _, r := range refs {
		ids = append(ids, r.ID.String())
	}
	err := registry.EditDoc(ctx, f.o.Registry, tableCampaigns, c.ID, func(doc *Campaign) error {
		doc.setAssets(refs)
		*c = *doc
		return nil
	})
	if err != nil {
		return err
	}
	f.log.Info("campaign's record follows the catalog", "campaign", c.ID, "assets", len(refs), "state", c.State)
	return f.o.Registry.Audit(ctx, "catalog", "campaign-assets", c.ID, strings.Join(ids, " "))
}

// setAssets ends a campaign that is left without an asset.
func (c *Campaign) setAssets(refs []catalog.AssetRef) {
	c.Assets = refs
	if len(refs) == 0 {
		c.State, c.Paused, c.Why = CampaignAborted, false, "none of its assets is left"
	}
}

// finishRemovals deletes what is left at the origin of assets whose removal fleetd did not live to finish.
func (f *Fleet) finishRemovals(ctx context.Context) error {
	paths, err := registry.ListDocs[string](ctx, f.o.Registry, tableRemoving)
	if err != nil || len(paths) == 0 {
		return err
	}
	var faults []error
	for _, path := range paths {
		id, err := asset.ParseID(strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], ".torrent"))
		if err != nil {
			faults = append(faults, fmt.Errorf("removal of %s: %w", path, err))
			continue
		}
		// Still in the catalog, or again, or of another publisher: then the origin's copy is needed.
		if needed, err := f.copyNeeded(ctx, id); err != nil {
			return err
		} else if !needed {
			if err := publish.Remove(f.o.OriginDir, id); err != nil {
				faults = append(faults, err)
				continue
			}
			faults = append(faults, f.o.Registry.Audit(ctx, "catalog", "remove", path, "finished after a restart"))
		}
		faults = append(faults, f.o.Registry.DeleteDoc(ctx, tableRemoving, path),
			f.o.Registry.DeleteDoc(ctx, tableRemoving, id.String())) // as it was kept before publishers could share bytes
	}
	return errors.Join(faults...)
}
