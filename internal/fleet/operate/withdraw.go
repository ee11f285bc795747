package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/repo"
)

// tableWithdrawn has the paths of assets that their publishers withdrew. The catalog knows ids only, and the same bytes may
// be another publisher's, who did not.
const tableWithdrawn = "withdrawn"

// Withdraw stops a publisher's asset: it leaves its campaigns, and boxes stop playing it and erase it, with proof. When
// another publisher has the same bytes in the catalog, boxes may keep them for that one: then it only leaves its campaigns.
func (f *Fleet) Withdraw(ctx context.Context, who string, a Asset) error {
	f.editing.Lock()
	defer f.editing.Unlock()
	all, err := f.Assets(ctx, "")
	if err != nil {
		return err
	}
	shared := slices.ContainsFunc(all, func(o Asset) bool { return o.ID == a.ID && o.Path != a.Path && !o.Withdrawn })
	if err := f.o.Registry.PutDoc(ctx, tableWithdrawn, a.Path, a.Path); err != nil {
		return err
	}
	err = f.o.Repo.Update(func(tx *repo.Tx) error {
		if shared {
			return tx.DropFromCampaigns(a.Path)
		}
		return tx.Withdraw(a.ID)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("withdraw %s: %w", a.ID, keyless(err)), f.o.Registry.DeleteDoc(ctx, tableWithdrawn, a.Path))
	}
	if _, err := f.swapInCampaigns(ctx, a.Path, nil); err != nil {
		return err
	}
	detail := ""
	if shared {
		detail = "another publisher has the same bytes: boxes may keep them"
	}
	return f.o.Registry.Audit(ctx, who, "withdraw", a.Path, detail)
}

// Readmit takes a withdrawal back.
func (f *Fleet) Readmit(ctx context.Context, who string, a Asset) error {
	f.editing.Lock()
	defer f.editing.Unlock()
	if err := f.o.Repo.Update(func(tx *repo.Tx) error { return tx.Readmit(a.ID) }); err != nil {
		return fmt.Errorf("readmit %s: %w", a.ID, keyless(err))
	}
	if err := f.o.Registry.DeleteDoc(ctx, tableWithdrawn, a.Path); err != nil {
		return err
	}
	return f.o.Registry.Audit(ctx, who, "readmit", a.Path, "")
}

// Remove takes an asset out of the catalog and deletes the origin's copy, unless another publisher has the same bytes. Boxes
// drop it with their next cleaning; Withdraw is what erases it at once.
func (f *Fleet) Remove(ctx context.Context, who string, a Asset) error {
	f.editing.Lock()
	defer f.editing.Unlock()
	// Kept until all is done: when fleetd dies before the origin's copy is gone, nothing else would know of it.
	if err := f.o.Registry.PutDoc(ctx, tableRemoving, a.Path, a.Path); err != nil {
		return err
	}
	if err := f.o.Repo.Update(func(tx *repo.Tx) error { return tx.RemoveAsset(a.Path) }); err != nil {
		return errors.Join(fmt.Errorf("remove %s: %w", a.ID, keyless(err)),
			f.o.Registry.DeleteDoc(ctx, tableRemoving, a.Path))
	}
	changed, err := f.swapInCampaigns(ctx, a.Path, nil)
	if err != nil {
		return err
	}
	for i := range changed {
		if changed[i].State == CampaignDrafted {
			continue
		}
		if err := f.publishCampaign(&changed[i]); err != nil {
			f.log.Warn("campaign still names a removed asset", "campaign", changed[i].ID, "asset", a.ID, "err", err)
		}
	}
	if needed, err := f.copyNeeded(ctx, a.ID); err != nil {
		return err
	} else if !needed {
		if err := publish.Remove(f.o.OriginDir, a.ID); err != nil {
			return err
		}
	}
	if err := f.o.Registry.DeleteDoc(ctx, tableWithdrawn, a.Path); err != nil {
		return err
	}
	if err := f.o.Registry.DeleteDoc(ctx, tableRemoving, a.Path); err != nil {
		return err
	}
	return f.o.Registry.Audit(ctx, who, "remove", a.Path, a.Name)
}
