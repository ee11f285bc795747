package registry_test

import (
	"errors"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

func init() {
	common["ARevokedBoxCountsNoMore"] = testARevokedBoxCountsNoMore
}

func testARevokedBoxCountsNoMore(t *testing.T, open opener) {
	g := open(clock)
	if err := g.PutBoxes(ctx, map[string]string{"box-in": "north", "box-out": "north"}); err != nil {
		t.Fatal(err)
	}
	for _, box := range []string{"box-in", "box-out"} {
		ingest(t, g, report(t, box, env("epoch-one", 1, 1), func(r *mqttwire.Reported) {
			r.Assets = []mqttwire.AssetProgress{{ID: asset.ID{9}, State: mqttwire.Fetching, Size: 10, Late: true}}
			r.Health = []mqttwire.Warning{{Code: "cache-rot", Severity: "warning"}}
		}))
		ingest(t, g, arrival(t, box, "epoch-one", 1, 7, mqttwire.EventArrived))
	}
	count := func() (boxes, standing, alerts, glance, asset7 int) {
		t.Helper()
		groups, err := g.Groups(ctx)
		if err != nil || len(groups) != 1 {
			t.Fatal(groups, err)
		}
		id := asset.ID{7}.String()
		if err := g.EachStanding(ctx, "north", []string{id}, func(registry.Standing) { standing++ }); err != nil {
			t.Fatal(err)
		}
		found, err := g.FindAlerts(ctx, registry.AlertRules{OfflineBefore: at.Add(time.Hour), MaxSkew: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		codes := map[string]bool{}
		for _, a := range found {
			if a.Box == "box-out" {
				alerts++
			}
			codes[a.Code] = true
		}
		if !codes["deadline-at-risk"] || !codes["cache-rot"] {
			t.Errorf("alerts %+v", found)
		}
		look, err := g.Glance(ctx)
		if err != nil {
			t.Fatal(err)
		}
		c, err := g.CountAsset(ctx, "", id)
		if err != nil || c.Ready != c.Boxes {
			t.Fatal(c, err)
		}
		return groups[0].Boxes, standing, alerts, look.Boxes, c.Boxes
	}
	if b, s, a, l, c := count(); b != 2 || s != 2 || a == 0 || l != 2 || c != 2 {
		t.Fatalf("before: %d boxes, %d standing, %d alerts, %d at a glance, %d with the asset", b, s, a, l, c)
	}
	if err := g.CA().Update(ctx, func(tx ca.Tx) error { return tx.Put(ca.TableOut, "box-out", []byte(`"x"`)) }); err != nil {
		t.Fatal(err)
	}
	if b, s, a, l, c := count(); b != 1 || s != 1 || a != 0 || l != 1 || c != 1 {
		t.Errorf("revoked: %d boxes, %d standing, %d alerts, %d at a glance, %d with the asset", b, s, a, l, c)
	}
	if err := g.ForgetBox(ctx, "box-out"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Box(ctx, "box-out"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("once forgotten: %v", err)
	}
	if err := g.ForgetBox(ctx, "box-out"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("forgotten twice: %v", err)
	}
	n := 0
	if err := g.EachProof(ctx, registry.ProofFilter{Box: "box-out"}, func(registry.Proof) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d of its proofs are left, %v", n, err)
	}
}
