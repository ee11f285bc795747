package operate

import (
	"errors"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
)

// What no box would ever do is refused, and a campaign that does not go on says why.
func TestACampaignThatGoesNowhereSaysSo(t *testing.T) {
	d := newDesk(t)
	film := d.film("film", asset.ID{})
	if err := d.o.Registry.PutBoxes(ctx, map[string]string{"box-a": DefaultGroup, "box-b": "north"}); err != nil {
		t.Fatal(err)
	}
	create := func(id, group string, keep time.Time, cohorts ...string) error {
		r := CampaignRequest{Campaign: catalog.Campaign{ID: id, Name: id, Group: group, KeepUntil: keep}, AssetIDs: []asset.ID{film}}
		if len(cohorts) > 0 {
			r.Staged = &Staged{Stages: []Stage{{PerMille: 0, Hold: catalog.Duration(time.Hour)}, {PerMille: 1000}}, Cohorts: cohorts}
		}
		_, err := d.CreateCampaign(ctx, "test", r)
		return err
	}
	for says, err := range map[string]error{
		"is over":                 create("late", "", d.now().Add(-time.Minute)),
		"no box box-c":            create("unknown", "", time.Time{}, "box-a", "box-c"),
		"box-b is of group north": create("other", "", time.Time{}, "box-b"),
	} {
		if !errors.Is(err, ErrBad) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
	err := errors.Join(create("held", "", d.now().Add(time.Hour), "box-a"), create("lab", "north", time.Time{}, "north"),
		create("plain", "", time.Time{}), create("nobody", "south", time.Time{}))
	if err != nil {
		t.Fatal(err)
	}
	why := func(want map[string]string) {
		t.Helper()
		list, err := d.Campaigns(ctx, true)
		if err != nil || len(list) != 4 {
			t.Fatal(len(list), err)
		}
		for _, c := range list {
			if one, err := d.Campaign(ctx, c.ID); err != nil || c.Why != want[c.ID] || one.Why != c.Why {
				t.Errorf("%s: %q and %q, want %q: %v", c.ID, c.Why, one.Why, want[c.ID], err)
			}
		}
	}
	want := map[string]string{
		"held": "held for 1h0m0s", "lab": "held for 1h0m0s", "plain": "", "nobody": "there is no box in group south",
	}
	why(want)
	later := d.now().Add(2 * time.Hour)
	d.Fleet.now = func() time.Time { return later }
	d.hear("box-a")
	want["held"] = "0 of 1 reachable boxes are ready, 95.0 % are needed"
	want["lab"] = "0 of 0 reachable boxes are ready, 95.0 % are needed"
	why(want)
}
