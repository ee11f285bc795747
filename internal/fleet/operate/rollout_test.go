package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/mqttwire"
)

var now = time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)

func staged(t *testing.T, stages ...Stage) (*Staged, *catalog.Campaign) {
	t.Helper()
	s, c := &Staged{Stages: stages}, &catalog.Campaign{}
	if err := s.start(c, now); err != nil {
		t.Fatal(err)
	}
	return s, c
}

func TestARolloutJudgesItsStage(t *testing.T) {
	hour := catalog.Duration(time.Hour)
	for name, c := range map[string]struct {
		after time.Duration
		n     Counts
		want  string
	}{
		"held":                         {30 * time.Minute, Counts{Boxes: 100, Included: 10, Ready: 10}, verdictWait},
		"ready":                        {2 * time.Hour, Counts{Boxes: 100, Included: 10, Ready: 10}, verdictAdvance},
		"not enough":                   {2 * time.Hour, Counts{Boxes: 100, Included: 10, Ready: 9, Working: 1}, verdictWait},
		"those switched off count out": {2 * time.Hour, Counts{Boxes: 100, Included: 10, Ready: 5, Offline: 5, away: 5}, verdictAdvance},
		"all are switched off":         {2 * time.Hour, Counts{Boxes: 100, Included: 10, Offline: 10, away: 10}, verdictWait},
		"nobody is in it":              {2 * time.Hour, Counts{Boxes: 100}, verdictWait},
		"too many failed":              {time.Minute, Counts{Boxes: 100, Included: 10, Ready: 9, Failed: 1}, verdictStop},
		"few failed":                   {2 * time.Hour, Counts{Boxes: 1000, Included: 100, Ready: 96, Failed: 4}, verdictAdvance},
		"all who can fail have failed": {
			2 * time.Hour, Counts{Boxes: 10000, Included: 1000, Failed: 40, Offline: 960, away: 960}, verdictStop,
		},
		"all but one have vanished": {
			2 * time.Hour, Counts{Boxes: 10000, Included: 100, Ready: 1, Offline: 99, Gone: 99, Others: 9000, OthersGone: 300}, verdictStop,
		},
		"those that were ready have vanished": {
			2 * time.Hour, Counts{Boxes: 10000, Included: 100, Ready: 100, Gone: 60, goneReady: 60, Others: 9000}, verdictStop,
		},
		"it is night": {
			2 * time.Hour,
			Counts{Boxes: 10000, Included: 100, Ready: 80, Offline: 20, Gone: 40, goneReady: 20, Others: 9000, OthersGone: 3600},
			verdictAdvance,
		},
		"those gone for a moment": {2 * time.Hour, Counts{Boxes: 10000, Included: 100, Ready: 90, Offline: 10}, verdictWait},
		"two of ten are missed":   {2 * time.Hour, Counts{Boxes: 10000, Included: 10, Ready: 8, Offline: 2, Gone: 2, Others: 90}, verdictWait},
		"by chance more have gone than of the others": {
			2 * time.Hour, Counts{Boxes: 1000, Included: 100, Ready: 55, Offline: 45, Gone: 45, Others: 900, OthersGone: 360}, verdictWait,
		},
		"all but one have vanished of a hundred": {
			2 * time.Hour, Counts{Boxes: 1000, Included: 100, Ready: 1, Offline: 99, Gone: 99, Others: 900, OthersGone: 27}, verdictStop,
		},
		"a few others tell little": {
			2 * time.Hour, Counts{Boxes: 20, Included: 10, Ready: 5, Offline: 5, Gone: 5, Others: 10, OthersGone: 2}, verdictWait,
		},
		"49 others stop nothing": {2 * time.Hour, Counts{Boxes: 59, Included: 10, Ready: 1, Offline: 9, Gone: 9, Others: 49}, verdictWait},
		"50 others do":           {2 * time.Hour, Counts{Boxes: 60, Included: 10, Ready: 1, Offline: 9, Gone: 9, Others: 50}, verdictStop},
		"a small fleet's failures stop it": {
			2 * time.Hour, Counts{Boxes: 20, Included: 10, Ready: 4, Failed: 1, Offline: 5, Gone: 5, Others: 10, OthersGone: 2}, verdictStop,
		},
		"chance, where none of a few others has gone": {
			2 * time.Hour, Counts{Boxes: 110, Included: 50, Ready: 45, Offline: 5, Gone: 5, Others: 50}, verdictWait,
		},
		"few are missed": {2 * time.Hour, Counts{Boxes: 1000, Included: 100, Ready: 97, Offline: 3, Gone: 3, Others: 90}, verdictAdvance},
	} {
		s, _ := staged(t, Stage{PerMille: 100, Hold: hour}, Stage{PerMille: 1000})
		got, why := s.judge(now.Add(c.after), c.n)
		if got != c.want || got != verdictAdvance && why == "" {
			t.Errorf("%s: %s (%s), want %s", name, got, why, c.want)
		}
	}
}

