package registry_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// After the manager's clock was a year ahead and is right again, nothing waits for that year to pass.
func testAClockThatWasAheadIsForgotten(t *testing.T, open opener) {
	now := at.Add(365 * 24 * time.Hour)
	g := open(func() time.Time { return now })
	msg := state(t, "box-a", env("epoch-one", 1, 1), true)
	msg.Received = now
	dead := state(t, "box-b", env("epoch-one", 1, 1), true)
	dead.Received = now
	ingest(t, g, msg, dead)
	if _, ok, err := g.Lease(ctx, "lead", "dead", 20*time.Second); err != nil || !ok {
		t.Fatal(ok, err)
	}
	now = at
	if _, ok, err := g.Lease(ctx, "lead", "alive", 20*time.Second); err != nil || !ok {
		t.Errorf("the lease of next year holds: %v", err)
	}
	if err := g.Touch(ctx, map[string]time.Time{"box-a": at}); err != nil {
		t.Fatal(err)
	}
	if n, err := g.MarkSilent(ctx, at.Add(-time.Minute)); err != nil || n != 1 {
		t.Errorf("%d boxes are silent, %v; want box-b", n, err)
	}
	if b, err := g.Box(ctx, "box-a"); err != nil || !b.Online || !b.LastSeen.Equal(at) {
		t.Errorf("box-a: online %t, seen %s, %v", b.Online, b.LastSeen, err)
	}
}

