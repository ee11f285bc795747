package web

import (
	"context"
	"errors"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
)

// Overview is the fleet at a glance.
type Overview struct {
	Fleet   string    `json:"fleet"`
	At      time.Time `json:"at"` // when it was counted
	Catalog int64     `json:"catalog_version"`
	registry.Glance
	Campaigns     []CampaignLine    `json:"campaigns"` // those that run or are paused, the nearest deadline first
	MoreCampaigns int               `json:"more_campaigns,omitempty"`
	Day           registry.Arrivals `json:"day"` // of the last 24 hours
	OriginSent    int64             `json:"origin_sent"`
}

// CampaignLine is a campaign in a list.
type CampaignLine struct {
	ID       string       `json:"id"`
	Name     string       `json:"name"`
	Group    string       `json:"group"`
	State    string       `json:"state"`
	Why      string       `json:"why,omitempty"`
	Created  time.Time    `json:"created"`
	Deadline time.Time    `json:"deadline,omitzero"`
	PerMille int          `json:"per_mille"`
	Stage    int          `json:"stage,omitempty"`  // from 1
	Stages   int          `json:"stages,omitempty"` // 0: not staged
	Assets   []AssetLabel `json:"assets"`
	Counts   *Counted     `json:"counts,omitempty"` // nil: not counted yet
}

const (
	maxLive   = 20 // campaigns whose counts are kept fresh
	maxListed = 200
	watching  = time.Minute // a campaign is counted for so long after somebody looked at it
	longGone  = 7 * 24 * time.Hour
)

// ErrNotYet is returned while the first count is going on.
var ErrNotYet = errors.New("the fleet is being counted for the first time")

// Overview returns the fleet at a glance.
func (v *View) Overview(ctx context.Context) (*Overview, error) {
	if cur := v.want(ctx, ""); cur != nil {
		return cur, nil
	}
	return nil, ErrNotYet
}

func (v *View) overview(ctx context.Context) (*Overview, error) {
	now := v.o.Now().UTC()
	out := &Overview{Fleet: v.o.Fleet.ID(), At: now, Campaigns: []CampaignLine{}}
	var err error
	if out.Glance, err = v.registry().Glance(ctx); err != nil {
		return nil, err
	}
	if out.Catalog, err = v.o.Fleet.CatalogVersion(); err != nil {
		return nil, err
	}
	day, err := v.registry().ArrivalSeries(ctx, nil, "", now.Add(-24*time.Hour), now, 24*time.Hour)
	if err != nil {
		return nil, err
	}
	for _, p := range day {
		out.Day.Boxes += p.Boxes
		out.Day.Length += p.Length
		out.Day.LAN += p.LAN
		out.Day.Peer += p.Peer
		out.Day.Origin += p.Origin
	}
	if v.o.Origin != nil {
		for _, n := range v.o.Origin() {
			out.OriginSent += n
		}
	}
	return out, v.live(ctx, out, now)
}