func TestARolloutThatIsOpenStillStopsItself(t *testing.T) {
	s, c := staged(t, Stage{PerMille: 1000})
	if !s.Done || c.Rollout.PerMille != 1000 {
		t.Errorf("%+v %+v", s, c.Rollout)
	}
	if got, _ := s.judge(now, Counts{Boxes: 10, Included: 10, Failed: 2, Ready: 1}); got != verdictStop {
		t.Errorf("%s with a fifth of the boxes failed", got)
	}
	if got, _ := s.judge(now, Counts{Boxes: 10, Included: 10, Ready: 1, Offline: 9, Gone: 9}); got != verdictWait {
		t.Errorf("%s in the evening, when all boxes are in it and most are switched off", got)
	}
	s.MinBoxes = 5
	if got, _ := s.judge(now, Counts{Boxes: 10, Included: 10, Failed: 2, Ready: 1}); got != verdictWait {
		t.Errorf("%s after three boxes, where five must have settled", got)
	}
}

// A stage whose boxes go as all others do, every minute of a night, is stopped for that in one night of thousands, however small
// it is and however few others there are; and one that loses most of its boxes is stopped.
func TestChanceStopsNoRollout(t *testing.T) {
	s, _ := staged(t, Stage{PerMille: 100}, Stage{PerMille: 1000})
	stops := func(n Counts) bool {
		n.Boxes, n.Ready, n.Offline = n.Included+n.Others, n.Included-n.Gone, n.Gone
		verdict, _ := s.judge(now.Add(time.Hour), n)
		return verdict == verdictStop
	}
	for _, p := range []float64{0.005, 0.02, 0.1, 0.4} {
		for _, others := range []int{50, 90, 900} {
			for _, in := range []int{4, 10, 50, 100} {
				var wrong float64
				for gone := range others + 1 {
					if likely := binomial(others, gone, p); likely > 1e-9 {
						for k := range in + 1 {
							if stops(Counts{Included: in, Gone: k, Others: others, OthersGone: gone}) {
								wrong += likely * binomial(in, k, p)
							}
						}
					}
				}
				if wrong > stopChance {
					t.Errorf("%d boxes beside %d others, of which %.1f %% go: stopped with a probability of %.5f", in, others, 100*p, wrong)
				}
				if lost := (Counts{Included: in, Gone: in, Others: others, OthersGone: int(p * float64(others))}); p < 0.05 && !stops(lost) {
					t.Errorf("all %d boxes went silent, and %d of %d others: not stopped", in, lost.OthersGone, others)
				}
			}
		}
	}
	if n := byChance(1_000_000, 0, 50, stopChance); n < 100_000 || n > 300_000 {
		t.Errorf("of a million %d may go by chance when none of 50 others did", n)
	}
}

func binomial(n, k int, p float64) float64 {
	choose := lgamma(float64(n+1)) - lgamma(float64(k+1)) - lgamma(float64(n-k+1))
	return math.Exp(choose + float64(k)*math.Log(p) + float64(n-k)*math.Log(1-p))
}

