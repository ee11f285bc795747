package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"boxd/internal/catalog"
)

// PutCampaign adds a campaign to its group or replaces the one with the same id. Its assets must be in the catalog and not
// withdrawn.
func (tx *Tx) PutCampaign(c catalog.Campaign) error {
	if c.V == 0 {
		c.V = 1
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("campaign %.60q: %w", c.ID, err)
	}
	gone, err := tx.Withdrawn()
	if err != nil {
		return err
	}
	for _, ref := range c.Assets {
		if slices.Contains(gone, ref.ID) {
			return fmt.Errorf("campaign %s: asset %s is withdrawn", c.ID, ref.ID)
		}
		if _, err := tx.Torrent(ref.Path); err != nil {
			return fmt.Errorf("campaign %s: %w", c.ID, err)
		}
	}
	list, err := tx.Campaigns(c.Group)
	if err != nil {
		return err
	}
	if i := indexCampaign(list, c.ID); i >= 0 {
		list[i] = c
	} else {
		list = append(list, c)
	}
	return tx.setGroup(c.Group, list)
}

// RemoveCampaign ends a campaign: boxes may evict its assets when they need the space.
func (tx *Tx) RemoveCampaign(group, id string) error {
	list, err := tx.Campaigns(group)
	if err != nil {
		return err
	}
	i := indexCampaign(list, id)
	if i < 0 {
		return fmt.Errorf("campaign %s of group %s: %w", id, group, ErrNotFound)
	}
	return tx.setGroup(group, slices.Delete(list, i, i+1))
}

// Campaigns lists the campaigns of a group; a group that was never named has none.
func (tx *Tx) Campaigns(group string) ([]catalog.Campaign, error) {
	if !catalog.ValidName(group) {
		return nil, fmt.Errorf("group %.60q: want 1 to 40 lower-case letters, digits and inner hyphens", group)
	}
	b, err := tx.target(RoleCampaigns, catalog.GroupPath(group))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	g, err := catalog.ParseGroup(b)
	if err != nil {
		return nil, err
	}
	if len(g.Newer) > 0 {
		return nil, fmt.Errorf("group %s has campaigns that a later version wrote: %q", group, g.Newer)
	}
	return g.Campaigns, nil
}

// Groups lists the groups that have a file in the catalog.
func (tx *Tx) Groups() ([]string, error) {
	m, err := tx.role(RoleCampaigns)
	if err != nil {
		return nil, err
	}
	var groups []string
	for _, name := range sortedKeys(m.Signed.Targets) {
		if g, ok := strings.CutPrefix(name, "groups/"); ok {
			groups = append(groups, strings.TrimSuffix(g, ".json"))
		}
	}
	return groups, nil
}

func (tx *Tx) setGroup(group string, list []catalog.Campaign) error {
	f := catalog.GroupFile{V: 1, Group: group, Campaigns: nonNil(list)}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if _, err := catalog.ParseGroup(b); err != nil {
		return err
	}
	return tx.setTarget(RoleCampaigns, catalog.GroupPath(group), b, nil)
}

// ReplaceAsset puts a new version in the place of the asset at an old path in all campaigns that name it, keeping each one's windows and
// deadlines, and returns how many it changed. Boxes keep the old version until no campaign names it.
func (tx *Tx) ReplaceAsset(old string, next catalog.AssetRef) (int, error) {
	if _, err := tx.Torrent(next.Path); err != nil {
		return 0, err
	}
	groups, err := tx.Groups()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, group := range groups {
		list, err := tx.Campaigns(group)
		if err != nil {
			return n, err
		}
		before := n
		for i := range list {
			refs := list[i].Assets
			at := slices.IndexFunc(refs, func(r catalog.AssetRef) bool { return r.Path == old })
			if at < 0 {
				continue
			}
			n++
			if slices.ContainsFunc(refs, func(r catalog.AssetRef) bool { return r.ID == next.ID }) {
				list[i].Assets = slices.Delete(refs, at, at+1)
				continue
			}
			refs[at] = catalog.AssetRef{Path: next.Path, ID: next.ID, PrefixBytes: refs[at].PrefixBytes}
		}
		if n > before {
			if err := tx.setGroup(group, list); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// DropFromCampaigns takes the asset at a path out of all campaigns; a campaign that is left without one ends. Another
// publisher's asset of the same bytes stays in its own.
func (tx *Tx) DropFromCampaigns(path string) error {
	return tx.dropFromCampaigns(func(r catalog.AssetRef) bool { return r.Path == path })
}

func (tx *Tx) dropFromCampaigns(gone func(catalog.AssetRef) bool) error {
	groups, err := tx.Groups()
	if err != nil {
		return err
	}
	for _, group := range groups {
		list, err := tx.Campaigns(group)
		if err != nil {
			return err
		}
		changed := false
		for i := range list {
			n := len(list[i].Assets)
			list[i].Assets = slices.DeleteFunc(list[i].Assets, gone)
			changed = changed || len(list[i].Assets) != n
		}
		if !changed {
			continue
		}
		list = slices.DeleteFunc(list, func(c catalog.Campaign) bool { return len(c.Assets) == 0 })
		if err := tx.setGroup(group, list); err != nil {
			return err
		}
	}
	return nil
}

func indexCampaign(list []catalog.Campaign, id string) int {
	return slices.IndexFunc(list, func(c catalog.Campaign) bool { return c.ID == id })
}
