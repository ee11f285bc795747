package server_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
	"boxd/internal/mgmt"
	"boxd/internal/mqttwire"
)

// campaignOf is how the campaign stands in the box's catalog; nil when it is not there, or the box is not in it yet.
func (b *box) campaignOf(id string) *catalog.Campaign {
	for _, c := range b.cat.Snapshot().Campaigns {
		if c.ID == id {
			return &c
		}
	}
	return nil
}

// early reports whether the box is in the first half.
func (b *box) early(id string) bool { return catalog.Place(id, b.id.BoxID()) < 500 }

func (b *box) fail(id asset.ID) {
	b.set(func(r *mgmt.Report) {
		r.Assets = []mqttwire.AssetProgress{{ID: id, State: mqttwire.Failed, Code: "bad-disk", Size: 1}}
	})
}

func (b *box) finish(id asset.ID, campaign string) {
	b.set(func(r *mgmt.Report) {
		r.Assets = nil
		r.Holdings = []mgmt.Holding{{ID: id, Name: "film", Campaign: campaign, Size: 1, At: time.Now(), Trusted: true}}
	})
}

// splitting finds a campaign id that has exactly so many of the boxes in its first half.
func splitting(t *testing.T, boxes []*box, want int) string {
	t.Helper()
	for n := range 10_000 {
		id, in := "half-"+strconv.Itoa(n), 0
		for _, b := range boxes {
			if b.early(id) {
				in++
			}
		}
		if in == want {
			return id
		}
	}
	t.Fatal("no such id")
	return ""
}

// A rollout stops itself when too many boxes of its stage fail, takes in a box that joins late, goes on when it is resumed,
// widens when its stage is ready, and is gone from the boxes when it is aborted.
func TestARolloutStopsItselfAndGoesOn(t *testing.T) {
	t.Parallel()
	m := startManager(t, t.TempDir())
	token := firmwareToken(t, m)
	var boxes []*box
	for range 5 {
		boxes = append(boxes, startBox(t, m, token))
	}
	film := publishFilm(t, m, "film")
	id := splitting(t, boxes, 3)
	m.must(t, http.MethodPost, "/api/v1/campaigns", map[string]any{
		"v": 1, "id": id, "name": "Half", "group": "default", "assets": nil, "asset_ids": []string{film.String()},
		"staged": map[string]any{
			"stages": []any{map[string]any{"per_mille": 500}, map[string]any{"per_mille": 1000}}, "max_errors": 0.4,
		},
	}, nil)
	var in []*box
	for _, b := range boxes {
		if b.early(id) {
			in = append(in, b)
		}
	}
	eventually(t, "the campaign is on the boxes of the first stage, and on no others", func() bool {
		for _, b := range boxes {
			if (b.campaignOf(id) != nil) != b.early(id) {
				return false
			}
		}
		return true
	})
	in[0].finish(film, id)
	in[1].fail(film)
	in[2].fail(film)
	campaign := func() (c operate.Campaign) {
		m.must(t, http.MethodGet, "/api/v1/campaigns/"+id, nil, &c)
		return c
	}
	eventually(t, "the rollout has stopped itself", func() bool { return campaign().State == operate.CampaignPaused })
	if c := campaign(); !strings.Contains(c.Why, "2 of 3 boxes failed") || c.Counts.Failed != 2 || c.Staged.Stage != 0 {
		t.Errorf("paused: %q, %+v, stage %d", c.Why, c.Counts, c.Staged.Stage)
	}
	alerted := func(code string) bool {
		var alerts []registry.Alert
		m.must(t, http.MethodGet, "/api/v1/alerts?code="+code, nil, &alerts)
		return len(alerts) == 1
	}
	eventually(t, "somebody is told that it has stopped itself", func() bool { return alerted("rollout-stopped-" + id) })
	late := startBox(t, m, token)
	boxes = append(boxes, late)
	eventually(t, "the boxes know that it is paused, the late one too", func() bool {
		for _, b := range boxes {
			if c := b.campaignOf(id); b.early(id) && (c == nil || !c.Paused) {
				return false
			}
		}
		return true
	})

	in[1].finish(film, id)
	in[2].finish(film, id)
	if late.early(id) {
		late.finish(film, id)
	}
	m.must(t, http.MethodPost, "/api/v1/campaigns/"+id+"/state", map[string]string{"state": "running"}, nil)
	eventually(t, "it has gone on to all", func() bool {
		for _, b := range boxes {
			if c := b.campaignOf(id); c == nil || c.Paused {
				return false
			}
		}
		return campaign().Staged.Done
	})
	eventually(t, "the alert has gone", func() bool { return !alerted("rollout-stopped-" + id) })
	for _, b := range boxes {
		b.finish(film, id)
	}
	eventually(t, "all boxes are ready", func() bool { c := campaign(); return c.Counts.Ready == 6 && c.Counts.Boxes == 6 })

	m.must(t, http.MethodPost, "/api/v1/campaigns/"+id+"/state", map[string]string{"state": "aborted", "why": "test"}, nil)
	eventually(t, "it is gone from the boxes", func() bool {
		for _, b := range boxes {
			if b.campaignOf(id) != nil {
				return false
			}
		}
		return true
	})

	// One whose first stage has nobody in it waits, and tells.
	nobody := splitting(t, boxes, 0)
	m.must(t, http.MethodPost, "/api/v1/campaigns", map[string]any{
		"v": 1, "id": nobody, "name": "Nobody", "group": "default", "assets": nil, "asset_ids": []string{film.String()},
		"staged": map[string]any{"stages": []any{map[string]any{"per_mille": 500}, map[string]any{"per_mille": 1000}}},
	}, nil)
	eventually(t, "somebody is told that its stage is empty", func() bool { return alerted("rollout-waits-" + nobody) })
	again := map[string]string{"state": "running"}
	if status := m.do(t, m.token, http.MethodPost, "/api/v1/campaigns/"+id+"/state", again, nil); status != http.StatusConflict {
		t.Errorf("an aborted campaign was resumed: status %d", status)
	}
}
