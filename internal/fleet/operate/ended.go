package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
)

// A group's file has room for so many campaigns, and every box reads it: those whose keep_until is over, when boxes have let go
// of them by themselves, leave it. That needs the campaigns key as every change does; where it is elsewhere they leave with the
// next draft.

// endedAfter is how long after its keep_until a campaign stays, so that clocks may differ.
const endedAfter = 24 * time.Hour

// over reports whether a campaign is out of the catalog for good.
func (c *Campaign) over() bool { return c.State == CampaignAborted || c.State == CampaignEnded }

func ended(c *catalog.Campaign, now time.Time) bool {
	return !c.KeepUntil.IsZero() && now.Sub(c.KeepUntil) > endedAfter
}

// endedBy is the moment at which campaigns are judged; zero, when none has ended, while this machine's clock may be wrong.
func (f *Fleet) endedBy(ctx context.Context) (time.Time, error) {
	doubtful, err := f.clockDoubtful(ctx)
	if doubtful || err != nil {
		return time.Time{}, err
	}
	return f.now(), nil
}

// dropEnded takes a group's ended campaigns, but for one, out of the catalog and says how many stay.
func dropEnded(tx *repo.Tx, group, but string, now time.Time) (left int, err error) {
	list, err := tx.Campaigns(group)
	if err != nil {
		return 0, err
	}
	for i := range list {
		if list[i].ID == but || !ended(&list[i], now) {
			left++
			continue
		}
		if err := tx.RemoveCampaign(group, list[i].ID); err != nil {
			return 0, err
		}
	}
	return left, nil
}

// inRoom makes room for a campaign before it is put into its group.
func (f *Fleet) inRoom(ctx context.Context, c *Campaign) (func(*repo.Tx) error, error) {
	now, err := f.endedBy(ctx)
	if err != nil {
		return nil, err
	}
	return makeRoom(c, now, catalog.MaxCampaigns), nil
}

func makeRoom(c *Campaign, now time.Time, room int) func(*repo.Tx) error {
	return func(tx *repo.Tx) error {
		if !c.over() {
			left, err := dropEnded(tx, c.Group, c.ID, now)
			if err != nil {
				return err
			}
			if have, err := tx.Campaigns(c.Group); err != nil {
				return err
			} else if left >= room && !slices.ContainsFunc(have, func(h catalog.Campaign) bool { return h.ID == c.ID }) {
				return fmt.Errorf("%w: group %s has %d campaigns, and no room for more: abort those that are over, and give others a "+
					"keep_until, after which they leave by themselves", ErrConflict, c.Group, left)
			}
		}
		return campaignChange(c)(tx)
	}
}

// retire takes all ended campaigns out of the catalog. Only who leads may.
func (f *Fleet) retire(ctx context.Context) error {
	if f.Fence() != nil {
		return nil
	}
	f.editing.Lock()
	defer f.editing.Unlock()
	now, err := f.endedBy(ctx)
	if err != nil || now.IsZero() {
		return err
	}
	err = f.o.Repo.Update(func(tx *repo.Tx) error {
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for _, g := range groups {
			if _, err := dropEnded(tx, g, "", now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, repo.ErrNoKey) && !errors.Is(err, repo.ErrNotFound) {
		return fmt.Errorf("take ended campaigns out of the catalog: %w", err)
	}
	list, err := f.Campaigns(ctx, false)
	if err != nil {
		return err
	}
	have, err := f.publishedCampaigns()
	if err != nil {
		return err
	}
	return f.noteEnded(ctx, list, have)
}

// noteEnded makes the records of ended campaigns say so once the catalog has them no more. It changes list too. The caller holds
// f.editing.
func (f *Fleet) noteEnded(ctx context.Context, list []Campaign, have map[string]*catalog.Campaign) error {
	left := func(c *Campaign) bool {
		return !c.over() && ended(&c.Campaign, f.now()) && have[c.Group+"/"+c.ID] == nil
	}
	if !slices.ContainsFunc(list, func(c Campaign) bool { return left(&c) }) {
		return nil
	}
	if now, err := f.endedBy(ctx); err != nil || now.IsZero() {
		return err
	}
	for i := range list {
		c := &list[i]
		if !left(c) {
			continue
		}
		err := registry.EditDoc(ctx, f.o.Registry, tableCampaigns, c.ID, func(doc *Campaign) error {
			doc.State, doc.Paused, doc.Why = CampaignEnded, false, "its keep_until is over"
			*c = *doc
			return nil
		})
		if err == nil {
			err = f.o.Registry.Audit(ctx, "fleetd", "campaign-ended", c.ID, c.KeepUntil.Format(time.RFC3339))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
