package operate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/repo"
)

// nightly is how many campaigns nights makes.
const nightly = 4

// nights puts campaigns into the catalog that are kept for an hour, and returns the clock.
func (d *desk) nights(film asset.ID) *time.Time {
	d.t.Helper()
	clock := time.Now()
	d.Fleet.now = func() time.Time { return clock }
	refs := []catalog.AssetRef{{Path: d.entry(film).Path, ID: film}}
	err := d.o.Repo.Update(func(tx *repo.Tx) error {
		for i := range nightly - 1 {
			c := catalog.Campaign{V: 1, ID: fmt.Sprintf("night-%d", i), Group: DefaultGroup, Assets: refs, KeepUntil: clock.Add(time.Hour)}
			if err := tx.PutCampaign(c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = d.CreateCampaign(ctx, "test", CampaignRequest{
		Campaign: catalog.Campaign{ID: "last", Name: "last", KeepUntil: clock.Add(time.Hour)}, AssetIDs: []asset.ID{film},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return &clock
}

func (d *desk) inCatalog() int {
	d.t.Helper()
	have, err := d.publishedCampaigns()
	if err != nil {
		d.t.Fatal(err)
	}
	return len(have)
}

// A group has room for so many campaigns; one for each night finds room for ever, as those that are over leave.
func TestEndedCampaignsMakeRoom(t *testing.T) {
	d := newDesk(t)
	film := d.film("film", asset.ID{})
	clock := d.nights(film)
	more := func(id string) error {
		_, err := d.CreateCampaign(ctx, "test", CampaignRequest{Campaign: catalog.Campaign{ID: id, Name: id}, AssetIDs: []asset.ID{film}})
		return err
	}
	full := Campaign{Campaign: *d.published("last")}
	if err := d.o.Repo.Update(makeRoom(&full, *clock, nightly)); err != nil {
		t.Errorf("a change of one that is there: %v", err)
	}
	full.ID = "full"
	if err := d.o.Repo.Update(makeRoom(&full, *clock, nightly)); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "keep_until") {
		t.Errorf("a campaign too many: %v", err)
	}
	*clock = clock.Add(26 * time.Hour)
	if err := d.prune(ctx); err != nil || d.inCatalog() != nightly {
		t.Errorf("no box has confirmed the clock, and %d are left: %v", d.inCatalog(), err)
	}
	d.hear("box-a")
	if err := more("next"); err != nil || d.inCatalog() != 1 {
		t.Errorf("%d in the catalog: %v", d.inCatalog(), err)
	}
	if err := d.syncCampaigns(ctx); err != nil || d.record("last").State != CampaignEnded || d.inCatalog() != 1 {
		t.Errorf("the last one is %s, %d in the catalog: %v", d.record("last").State, d.inCatalog(), err)
	}
	if _, err := d.SetCampaignState(ctx, "test", "last", CampaignRunning, ""); !errors.Is(err, ErrConflict) {
		t.Errorf("it runs again: %v", err)
	}
	list, err := d.Campaigns(ctx, true)
	if err != nil || len(list) != 2 {
		t.Fatal(len(list), err)
	}
	for _, c := range list {
		if (c.Counts == nil) != (c.State == CampaignEnded) {
			t.Errorf("%s is %s, counts %+v", c.ID, c.State, c.Counts)
		}
	}
}

// They leave when nobody creates another, too; and where the key is elsewhere, with the next draft.
func TestEndedCampaignsLeave(t *testing.T) {
	for _, here := range []bool{true, false} {
		d := newDesk(t)
		film := d.film("film", asset.ID{})
		clock := d.nights(film)
		var sign func(*repo.Draft) []byte
		if !here {
			sign = d.keyless()
		}
		*clock = clock.Add(20 * time.Hour)
		d.hear("box-a")
		if err := d.prune(ctx); err != nil || d.inCatalog() != nightly {
			t.Errorf("%d are left on the day itself: %v", d.inCatalog(), err)
		}
		*clock = clock.Add(6 * time.Hour)
		d.hear("box-a")
		if err := d.prune(ctx); err != nil {
			t.Error(err)
		}
		if !here {
			if d.record("last").State != CampaignRunning || d.inCatalog() != nightly {
				t.Errorf("without the key it is %s", d.record("last").State)
			}
			c, err := d.DraftCampaign(ctx, "test", CampaignRequest{Campaign: catalog.Campaign{ID: "next", Name: "next"}, AssetIDs: []asset.ID{film}})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.ImportDraft(ctx, "test", sign(c.Draft)); err != nil {
				t.Fatal(err)
			}
			if err := d.prune(ctx); err != nil || d.published("next") == nil {
				t.Errorf("the next one is not there: %v", err)
			}
		}
		if d.record("last").State != CampaignEnded || d.published("last") != nil {
			t.Errorf("with the key here: %t; it is %s, %d in the catalog", here, d.record("last").State, d.inCatalog())
		}
	}
}
