package operate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/registry"
)

const tableCampaigns = "campaigns"

// The states of a campaign.
const (
	CampaignRunning = "running"
	CampaignPaused  = "paused"  // boxes keep what they have and fetch nothing more
	CampaignAborted = "aborted" // taken out of the catalog for good
	CampaignEnded   = "ended"   // its keep_until is over, and it has left the catalog
	CampaignDrafted = "drafted" // not in the catalog: it waits for a signature that is made elsewhere
)

// Campaign is a wish and how far its rollout is.
type Campaign struct {
	catalog.Campaign
	State   string    `json:"state"`
	Why     string    `json:"why,omitempty"` // it was paused or aborted, or, when read with counts, does not go on
	Created time.Time `json:"created"`
	By      string    `json:"by"`
	Staged  *Staged   `json:"staged,omitempty"` // nil: all boxes at once
	Counts  *Counts   `json:"counts,omitempty"` // filled in when read
}

// CampaignRequest is a new campaign.
type CampaignRequest struct {
	catalog.Campaign
	AssetIDs []asset.ID `json:"asset_ids,omitempty"` // may stand in for Assets
	// Publisher says whose AssetIDs are, where several have the same bytes.
	Publisher string `json:"publisher,omitempty"`
	// PrefixBytes of each of AssetIDs is fetched before the rest of any asset.
	PrefixBytes int64   `json:"prefix_bytes,omitempty"`
	Staged      *Staged `json:"staged,omitempty"`
}

// newCampaign makes a campaign of a request. An id is made from the name when there is none.
func (f *Fleet) newCampaign(ctx context.Context, who string, r CampaignRequest) (Campaign, error) {
	c := Campaign{Campaign: r.Campaign, State: CampaignRunning, Created: f.now().UTC(), By: who, Staged: r.Staged}
	c.V = 1
	if c.Group == "" {
		c.Group = DefaultGroup
	}
	if c.ID == "" {
		c.ID = newCampaignID(c.Name)
	}
	for _, id := range r.AssetIDs {
		a, err := f.Asset(ctx, r.Publisher, id)
		if err != nil {
			return c, err
		}
		if a.Withdrawn {
			return c, fmt.Errorf("%w: asset %s is withdrawn", ErrConflict, id)
		}
		c.Assets = append(c.Assets, catalog.AssetRef{Path: a.Path, ID: a.ID, PrefixBytes: r.PrefixBytes})
	}
	if c.Staged != nil {
		if err := c.Staged.start(&c.Campaign, f.now()); err != nil {
			return c, fmt.Errorf("%w: %w", ErrBad, err)
		}
	}
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("%w: %w", ErrBad, err)
	}
	if !c.KeepUntil.IsZero() && c.KeepUntil.Before(f.now()) {
		return c, fmt.Errorf("%w: keep_until %s is over: no box would take it", ErrBad, c.KeepUntil.Format(time.RFC3339))
	}
	if err := f.checkCohorts(ctx, &c); err != nil {
		return c, err
	}
	switch _, err := f.campaign(ctx, c.ID); {
	case err == nil:
		return c, fmt.Errorf("%w: there is a campaign %s already", ErrConflict, c.ID)
	case !errors.Is(err, registry.ErrNotFound):
		return c, err
	}
	return c, nil
}

// CreateCampaign signs a campaign into the catalog.
func (f *Fleet) CreateCampaign(ctx context.Context, who string, r CampaignRequest) (Campaign, error) {
	c, err := f.newCampaign(ctx, who, r)
	if err != nil {
		return c, err
	}
	change, err := f.inRoom(ctx, &c)
	if err != nil {
		return c, err
	}
	f.editing.Lock()
	defer f.editing.Unlock()
	// The record first: a rollout that the catalog has and fleetd does not know would never be stopped.
	if err := f.o.Registry.PutDoc(ctx, tableCampaigns, c.ID, c); err != nil {
		return c, err
	}
	if err := f.o.Repo.Update(change); err != nil {
		return c, errors.Join(fmt.Errorf("%w: campaign %s: %w", ErrBad, c.ID, keyless(err)),
			f.o.Registry.DeleteDoc(ctx, tableCampaigns, c.ID))
	}
	return c, f.o.Registry.Audit(ctx, who, "create-campaign", c.ID, c.Name+" on "+c.Group)
}

func newCampaignID(name string) string {
	slug := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name), "-")
	slug = strings.Trim(slug[:min(len(slug), 24)], "-")
	if slug == "" {
		slug = "campaign"
	}
	var b [4]byte
	_, _ = rand.Read(b[:])
	return slug + "-" + hex.EncodeToString(b[:])
}

func (f *Fleet) campaign(ctx context.Context, id string) (Campaign, error) {
	return registry.GetDoc[Campaign](ctx, f.o.Registry, tableCampaigns, id)
}

// Campaign returns one campaign with its counts.
func (f *Fleet) Campaign(ctx context.Context, id string) (Campaign, error) {
	c, err := f.campaign(ctx, id)
	if err != nil {
		return c, err
	}
	counts, err := f.count(ctx, &c)
	if err == nil {
		c.explain(f.now(), counts)
	}
	c.Counts = &counts
	return c, err
}