// Old records go, in steps; proofs stay, and arrivals keep their sums.
func testOldRecordsAreForgotten(t *testing.T, open opener) {
	now := at
	g := open(func() time.Time { return now })
	for k := range 3 {
		m := arrival(t, "box-a", "epoch-one", uint64(k+1), byte(k+1), "arrived")
		m.Received = at.Add(time.Duration(k) * 7 * time.Minute)
		ingest(t, g, m)
	}
	cmd := registry.Command{ID: "c1", Target: "box-a", Name: "refresh", Created: at, Expires: at.Add(time.Hour)}
	if err := g.AddCommand(ctx, cmd, map[string][]byte{"box-a": []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	sum := func() (n int64) {
		points, err := g.ArrivalSeries(ctx, nil, "", at.Add(-2*time.Hour), at.Add(2*time.Hour), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range points {
			n += p.Boxes
		}
		return n
	}
	before := sum()
	if err := g.Prune(ctx, registry.Keep{History: at, Commands: at, Minutes: at.Add(-24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if h, err := g.History(ctx, "box-a", 0, 10); err != nil || len(h) != 3 {
		t.Errorf("what is not old was forgotten: %v, %v", h, err)
	}
	late := at.Add(24 * time.Hour)
	for range 2 {
		if err := g.Prune(ctx, registry.Keep{History: late, Commands: late, Minutes: late}); err != nil {
			t.Fatal(err)
		}
	}
	if h, err := g.History(ctx, "box-a", 0, 10); err != nil || len(h) != 0 {
		t.Errorf("the history is still there: %v, %v", h, err)
	}
	if _, err := g.Command(ctx, "c1"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("the command is still there: %v", err)
	}
	if after := sum(); after != before || after != 3 {
		t.Errorf("%d arrivals before, %d after, want 3", before, after)
	}
	n := 0
	if err := g.EachProof(ctx, registry.ProofFilter{}, func(registry.Proof) error { n++; return nil }); err != nil || n != 3 {
		t.Errorf("%d proofs, %v", n, err)
	}
}

func testStandingOfAGroup(t *testing.T, open opener) {
	g := open(clock)
	groups := map[string]string{"box-a": "living", "box-b": "living", "box-c": "living", "box-d": "living", "box-e": "kitchen"}
	if err := g.PutBoxes(ctx, groups); err != nil {
		t.Fatal(err)
	}
	report := func(box string, a mqttwire.AssetProgress) mqttwire.Message {
		a.Size = 1
		return msg(t, box, "reported", &mqttwire.Reported{
			Envelope: env("epoch-one", 1, 9), Software: "1", Assets: []mqttwire.AssetProgress{a},
		})
	}
	ingest(t, g,
		arrival(t, "box-a", "epoch-one", 1, 1, "arrived"), arrival(t, "box-a", "epoch-one", 2, 2, "arrived"),
		arrival(t, "box-e", "epoch-one", 1, 1, "arrived"), arrival(t, "box-b", "epoch-one", 1, 1, "arrived"),
		report("box-b", mqttwire.AssetProgress{ID: asset.ID{2}, State: mqttwire.Failed, Code: "x"}),
		report("box-c", mqttwire.AssetProgress{ID: asset.ID{1}, State: mqttwire.Fetching, Late: true}),
	)
	got := map[string]registry.Standing{}
	ids := []string{asset.ID{1}.String(), asset.ID{2}.String()}
	if err := g.EachStanding(ctx, "living", ids, func(s registry.Standing) { got[s.Box] = s }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []registry.Standing{
		{Box: "box-a", Held: 2},
		{Box: "box-b", Online: true, Since: at, Held: 1, Failed: 1},
		{Box: "box-c", Online: true, Since: at, AtRisk: 1},
		{Box: "box-d"},
	} {
		if got[want.Box] != want {
			t.Errorf("%+v, want %+v", got[want.Box], want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%d boxes of the group, want 4", len(got))
	}
}

// Lines that a clock a year ahead wrote keep nothing behind them from being forgotten.
func testPruningGoesOnBehindAClockThatWasAhead(t *testing.T, open opener) {
	g := open(clock)
	for i, when := range []time.Time{at.Add(365 * 24 * time.Hour), at.Add(-time.Hour), at} {
		m := arrival(t, "box-a", "epoch-one", uint64(i+1), byte(i+1), "arrived")
		m.Received = when
		ingest(t, g, m)
		if i > 0 {
			continue
		}
		var many []mqttwire.Message
		for n := range 2100 { // more than one step looks at
			m := arrival(t, fmt.Sprintf("box-%d", n/200), "epoch-one", uint64(n+1), byte(n%200+1), "erased")
			m.Received = when
			many = append(many, m)
		}
		ingest(t, g, many...)
	}
	if err := g.Prune(ctx, registry.Keep{History: at}); err != nil {
		t.Fatal(err)
	}
	if h, err := g.History(ctx, "box-a", 0, 10); err != nil || len(h) != 2 || !h[0].At.Equal(at) {
		t.Errorf("%+v, %v; want the line of now and the one of the wrong clock, not the old one", h, err)
	}
}

// Two fleetd that fold the same hours count what is in them once.
func testSeveralMayPruneAtOnce(t *testing.T, open opener) {
	a := open(clock)
	all := []*registry.Registry{a, a}
	if a.Postgres() {
		all = []*registry.Registry{a, open(clock), open(clock), open(clock)}
	}
	const hours = 60
	var batch []mqttwire.Message
	for i := range hours {
		m := arrival(t, "box-a", "epoch-one", uint64(i+1), byte(i+1), "arrived")
		m.Received = at.Add(time.Duration(i)*time.Hour + 7*time.Minute)
		batch = append(batch, m)
	}
	ingest(t, a, batch...)
	var wg sync.WaitGroup
	for _, g := range all {
		wg.Go(func() {
			if err := g.Prune(ctx, registry.Keep{Minutes: at.Add(hours * time.Hour)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	points, err := a.ArrivalSeries(ctx, nil, "", at, at.Add(hours*time.Hour), hours*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for _, p := range points {
		n += p.Boxes
	}
	if n != hours {
		t.Errorf("%d arrivals, want %d", n, hours)
	}
}

func testAPrefixFindsAllThatBeginWithIt(t *testing.T, open opener) {
	g := open(clock)
	var got []string
	err := g.CA().Update(ctx, func(tx ca.Tx) error {
		for _, k := range []string{"box-1", "box2", "box-3", "box4", "box-5"} {
			if err := tx.Put("t", k, []byte("{}")); err != nil {
				return err
			}
		}
		return tx.Each("t", "box-", func(k string, _ []byte) error { got = append(got, k); return nil })
	})
	if err != nil || fmt.Sprint(got) != "[box-1 box-3 box-5]" {
		t.Errorf("%v, %v", got, err)
	}
}
