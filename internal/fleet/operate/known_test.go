package operate

import (
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// A publisher pays by proofs: what a box says of lengths, publishers and campaigns is not believed where the manager knows
// better, and one box counts once however often it has fetched.
func TestStatementsRestOnTheCatalog(t *testing.T) {
	d := newDesk(t)
	if err := d.Learn(ctx); err != nil {
		t.Fatal(err)
	}
	d.publisher("acme", 0)
	film, err := d.Publish(ctx, "op", PublishRequest{Source: d.file("film.mp4", "one hundred bytes"), Publisher: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.CreateCampaign(ctx, "op", CampaignRequest{
		AssetIDs: []asset.ID{film.ID}, Publisher: "acme", Campaign: catalog.Campaign{ID: "night", Name: "night"},
	}); err != nil {
		t.Fatal(err)
	}
	evt := uint64(0)
	prove := func(box string, e mqttwire.Event) {
		t.Helper()
		evt++
		at := d.now().Add(time.Duration(evt) * time.Second)
		e.Envelope, e.Evt, e.At = mqttwire.Envelope{V: mqttwire.Version, Epoch: "epoch-one", SID: 1, Seq: evt, TS: at}, evt, at
		if e.Kind == "" {
			e.Kind = mqttwire.EventArrived
		}
		data, err := mqttwire.Encode(mqttwire.MaxPayload, &e)
		if err != nil {
			t.Fatal(err)
		}
		batch := []mqttwire.Message{{
			Topic: mqttwire.Topic{Fleet: "f", Box: box, Kind: mqttwire.KindEvent}, Payload: data, Received: d.now(),
		}}
		if err := d.LearnOf(ctx, batch); err != nil {
			t.Fatal(err)
		}
		if out, err := d.o.Registry.Ingest(ctx, batch); err != nil || out.New != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	honest := mqttwire.Event{
		Asset: film.ID, Name: "film.mp4", Publisher: "acme", Campaign: "night", Size: film.Length,
		From: mqttwire.Traffic{LAN: film.Length},
	}
	prove("good", honest)
	lie := honest
	lie.Name, lie.Size, lie.From.Origin = "another film", mqttwire.MaxAsset, mqttwire.MaxAsset
	prove("evil", lie)
	prove("evil", lie)
	lie.Publisher, lie.Campaign = "victim", "never-was"
	prove("evil", lie)
	lie.Asset = asset.ID{1}
	lie.Publisher = "acme"
	prove("evil", lie) // of what never was

	lines, err := d.o.Registry.Statement(ctx, registry.ProofFilter{Publisher: "acme"})
	if err != nil || len(lines) != 2 {
		t.Fatalf("%+v, %v", lines, err)
	}
	for _, l := range lines {
		boxes, copies := 2, 3
		if l.Campaign == "" {
			boxes, copies = 1, 1
		}
		if l.Asset != film.ID || l.Name != film.Name || l.Delivered != boxes || l.Copies != copies || l.Bytes != int64(copies)*film.Length ||
			l.Origin > int64(copies)*wasteAllowed*film.Length {
			t.Errorf("%+v", l)
		}
	}
	if lines, err := d.o.Registry.Statement(ctx, registry.ProofFilter{Publisher: "victim"}); err != nil || len(lines) != 0 {
		t.Errorf("somebody else's statement: %+v, %v", lines, err)
	}

	// The asset goes; its erasure is the publisher's still, also for a manager that has just started.
	if err := d.Remove(ctx, "op", film); err != nil {
		t.Fatal(err)
	}
	d.known.assets = nil
	if err := d.Learn(ctx); err != nil {
		t.Fatal(err)
	}
	gone := honest
	gone.Kind = mqttwire.EventErased
	prove("good", gone)
	lines, err = d.o.Registry.Statement(ctx, registry.ProofFilter{Publisher: "acme", Campaign: "night"})
	if err != nil || len(lines) != 1 || lines[0].Erased != 1 {
		t.Errorf("%+v, %v", lines, err)
	}
}