// Campaigns lists all campaigns, newest first, with their counts when asked for.
func (f *Fleet) Campaigns(ctx context.Context, withCounts bool) ([]Campaign, error) {
	list, err := registry.ListDocs[Campaign](ctx, f.o.Registry, tableCampaigns)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, func(a, b Campaign) int { return b.Created.Compare(a.Created) })
	for i := range list {
		if withCounts && !list[i].over() {
			counts, err := f.count(ctx, &list[i])
			if err != nil {
				return nil, err
			}
			list[i].Counts = &counts
			list[i].explain(f.now(), counts)
		}
	}
	return list, nil
}

// SetCampaignState pauses, resumes or aborts a campaign.
func (f *Fleet) SetCampaignState(ctx context.Context, who, id, state, why string) (Campaign, error) {
	failed := 0 // boxes so far
	if state == CampaignRunning {
		c, err := f.campaign(ctx, id)
		if err == nil && c.Staged != nil && c.State == CampaignPaused {
			var n Counts
			n, err = f.count(ctx, &c)
			failed = n.Failed
		}
		if err != nil {
			return c, err
		}
	}
	c, err := f.editCampaign(ctx, id, func(c *Campaign) error {
		switch {
		case c.State == CampaignAborted && state != CampaignAborted:
			return fmt.Errorf("%w: campaign %s was aborted", ErrConflict, id)
		case c.State == CampaignEnded:
			return fmt.Errorf("%w: campaign %s has ended", ErrConflict, id)
		case c.State == CampaignDrafted && state == CampaignPaused:
			return fmt.Errorf("%w: campaign %s is not signed yet", ErrConflict, id)
		case c.State == CampaignDrafted && state == CampaignRunning:
			return nil // it is signed now, or drafted once more: adoptDrafted does the rest
		case state != CampaignRunning && state != CampaignPaused && state != CampaignAborted:
			return fmt.Errorf("%w: state %q", ErrBad, state)
		}
		if state == CampaignRunning && c.Staged != nil {
			c.Staged.Since = f.now().UTC()
			if c.State == CampaignPaused {
				c.Staged.Forgiven = failed
			}
		}
		c.State, c.Why, c.Paused = state, why, state == CampaignPaused
		if c.Staged != nil {
			c.Staged.Stopped = c.Paused && who == rolloutItself
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	if c.State == CampaignDrafted {
		if err := f.adoptDrafted(ctx, &c); err != nil {
			return c, err
		}
		if c, err = f.campaign(ctx, id); err != nil {
			return c, err
		}
	}
	return c, f.o.Registry.Audit(ctx, who, "campaign-"+state, id, why)
}

// editCampaign changes the record and then the catalog; when the second step fails, or fleetd dies in between, it is done
// later (see syncCampaigns).
func (f *Fleet) editCampaign(ctx context.Context, id string, edit func(*Campaign) error) (Campaign, error) {
	var c Campaign
	if err := f.Fence(); err != nil {
		return c, err
	}
	f.editing.Lock()
	defer f.editing.Unlock()
	err := registry.EditDoc(ctx, f.o.Registry, tableCampaigns, id, func(doc *Campaign) error {
		if doc.ID == "" {
			return fmt.Errorf("campaign %q: %w", id, registry.ErrNotFound)
		}
		if err := edit(doc); err != nil {
			return err
		}
		if err := doc.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrBad, err)
		}
		c = *doc
		return nil
	})
	if err != nil {
		return c, err
	}
	return c, f.publishCampaign(&c)
}

func (f *Fleet) publishCampaign(c *Campaign) error {
	err := f.o.Repo.Update(campaignChange(c))
	if err != nil {
		return fmt.Errorf("publish campaign %s: %w", c.ID, keyless(err))
	}
	return nil
}

// swapInCampaigns does in the records what the catalog does when the asset at a path is withdrawn, removed or replaced: next, or
// nothing when it is nil, takes its place, and a campaign that is left without an asset ends. It returns the records that it
// changed. The caller holds f.editing.
func (f *Fleet) swapInCampaigns(ctx context.Context, old string, next *catalog.AssetRef) ([]Campaign, error) {
	list, err := f.Campaigns(ctx, false)
	if err != nil {
		return nil, err
	}
	var changed []Campaign
	for _, c := range list {
		if c.over() || indexPath(c.Assets, old) < 0 {
			continue
		}
		err := registry.EditDoc(ctx, f.o.Registry, tableCampaigns, c.ID, func(doc *Campaign) error {
			for i := indexPath(doc.Assets, old); i >= 0; i = indexPath(doc.Assets, old) {
				if next == nil || indexAsset(doc.Assets, next.ID) >= 0 {
					doc.Assets = slices.Delete(doc.Assets, i, i+1)
					continue
				}
				doc.Assets[i] = catalog.AssetRef{Path: next.Path, ID: next.ID, PrefixBytes: doc.Assets[i].PrefixBytes}
			}
			doc.setAssets(doc.Assets)
			c = *doc
			return nil
		})
		if err != nil {
			return changed, err
		}
		changed = append(changed, c)
	}
	return changed, nil
}

func indexPath(refs []catalog.AssetRef, path string) int {
	return slices.IndexFunc(refs, func(r catalog.AssetRef) bool { return r.Path == path })
}

func indexAsset(refs []catalog.AssetRef, id asset.ID) int {
	return slices.IndexFunc(refs, func(r catalog.AssetRef) bool { return r.ID == id })
}
