package registry_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// What came before its asset was known gets into its publisher's statement.
func testNobodysProofsAreAttributed(t *testing.T, open opener) {
	g := open(clock)
	prove := func(box string, n uint64, id byte, publisher, campaign string, lan int64) {
		ingest(t, g, msg(t, box, mqttwire.EventTail(n), &mqttwire.Event{
			Envelope: env("epoch-one", 1, n), Evt: n, Kind: "arrived", Asset: asset.ID{id}, Name: "so it says", Publisher: publisher,
			Campaign: campaign, Size: 7, At: at.Add(time.Duration(n) * time.Second), From: mqttwire.Traffic{LAN: lan, Peer: 3},
		}))
	}
	prove("box-a", 1, 1, "", "night", 1000)
	prove("box-b", 1, 1, "", "never-was", 5)
	prove("box-b", 2, 1, "other", "night", 1000)
	prove("box-b", 3, 2, "", "", 1000)
	if ids, err := g.Nobodys(ctx); err != nil || !reflect.DeepEqual(ids, map[asset.ID]bool{{1}: true, {2}: true}) {
		t.Errorf("%v, %v", ids, err)
	}
	p := registry.Proven{Asset: asset.ID{1}, Publisher: "acme", Name: "film", Length: 100}
	for range 2 {
		if err := g.Attribute(ctx, p, map[string]bool{"night": true}, 400); err != nil {
			t.Fatal(err)
		}
	}
	lines := map[string]registry.StatementLine{}
	list, err := g.Statement(ctx, registry.ProofFilter{})
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, l := range list {
		lines[l.Publisher+" "+l.Campaign] = l
	}
	if l := lines["acme night"]; l.Delivered != 1 || l.LAN != 400 || l.Peer != 3 || l.Name != "film" || l.Bytes != 100 {
		t.Errorf("%+v", l)
	}
	if l := lines["acme "]; l.Delivered != 1 || l.LAN != 5 {
		t.Errorf("%+v", l)
	}
	if l := lines["other night"]; l.LAN != 1000 || l.Bytes != 7 {
		t.Errorf("somebody else's: %+v", l)
	}
	proven, err := g.Proven(ctx)
	other := registry.Proven{Asset: asset.ID{1}, Publisher: "other", Name: "so it says", Length: 7}
	if err != nil || !reflect.DeepEqual(proven, []registry.Proven{p, other}) {
		t.Errorf("%+v, %v", proven, err)
	}
}

// Of many boxes that were heard of, those that are written stay so and are not written again when the rest fails.
func TestTouchKeepsItsProgress(t *testing.T) {
	g := open(t, registry.Options{Path: t.TempDir() + "/fleet.db", Now: clock})
	const n = 2500
	groups, seen := map[string]string{}, map[string]time.Time{}
	id := func(i int) string { return fmt.Sprintf("box-%04d", i) }
	for i := range n {
		groups[id(i)] = "all"
		seen[id(i)] = at.Add(time.Duration(n-i) * time.Second) // the last ids wait for longest
	}
	if err := g.PutBoxes(ctx, groups); err != nil {
		t.Fatal(err)
	}
	if err := g.RefuseTouch(ctx, id(700)); err != nil {
		t.Fatal(err)
	}
	if err := g.Touch(ctx, seen); err == nil || len(seen) != 1500 {
		t.Fatalf("%d of %d boxes are left, %v", len(seen), n, err)
	}
	for i, want := range map[int]bool{1499: false, 1500: true, n - 1: true} {
		if b, err := g.Box(ctx, id(i)); err != nil || b.Online != want {
			t.Errorf("%s is online: %t, %v", b.ID, b.Online, err)
		}
		if _, left := seen[id(i)]; left == want {
			t.Errorf("%s is left: %t", id(i), left)
		}
	}
	if err := g.RefuseTouch(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if err := g.Touch(ctx, seen); err != nil || len(seen) != 0 {
		t.Errorf("%d boxes are left, %v", len(seen), err)
	}
	online := true
	if list, err := g.Boxes(ctx, registry.BoxFilter{Online: &online, Brief: true, Limit: 2 * n}); err != nil || len(list) != n {
		t.Errorf("%d boxes are online, %v", len(list), err)
	}
}