// live fills in the campaigns that go on, and counts them and those that somebody looks at.
func (v *View) live(ctx context.Context, out *Overview, now time.Time) error {
	list, err := v.o.Fleet.Campaigns(ctx, false)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for i := range list {
		c := &list[i]
		known[c.ID] = true
		live := goesOn(c, now) && len(out.Campaigns) < maxLive
		v.mu.Lock()
		looked := now.Sub(v.asked[c.ID]) < watching
		v.mu.Unlock()
		if live || looked {
			n, err := v.o.Fleet.CountCampaign(ctx, c)
			if err != nil {
				return err
			}
			v.mu.Lock()
			v.counts[c.ID] = Counted{n, now}
			v.mu.Unlock()
		}
		switch {
		case live:
			out.Campaigns = append(out.Campaigns, v.line(c))
		case goesOn(c, now):
			out.MoreCampaigns++
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for id := range v.counts {
		if !known[id] {
			delete(v.counts, id)
		}
	}
	for id, at := range v.asked {
		if now.Sub(at) > watching {
			delete(v.asked, id)
		}
	}
	return nil
}

// goesOn reports whether a campaign belongs on the first page: it is neither aborted nor ended, and its deadline is not long gone.
func goesOn(c *operate.Campaign, now time.Time) bool {
	end := c.Deadline
	if c.KeepUntil.After(end) && !c.KeepUntil.IsZero() && c.Deadline.IsZero() {
		end = c.KeepUntil
	}
	over := c.State == operate.CampaignAborted || c.State == operate.CampaignEnded
	return !over && (end.IsZero() || now.Sub(end) < longGone)
}

func (v *View) line(c *operate.Campaign) CampaignLine {
	l := CampaignLine{
		ID: c.ID, Name: c.Name, Group: c.Group, State: c.State, Why: c.Why, Created: c.Created, Deadline: c.Deadline,
		PerMille: perMille(c.Rollout),
	}
	if l.Name == "" {
		l.Name = c.ID
	}
	if c.Staged != nil {
		l.Stage, l.Stages = c.Staged.Stage+1, len(c.Staged.Stages)
	}
	for _, a := range c.Assets {
		l.Assets = append(l.Assets, v.label(a.ID))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if n, ok := v.counts[c.ID]; ok {
		l.Counts = &n
	}
	return l
}

func perMille(r *catalog.Rollout) int {
	if r == nil {
		return 1000
	}
	return r.PerMille
}

// Campaigns lists campaigns, newest first, from the one after a given id on.
func (v *View) Campaigns(ctx context.Context, after string, limit int) ([]CampaignLine, error) {
	v.want(ctx, "")
	list, err := v.o.Fleet.Campaigns(ctx, false)
	if err != nil {
		return nil, err
	}
	out, on := []CampaignLine{}, after == ""
	for i := range list {
		if on && len(out) < min(max(limit, 1), maxListed) {
			out = append(out, v.line(&list[i]))
		}
		on = on || list[i].ID == after
	}
	return out, nil
}

// Campaign is one campaign and the curve of its arrivals.
type Campaign struct {
	CampaignLine
	Record   operate.Campaign        `json:"record"`
	Curve    []registry.ArrivalPoint `json:"curve"` // by step, not summed
	StepSecs int64                   `json:"step_seconds"`
	Now      time.Time               `json:"now"`
}

// Campaign returns one campaign.
func (v *View) Campaign(ctx context.Context, id string) (*Campaign, error) {
	c, err := v.o.Fleet.CampaignRecord(ctx, id)
	if err != nil {
		return nil, err
	}
	v.want(ctx, id)
	now := v.o.Now().UTC()
	out := &Campaign{CampaignLine: v.line(&c), Record: c, Now: now}
	end := now
	if !c.Deadline.IsZero() && c.Deadline.Add(longGone).Before(now) {
		end = c.Deadline.Add(longGone)
	}
	step := stepOf(end.Sub(c.Created))
	out.StepSecs = int64(step / time.Second)
	ids := make([]string, 0, len(c.Assets))
	for _, a := range c.Assets {
		ids = append(ids, a.ID.String())
	}
	out.Curve, err = v.registry().ArrivalSeries(ctx, ids, c.Group, c.Created, end, step)
	return out, err
}

// stepOf keeps a series below some 300 points.
func stepOf(span time.Duration) time.Duration {
	for _, s := range []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour} {
		if span/s < 300 {
			return s
		}
	}
	return 24 * time.Hour
}

// Series is what arrived over time, from where.
type Series struct {
	From     time.Time               `json:"from"`
	To       time.Time               `json:"to"`
	StepSecs int64                   `json:"step_seconds"`
	Points   []registry.ArrivalPoint `json:"points"`
}

// Offload returns arrivals of the last hours by source.
func (v *View) Offload(ctx context.Context, hours int) (*Series, error) {
	now := v.o.Now().UTC()
	out := &Series{From: now.Add(-time.Duration(hours) * time.Hour), To: now}
	step := stepOf(2 * now.Sub(out.From))
	out.StepSecs = int64(step / time.Second)
	var err error
	out.Points, err = v.registry().ArrivalSeries(ctx, nil, "", out.From, out.To, step)
	return out, err
}
