package operate

import (
	"context"
	"errors"
	"fmt"

	"boxd/internal/catalog"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
)

// DraftedCampaign is a campaign, or a change of one, that the holder of the campaigns key has not signed yet.
type DraftedCampaign struct {
	Campaign
	Draft *repo.Draft `json:"draft"`
}

// campaignChange is what the catalog must be changed by to say what the record says.
func campaignChange(c *Campaign) func(*repo.Tx) error {
	return func(tx *repo.Tx) error {
		if c.over() {
			if err := tx.RemoveCampaign(c.Group, c.ID); err != nil && !errors.Is(err, repo.ErrNotFound) {
				return err
			}
			return nil
		}
		return tx.PutCampaign(c.Campaign)
	}
}

// DraftCampaign does what CreateCampaign does but for the signature: the draft goes to where the campaigns key is and comes
// back to ImportDraft, or to the catalog itself. Until then the campaign is a record, and no box knows of it.
func (f *Fleet) DraftCampaign(ctx context.Context, who string, r CampaignRequest) (DraftedCampaign, error) {
	c, err := f.newCampaign(ctx, who, r)
	if err != nil {
		return DraftedCampaign{}, err
	}
	draft, err := f.draftCampaign(ctx, &c, "campaign "+c.Name+" on "+c.Group)
	if err != nil {
		return DraftedCampaign{}, err
	}
	c.State = CampaignDrafted
	if err := f.o.Registry.PutDoc(ctx, tableCampaigns, c.ID, c); err != nil {
		return DraftedCampaign{}, err
	}
	return DraftedCampaign{c, draft}, f.o.Registry.Audit(ctx, who, "draft-campaign", c.ID, c.Name+" on "+c.Group)
}

// DraftCampaignState drafts what SetCampaignState could not sign: the record has the state already.
func (f *Fleet) DraftCampaignState(ctx context.Context, who, id string) (DraftedCampaign, error) {
	c, err := f.campaign(ctx, id)
	if err != nil {
		return DraftedCampaign{}, err
	}
	draft, err := f.draftCampaign(ctx, &c, "campaign "+c.ID+" "+c.State)
	if err != nil {
		return DraftedCampaign{}, err
	}
	return DraftedCampaign{c, draft}, f.o.Registry.Audit(ctx, who, "draft-campaign", c.ID, c.State)
}

func (f *Fleet) draftCampaign(ctx context.Context, c *Campaign, note string) (*repo.Draft, error) {
	change, err := f.inRoom(ctx, c)
	if err != nil {
		return nil, err
	}
	draft, err := f.o.Repo.Draft([]string{note}, change)
	if err != nil {
		return nil, fmt.Errorf("%w: draft campaign %s: %w", ErrBad, c.ID, err)
	}
	return draft, nil
}

// adoptDrafted makes a drafted campaign a running one when the catalog has it, however it came there.
func (f *Fleet) adoptDrafted(ctx context.Context, c *Campaign) error {
	signed := false
	err := f.o.Repo.View(func(tx *repo.Tx) error {
		have, err := tx.Campaigns(c.Group)
		for _, h := range have {
			signed = signed || h.ID == c.ID
		}
		return err
	})
	if errors.Is(err, repo.ErrNotFound) || err == nil && !signed {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for campaign %s: %w", c.ID, err)
	}
	err = registry.EditDoc(ctx, f.o.Registry, tableCampaigns, c.ID, func(doc *Campaign) error {
		if doc.State == CampaignDrafted {
			doc.State = CampaignRunning
			if doc.Staged != nil {
				doc.Staged.Since = f.now().UTC()
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return f.o.Registry.Audit(ctx, "catalog", "campaign-signed", c.ID, c.Name)
}

// refuseAborted makes a check of an imported catalog: it brings no campaign that was aborted, or ended, while its draft was away.
func (f *Fleet) refuseAborted(ctx context.Context) (func(*repo.Tx) error, error) {
	records, err := f.Campaigns(ctx, false)
	if err != nil {
		return nil, err
	}
	now, err := f.publishedCampaigns()
	if err != nil {
		return nil, err
	}
	return func(tx *repo.Tx) error {
		next, err := campaignsIn(tx)
		if err != nil {
			return err
		}
		for _, c := range records {
			key := c.Group + "/" + c.ID
			if c.over() && next[key] != nil && now[key] == nil {
				return fmt.Errorf("campaign %s was %s", c.ID, c.State)
			}
		}
		return nil
	}, nil
}

// publishedCampaigns has the catalog's campaigns by group and id.
func (f *Fleet) publishedCampaigns() (have map[string]*catalog.Campaign, err error) {
	err = f.o.Repo.View(func(tx *repo.Tx) error {
		have, err = campaignsIn(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalog's campaigns: %w", err)
	}
	return have, nil
}

func campaignsIn(tx *repo.Tx) (map[string]*catalog.Campaign, error) {
	have := map[string]*catalog.Campaign{}
	groups, err := tx.Groups()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		list, err := tx.Campaigns(g)
		if err != nil {
			return nil, err
		}
		for i := range list {
			have[g+"/"+list[i].ID] = &list[i]
		}
	}
	return have, nil
}
