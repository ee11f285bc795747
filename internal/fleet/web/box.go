package web

import (
	"context"
	"encoding/json"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// Box is all that the picture of a box needs.
type Box struct {
	registry.Box
	Report    *mqttwire.Reported `json:"report,omitempty"`
	Home      []HomeBox          `json:"home,omitempty"`       // the others of its home
	Courier   int                `json:"courier_of,omitempty"` // assets that it carries for its home
	Labels    []AssetLabel       `json:"labels"`               // of the assets in Ready and Report
	MoreReady int                `json:"more_ready,omitempty"`
	Campaigns []catalog.Campaign `json:"campaigns"` // that target it
	Alerts    []mqttwire.Warning `json:"alerts"`
	History   []registry.Event   `json:"history"`
	Now       time.Time          `json:"now"`
}

const (
	maxReady   = 200
	maxHistory = 40
)

// Boxes returns a page of boxes.
func (v *View) Boxes(ctx context.Context, q registry.BoxQuery) (registry.BoxPage, error) {
	return v.registry().BoxPage(ctx, q)
}

// Box returns one box.
func (v *View) Box(ctx context.Context, id string) (*Box, error) {
	b, err := v.registry().Box(ctx, id)
	if err != nil {
		return nil, err
	}
	v.want(ctx, "")
	out := &Box{
		Box: b, Now: v.o.Now().UTC(), Campaigns: []catalog.Campaign{}, Labels: []AssetLabel{}, Alerts: []mqttwire.Warning{},
	}
	if n := len(out.Ready); n > maxReady {
		out.Ready, out.MoreReady = out.Ready[n-maxReady:], n-maxReady
	}
	for _, h := range out.Ready {
		out.Labels = append(out.Labels, v.label(h.ID))
	}
	if len(b.Reported) > 0 {
		var r mqttwire.Reported
		if json.Unmarshal(b.Reported, &r) == nil { // it was checked when it came
			out.Report = &r
			out.Alerts, out.Courier = r.Health, couriers(&r)
			if out.Home, err = v.home(ctx, &r); err != nil {
				return nil, err
			}
			for _, a := range r.Assets {
				out.Labels = append(out.Labels, v.label(a.ID))
			}
		}
		out.Box.Reported = nil
	}
	list, err := v.o.Fleet.Campaigns(ctx, false)
	if err != nil {
		return nil, err
	}
	for i := range list {
		c := &list[i]
		wanted := c.State != operate.CampaignDrafted && c.Group == b.Group && goesOn(c, out.Now)
		if wanted && c.Includes(b.ID, []string{b.Group}) && len(out.Campaigns) < 50 {
			out.Campaigns = append(out.Campaigns, c.Campaign)
		}
	}
	out.History, err = v.registry().History(ctx, id, 0, maxHistory)
	return out, err
}
