package catalog

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"boxd/internal/asset"
)

// Limits of what a group file may say. A file beyond one is refused whole.
const (
	MaxCampaigns      = 256     // campaigns of one group
	MaxCampaignAssets = 1024    // assets of one campaign
	MaxWindows        = 64      // windows of one campaign
	MaxGroupBytes     = 1 << 20 // bytes of a group file
	MaxNameBytes      = 200     // bytes of a campaign's name
)

// Campaign is an operator's wish: these assets, on this group of boxes, in these windows, by this deadline, kept until
// then. It is signed under the campaigns role, as part of its group's file.
type Campaign struct {
	V      int        `json:"v"` // 1
	ID     string     `json:"id"`
	Name   string     `json:"name,omitempty"`
	Group  string     `json:"group"`
	Assets []AssetRef `json:"assets"`

	NotBefore time.Time `json:"not_before,omitzero"` // zero: at once
	Deadline  time.Time `json:"deadline,omitzero"`   // zero: none
	KeepUntil time.Time `json:"keep_until,omitzero"` // zero: as long as the campaign is in the catalog
	Priority  int       `json:"priority,omitempty"`  // -1000 to 1000, higher is more important

	Windows []Window     `json:"windows,omitempty"` // when the WAN may be used; none: any time
	Spread  Duration     `json:"spread,omitempty"`  // starts are spread over this time, by box
	Origin  OriginPolicy `json:"origin,omitzero"`

	// MissedStops ends the fetch of what is not complete at the deadline; otherwise a late asset still completes.
	MissedStops bool `json:"missed_stops,omitempty"`
	// Paused keeps what is there and fetches nothing more.
	Paused bool `json:"paused,omitempty"`
	// Rollout limits the campaign to a part of the group; nil means all of it.
	Rollout *Rollout `json:"rollout,omitempty"`
}

// AssetRef names one asset of a campaign by the path under which its publisher signed it.
type AssetRef struct {
	Path        string   `json:"path"` // assets/<publisher>/<id>.torrent
	ID          asset.ID `json:"id"`
	PrefixBytes int64    `json:"prefix_bytes,omitempty"` // fetched before the rest of any asset
}

// OriginPolicy says when boxes may ask the origin.
type OriginPolicy struct {
	Never               bool     `json:"never,omitempty"`
	Delay               Duration `json:"delay,omitempty"`                  // peers alone are tried for so long
	FloorBytesPerSecond int64    `json:"floor_bytes_per_second,omitempty"` // below it, the origin also sends what peers have
}

// Rollout is a stage of a staged rollout. A box is in it if it, or its group, is one of the cohorts, or if its place in the
// fleet, a number from 0 to 999 that follows from the campaign's and the box's id, is below PerMille. Raising PerMille
// only adds boxes, and a box that joins the group later has its place like all others.
type Rollout struct {
	PerMille int      `json:"per_mille"`
	Cohorts  []string `json:"cohorts,omitempty"` // boxes, or groups
}

// Publisher is the second element of the path.
func (r AssetRef) Publisher() string {
	if e := strings.Split(r.Path, "/"); len(e) == 3 {
		return e[1]
	}
	return ""
}

// AssetPath is the path of the target that describes an asset.
func AssetPath(publisher string, id asset.ID) string {
	return "assets/" + publisher + "/" + id.String() + ".torrent"
}

// GroupPath is the path of the target that holds a group's campaigns.
func GroupPath(group string) string { return "groups/" + group + ".json" }

var nameRE = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$`)

// ValidName reports whether s may name a group, a publisher or a campaign: 1 to 40 lower-case letters, digits and inner
// hyphens.
func ValidName(s string) bool { return nameRE.MatchString(s) }

// ParseCampaign reads one campaign strictly: unknown keys, a second value and all that Validate refuses are errors.
func ParseCampaign(b []byte) (Campaign, error) {
	var c Campaign
	if err := strict(b, &c); err != nil {
		return Campaign{}, fmt.Errorf("campaign: %w", err)
	}
	if err := c.Validate(); err != nil {
		return Campaign{}, fmt.Errorf("campaign %.60q: %w", c.ID, err)
	}
	return c, nil
}

// Validate joins all faults of a campaign.
func (c *Campaign) Validate() error {
	var faults []error
	fault := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(c.V == 1, "v is %d, want 1", c.V)
	fault(ValidName(c.ID), "id %.60q: want 1 to 40 lower-case letters, digits and inner hyphens", c.ID)
	fault(ValidName(c.Group), "group %.60q: want 1 to 40 lower-case letters, digits and inner hyphens", c.Group)
	fault(len(c.Name) <= MaxNameBytes, "name has %d bytes, more than %d", len(c.Name), MaxNameBytes)
	fault(c.Priority >= -1000 && c.Priority <= 1000, "priority %d is not from -1000 to 1000", c.Priority)
	fault(c.Spread >= 0, "spread %s is negative", c.Spread)
	fault(c.Origin.Delay >= 0, "origin.delay %s is negative", c.Origin.Delay)
	fault(c.Origin.FloorBytesPerSecond >= 0, "origin.floor_bytes_per_second is negative")
	fault(!c.Origin.Never || c.Origin == OriginPolicy{Never: true}, "origin.never rules out the other origin keys")
	fault(c.Deadline.IsZero() || c.NotBefore.IsZero() || c.NotBefore.Before(c.Deadline),
		"deadline %s is not after not_before %s", c.Deadline, c.NotBefore)
	fault(c.KeepUntil.IsZero() || !c.KeepUntil.Before(c.Deadline), "keep_until %s is before deadline %s",
		c.KeepUntil, c.Deadline)
	fault(c.Rollout == nil || c.Rollout.PerMille >= 0 && c.Rollout.PerMille <= 1000, "rollout.per_mille is not 0 to 1000")
	fault(len(c.Windows) <= MaxWindows, "%d windows, more than %d", len(c.Windows), MaxWindows)
	for i, w := range c.Windows {
		if err := w.Validate(); err != nil {
			faults = append(faults, fmt.Errorf("windows[%d]: %w", i, err))
		}
	}
	if c.Rollout != nil {
		for _, g := range c.Rollout.Cohorts {
			fault(ValidName(g), "rollout cohort %.60q is not a name of a box or group", g)
		}
	}
	return errors.Join(append(faults, c.validateAssets())...)
}

func (c *Campaign) validateAssets() error {
	if len(c.Assets) == 0 || len(c.Assets) > MaxCampaignAssets {
		return fmt.Errorf("%d assets, want 1 to %d", len(c.Assets), MaxCampaignAssets)
	}
	var faults []error
	seen := make(map[asset.ID]bool, len(c.Assets))
	for i, r := range c.Assets {
		switch {
		case !ValidName(r.Publisher()) || r.Path != AssetPath(r.Publisher(), r.ID):
			faults = append(faults, fmt.Errorf("assets[%d]: path %.120q is not assets/<publisher>/%s.torrent", i, r.Path, r.ID))
		case seen[r.ID]:
			faults = append(faults, fmt.Errorf("assets[%d]: %s is there twice", i, r.ID))
		case r.PrefixBytes < 0:
			faults = append(faults, fmt.Errorf("assets[%d]: prefix_bytes is negative", i))
		}
		seen[r.ID] = true
	}
	return errors.Join(faults...)
}