// A stage in which nobody is stays for ever, and somebody has to be told.
func TestAStageWithoutBoxesIsTold(t *testing.T) {
	hour := catalog.Duration(time.Hour)
	for name, c := range map[string]struct {
		after time.Duration
		n     Counts
		want  string
	}{
		"held":                   {30 * time.Minute, Counts{Boxes: 40}, ""},
		"nobody is in it":        {2 * time.Hour, Counts{Boxes: 40}, "none of the group's 40 boxes"},
		"nobody is in it yet":    {2 * time.Hour, Counts{}, "none of the group's 0 boxes"},
		"a short night":          {2 * time.Hour, Counts{Boxes: 40, Included: 4, Offline: 4}, ""},
		"an ordinary one":        {9 * time.Hour, Counts{Boxes: 40, Included: 6, Offline: 6, Gone: 6, Others: 34, OthersGone: 30}, ""},
		"all are switched off":   {20 * time.Hour, Counts{Boxes: 40, Included: 4, Offline: 4, longOff: 4}, "all 4 boxes in it are offline"},
		"fewer than must settle": {7 * time.Hour, Counts{Boxes: 40, Included: 6, Offline: 3, longOff: 2, Ready: 3}, "5 boxes must have settled, and only 4"},
		"enough may":             {7 * time.Hour, Counts{Boxes: 40, Included: 6, Offline: 3, longOff: 1, Ready: 3}, ""},
		"some went silent": {
			20 * time.Hour, Counts{Boxes: 40, Included: 20, Ready: 18, Offline: 2, Gone: 2, longGone: 2, longOff: 2}, "fleetd campaign resume",
		},
		"some went silent tonight": {
			9 * time.Hour, Counts{Boxes: 40, Included: 20, Ready: 12, Offline: 8, Gone: 8, Others: 20, OthersGone: 4}, "",
		},
		"strikingly many did": {
			7 * time.Hour, Counts{Boxes: 40, Included: 20, Ready: 4, Offline: 16, Gone: 16, Others: 20, OthersGone: 4}, "more of them than of the others",
		},
		"at work": {7 * time.Hour, Counts{Boxes: 40, Included: 9, Working: 9}, ""},
	} {
		s, _ := staged(t, Stage{PerMille: 10, Hold: hour}, Stage{PerMille: 1000})
		s.MinBoxes = 5
		if got := s.waitsForNobody(now.Add(c.after), c.n); got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	open, _ := staged(t, Stage{PerMille: 1000})
	if why := open.waitsForNobody(now.Add(9*time.Hour), Counts{}); why != "" {
		t.Errorf("all stages are open: %s", why)
	}
}

// Firmware that takes boxes off the network fails nowhere: who was there when the stage began and is gone is missed.
func TestBoxesThatVanishAreMissed(t *testing.T) {
	d := newDesk(t)
	clock := now
	d.Fleet.now = func() time.Time { return clock }
	film := d.film("film", asset.ID{})
	groups, cohort := map[string]string{}, []string{}
	for i := range 65 {
		groups[fmt.Sprintf("box-%02d", i)] = DefaultGroup
	}
	if err := d.o.Registry.PutBoxes(ctx, groups); err != nil {
		t.Fatal(err)
	}
	for box := range groups {
		d.hear(box)
		if box < "box-05" {
			cohort = append(cohort, box)
		}
	}
	d.leave("box-00") // long before
	clock = clock.Add(time.Hour)
	_, err := d.CreateCampaign(ctx, "test", CampaignRequest{
		Campaign: catalog.Campaign{ID: "firmware", Name: "firmware"}, AssetIDs: []asset.ID{film},
		Staged: &Staged{Stages: []Stage{{PerMille: 0}, {PerMille: 1000}}, Cohorts: cohort},
	})
	if err != nil {
		t.Fatal(err)
	}
	held := &mqttwire.HoldingsList{Assets: []mqttwire.HeldAsset{{ID: film, At: clock}}}
	if err := d.o.Registry.SetHoldings(ctx, "box-01", held); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(time.Minute)
	for _, box := range []string{"box-02", "box-03", "box-04"} {
		d.leave(box)
	}
	for i := 45; i < 65; i++ {
		d.leave(fmt.Sprintf("box-%d", i))
	}
	step := func(want string) {
		t.Helper()
		if err := d.stepRollouts(ctx); err != nil {
			t.Fatal(err)
		}
		if c := d.record("firmware"); c.State != want || c.Staged.Stage != 0 {
			t.Errorf("it is %s (%s) at stage %d", c.State, c.Why, c.Staged.Stage)
		}
	}
	step(CampaignRunning) // they may start anew
	clock = clock.Add(time.Hour)
	c, err := d.Campaign(ctx, "firmware")
	want := Counts{
		Boxes: 65, Included: 5, Ready: 1, Offline: 4, Gone: 3, Others: 60, OthersGone: 20, away: 1,
	}
	if err != nil || *c.Counts != want {
		t.Errorf("%+v, %v; want %+v", *c.Counts, err, want)
	}
	step(CampaignRunning) // a third of the others has gone too: two are missed
	for i := 45; i < 65; i++ {
		d.hear(fmt.Sprintf("box-%d", i))
	}
	step(CampaignPaused)

	// Resumed, it goes on without them.
	if _, err := d.SetCampaignState(ctx, "test", "firmware", CampaignRunning, "they were unplugged"); err != nil {
		t.Fatal(err)
	}
	if err := d.stepRollouts(ctx); err != nil {
		t.Fatal(err)
	}
	if c := d.record("firmware"); c.State != CampaignRunning || c.Staged.Stage != 1 {
		t.Errorf("resumed, it is %s (%s) at stage %d", c.State, c.Why, c.Staged.Stage)
	}
}

func TestStagesOnlyWiden(t *testing.T) {
	for _, stages := range [][]Stage{
		nil,
		{{PerMille: 500}, {PerMille: 500}},
		{{PerMille: 500}, {PerMille: 100}},
		{{PerMille: 1001}},
		{{PerMille: -1}},
		{{PerMille: 1, Hold: -1}},
		make([]Stage, 40),
	} {
		s, c := &Staged{Stages: stages}, &catalog.Campaign{}
		if err := s.start(c, now); err == nil {
			t.Errorf("%v was taken", stages)
		}
	}
	s, c := &Staged{Stages: []Stage{{PerMille: 0}, {PerMille: 10}}, Cohorts: []string{"lab"}}, &catalog.Campaign{}
	if err := s.start(c, now); err != nil || c.Rollout.Cohorts[0] != "lab" {
		t.Errorf("a rollout that begins with a cohort alone: %v", err)
	}
	for _, bad := range []Staged{
		{Success: new(2.0)}, {Success: new(0.0)}, {Success: new(-0.1)}, {Success: new(math.NaN())}, {MaxErrors: new(-1.0)}, {MinBoxes: -1},
	} {
		bad.Stages = []Stage{{PerMille: 1000}}
		if err := bad.start(&catalog.Campaign{}, now); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// What is left out has a default; nought is nought, after a rest in the store too.
func TestNoughtIsAShare(t *testing.T) {
	for text, want := range map[string]string{
		`{"stages":[{"per_mille":10},{"per_mille":1000}]}`:                              "0.95 0.05",
		`{"stages":[{"per_mille":10},{"per_mille":1000}],"success":0.5,"max_errors":0}`: "0.5 0",
		`{"stages":[{"per_mille":10},{"per_mille":1000}],"success":1,"max_errors":"x"}`: "",
		`{"stages":[{"per_mille":10},{"per_mille":1000}],"success":1,"max_errors":1}`:   "1 1",
	} {
		var s Staged
		err := json.Unmarshal([]byte(text), &s)
		if want == "" {
			if err == nil {
				t.Error(text)
			}
			continue
		}
		if err := errors.Join(err, s.start(&catalog.Campaign{}, now)); err != nil {
			t.Fatal(err)
		}
		kept, err := json.Marshal(s)
		var again Staged
		if err := errors.Join(err, json.Unmarshal(kept, &again)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(*again.Success, *again.MaxErrors); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		verdict, _ := again.judge(now, Counts{Boxes: 1000, Included: 1000, Ready: 999, Failed: 1})
		if (verdict == verdictStop) != (want == "0.5 0") {
			t.Errorf("%s with one failure of 1000: %s", text, verdict)
		}
	}
}

func TestCampaignIDsAreMadeFromNames(t *testing.T) {
	for name, prefix := range map[string]string{
		"Tonight!": "tonight-", "": "campaign-", "Ünïcode": "n-code-", strings.Repeat("x", 100): strings.Repeat("x", 24) + "-", "--": "campaign-",
	} {
		id := newCampaignID(name)
		if !strings.HasPrefix(id, prefix) || !catalog.ValidName(id) {
			t.Errorf("%q became %q", name, id)
		}
	}
}

func TestACohortIsNamedBoxes(t *testing.T) {
	c := &catalog.Campaign{ID: "c"}
	s := &Staged{Stages: []Stage{{PerMille: 0}, {PerMille: 1000}}, Cohorts: []string{"box-a", "lab"}}
	if err := s.start(c, now); err != nil {
		t.Fatal(err)
	}
	for box, want := range map[string]bool{"box-a": true, "box-b": false} {
		if c.Includes(box, []string{DefaultGroup}) != want {
			t.Errorf("%s is in the first stage: %t", box, !want)
		}
	}
	if !c.Includes("box-b", []string{"lab"}) {
		t.Error("a group is a cohort too")
	}
}

// A rollout that was resumed in spite of its failures stops at new ones, not at the old; and one that cannot be stopped
// keeps no other from being stopped.
func TestAResumedRolloutForgivesOldFailures(t *testing.T) {
	d := newDesk(t)
	clock := now
	d.Fleet.now = func() time.Time { return clock }
	film := d.film("film", asset.ID{})
	ask := func(id string) {
		t.Helper()
		_, err := d.CreateCampaign(ctx, "test", CampaignRequest{
			Campaign: catalog.Campaign{ID: id, Name: id}, AssetIDs: []asset.ID{film}, Staged: &Staged{Stages: []Stage{{PerMille: 1000}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ask("tonight")
	broken := mqttwire.AssetProgress{ID: film, State: mqttwire.Failed, Code: "io", Size: 4}
	fine := mqttwire.AssetProgress{ID: film, State: mqttwire.Fetching, Size: 4}
	if err := d.o.Registry.PutBoxes(ctx, map[string]string{"box-a": DefaultGroup, "box-b": DefaultGroup}); err != nil {
		t.Fatal(err)
	}
	d.hear("box-a", broken)
	d.hear("box-b", fine)
	step := func(want string) {
		t.Helper()
		if err := d.stepRollouts(ctx); err != nil {
			t.Fatal(err)
		}
		if c := d.record("tonight"); c.State != want {
			t.Errorf("it is %s (%s), want %s", c.State, c.Why, want)
		}
	}
	step(CampaignPaused)
	if _, err := d.SetCampaignState(ctx, "test", "tonight", CampaignRunning, "go on"); err != nil {
		t.Fatal(err)
	}
	step(CampaignRunning)
	d.hear("box-b", broken)
	step(CampaignPaused)

	// Both are forgiven, one that tries again too; one that gets well and fails again is not.
	if _, err := d.SetCampaignState(ctx, "test", "tonight", CampaignRunning, "go on"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		d.hear("box-b", fine)
		step(CampaignRunning)
		clock = clock.Add(10 * time.Minute)
		d.hear("box-b", broken)
		step(CampaignRunning)
	}
	d.hear("box-b", fine)
	step(CampaignRunning)
	clock = clock.Add(fewerFor + time.Second)
	step(CampaignRunning)
	if n := d.record("tonight").Staged.Forgiven; n != 1 {
		t.Errorf("%d are forgiven, and one has failed", n)
	}
	d.hear("box-b", broken)
	step(CampaignPaused)

	if _, err := d.SetCampaignState(ctx, "test", "tonight", CampaignAborted, ""); err != nil {
		t.Fatal(err)
	}
	ask("first")
	ask("second")
	for _, id := range []string{"first", "second"} {
		if d.record(id).State != CampaignRunning {
			t.Fatal(id)
		}
	}
	d.fault = errors.New("the disk is full")
	if err := d.stepRollouts(ctx); err == nil {
		t.Error("the fault was kept quiet")
	}
	for _, id := range []string{"first", "second"} {
		if s := d.record(id).State; s != CampaignPaused {
			t.Errorf("%s is %s", id, s)
		}
	}
}

// A forgiven box that tries again while its rollout widens is still forgiven.
func TestWideningForgivesWhoTriesAgain(t *testing.T) {
	d := newDesk(t)
	film := d.film("film", asset.ID{})
	if err := d.o.Registry.PutBoxes(ctx, map[string]string{"box-a": DefaultGroup, "box-b": DefaultGroup}); err != nil {
		t.Fatal(err)
	}
	staged := &Staged{
		Stages: []Stage{{PerMille: 0}, {PerMille: 1000}}, Cohorts: []string{"box-a", "box-b"}, Success: new(0.5), MaxErrors: new(0.0),
	}
	ask := CampaignRequest{Campaign: catalog.Campaign{ID: "c", Name: "c"}, AssetIDs: []asset.ID{film}, Staged: staged}
	if _, err := d.CreateCampaign(ctx, "test", ask); err != nil {
		t.Fatal(err)
	}
	step := func(state string, stage int) {
		t.Helper()
		if err := d.stepRollouts(ctx); err != nil {
			t.Fatal(err)
		}
		if c := d.record("c"); c.State != state || c.Staged.Stage != stage {
			t.Errorf("it is %s (%s) at stage %d", c.State, c.Why, c.Staged.Stage)
		}
	}
	broken := mqttwire.AssetProgress{ID: film, State: mqttwire.Failed, Code: "io", Size: 4}
	d.hear("box-a", broken)
	d.hear("box-b")
	step(CampaignPaused, 0)
	if _, err := d.SetCampaignState(ctx, "test", "c", CampaignRunning, "go on"); err != nil {
		t.Fatal(err)
	}
	d.hear("box-a", mqttwire.AssetProgress{ID: film, State: mqttwire.Fetching, Size: 4})
	step(CampaignRunning, 0)
	held := &mqttwire.HoldingsList{Assets: []mqttwire.HeldAsset{{ID: film, At: now}}}
	if err := d.o.Registry.SetHoldings(ctx, "box-b", held); err != nil {
		t.Fatal(err)
	}
	step(CampaignRunning, 1)
	d.hear("box-a", broken)
	step(CampaignRunning, 1)
}

// Fewer boxes are forgiven once fewer have failed for longer than a box waits between two tries, and as many as did at a time.
func TestFewerAreForgivenLater(t *testing.T) {
	type at struct{ minute, failed, forgiven int }
	for name, list := range map[string][]at{
		"one tries again":       {{0, 5, 5}, {1, 4, 5}, {11, 5, 5}, {31, 4, 5}, {41, 4, 5}, {42, 5, 5}},
		"one got well":          {{0, 4, 5}, {30, 4, 5}, {31, 4, 4}, {32, 5, 4}},
		"two did, others try":   {{0, 1, 5}, {10, 3, 5}, {20, 2, 5}, {31, 0, 3}, {32, 3, 3}},
		"all did, one by one":   {{0, 4, 5}, {20, 2, 5}, {31, 0, 4}, {32, 0, 4}, {63, 0, 0}, {64, 1, 0}},
		"it was resumed before": {{-20, 1, 5}, {0, 1, 5}, {11, 1, 5}, {31, 1, 1}},
		"new ones fail":         {{0, 9, 5}, {40, 9, 5}},
	} {
		s := &Staged{Forgiven: 5, Since: now}
		for _, a := range list {
			before := *s
			changed := s.recount(now.Add(time.Duration(a.minute)*time.Minute), a.failed)
			if same := before.Forgiven == s.Forgiven && before.Fewer == s.Fewer; s.Forgiven != a.forgiven || changed == same {
				t.Errorf("%s: %+v: %d are forgiven (%+v), changed %t", name, a, s.Forgiven, s.Fewer, changed)
			}
		}
	}
}
