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
	tell := d.teller()
	prove := func(box string, e mqttwire.Event) {
		t.Helper()
		if e.Kind == "" {
			e.Kind = mqttwire.EventArrived
		}
		tell(true, box, e)
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

	// What boxes say of lengths is in no sum either.
	series, err := d.o.Registry.ArrivalSeries(ctx, nil, "", d.now().Add(-time.Hour), d.now().Add(time.Hour), time.Hour)
	var sum registry.Arrivals
	for _, p := range series {
		sum.Boxes += p.Boxes
		sum.Length += p.Length
		sum.Origin += p.Origin
	}
	if err != nil || sum.Boxes != 5 || sum.Length != 4*film.Length || sum.Origin != 3*wasteAllowed*film.Length {
		t.Errorf("arrivals in all: %+v, %v", sum, err)
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

// teller makes proofs that are ingested; learn says whether this manager looks at the catalog before.
func (d *desk) teller() func(learn bool, box string, e mqttwire.Event) {
	evt := uint64(0)
	return func(learn bool, box string, e mqttwire.Event) {
		d.t.Helper()
		evt++
		at := d.now().Add(time.Duration(evt) * time.Second)
		e.Envelope, e.Evt, e.At = mqttwire.Envelope{V: mqttwire.Version, Epoch: "epoch-one", SID: 1, Seq: evt, TS: at}, evt, at
		data, err := mqttwire.Encode(mqttwire.MaxPayload, &e)
		if err != nil {
			d.t.Fatal(err)
		}
		batch := []mqttwire.Message{{
			Topic: mqttwire.Topic{Fleet: "f", Box: box, Kind: mqttwire.KindEvent}, Payload: data, Received: d.now(),
		}}
		if learn {
			if err := d.LearnOf(ctx, batch); err != nil {
				d.t.Fatal(err)
			}
		}
		if out, err := d.o.Registry.Ingest(ctx, batch); err != nil || out.New != 1 {
			d.t.Fatalf("%+v, %v", out, err)
		}
	}
}

// due is a publisher's statement, by campaign.
func (d *desk) due(publisher string) map[string]registry.StatementLine {
	d.t.Helper()
	list, err := d.o.Registry.Statement(ctx, registry.ProofFilter{Publisher: publisher})
	if err != nil {
		d.t.Fatal(err)
	}
	lines := map[string]registry.StatementLine{}
	for _, l := range list {
		lines[l.Campaign] = l
	}
	return lines
}

func (d *desk) acmesFilm() (Asset, mqttwire.Event) {
	d.t.Helper()
	d.publisher("acme", 0)
	film, err := d.Publish(ctx, "op", PublishRequest{Source: d.file("film.mp4", "one hundred bytes"), Publisher: "acme"})
	if err != nil {
		d.t.Fatal(err)
	}
	return film, mqttwire.Event{
		Kind: mqttwire.EventArrived, Asset: film.ID, Name: "a lie", Publisher: "acme", Campaign: "night", Size: 1,
		From: mqttwire.Traffic{LAN: mqttwire.MaxAsset},
	}
}

// A delivery that was proven before this manager knew of the asset is paid for once it does, whether it learns while it runs or
// when it starts.
func TestWhatWasNotKnownYetIsMended(t *testing.T) {
	d := newDesk(t)
	if err := d.Learn(ctx); err != nil {
		t.Fatal(err)
	}
	film, e := d.acmesFilm()
	if _, err := d.CreateCampaign(ctx, "op", CampaignRequest{
		AssetIDs: []asset.ID{film.ID}, Publisher: "acme", Campaign: catalog.Campaign{ID: "night", Name: "night"},
	}); err != nil {
		t.Fatal(err)
	}
	prove := d.teller()
	prove(false, "box-a", e)
	lie := e
	lie.Campaign, lie.Publisher = "never-was", "victim"
	prove(false, "box-b", lie)
	if lines := d.due("acme"); len(lines) != 0 {
		t.Fatalf("believed too early: %+v", lines)
	}
	prove(true, "box-c", e)
	check := func(want int) {
		t.Helper()
		lines := d.due("acme")
		l := lines["night"]
		if l.Delivered != want || l.Name != film.Name || l.Bytes != int64(want)*film.Length || l.LAN != int64(want)*wasteAllowed*film.Length {
			t.Errorf("%+v", l)
		}
		if len(lines) != 2 || lines[""].Delivered != 1 || len(d.due("victim")) != 0 {
			t.Errorf("%+v", lines)
		}
	}
	check(2)

	d.known.assets = map[asset.ID]knownAsset{} // another manager that lags behind
	prove(false, "box-d", e)
	d.known.assets = nil // starts anew
	if err := d.Learn(ctx); err != nil {
		t.Fatal(err)
	}
	check(3)
}

// In a fleet from before managers kept what was ever published, proofs tell of what has left the catalog, and of nothing else.
func TestKnownStartsWithWhatWasProven(t *testing.T) {
	d := newDesk(t)
	film, e := d.acmesFilm()
	gone := mqttwire.Event{
		Kind: mqttwire.EventArrived, Asset: asset.ID{7}, Name: "gone", Publisher: "acme", Size: 50, From: mqttwire.Traffic{LAN: 50},
	}
	prove := d.teller() // nothing is judged yet
	for _, box := range []string{"box-a", "box-b"} {
		prove(false, box, gone)
	}
	lie := gone
	lie.Name, lie.Size = "a lie", 5000
	prove(false, "evil", lie)
	lie = e
	lie.Publisher = "victim"
	prove(false, "evil", lie)

	for range 2 { // what was found is kept
		d.known.assets = nil
		if err := d.Learn(ctx); err != nil {
			t.Fatal(err)
		}
		if k := d.known.assets[gone.Asset]; k.Name != "gone" || k.Length != 50 || len(k.Publishers) != 1 || k.Publishers[0] != "acme" {
			t.Errorf("%+v", k)
		}
		if k := d.known.assets[film.ID]; k.Name != film.Name || k.Length != film.Length || len(k.Publishers) != 1 {
			t.Errorf("%+v", k)
		}
	}
	gone.Kind, gone.Publisher = mqttwire.EventErased, ""
	prove(true, "box-a", gone)
	if l := d.due("acme")[""]; l.Asset != gone.Asset || l.Delivered != 3 || l.Erased != 1 {
		t.Errorf("%+v", l)
	}
}

// An asset that has gone before the first proof of it came is known all the same.
func TestWhatIsPublishedIsKnownAtOnce(t *testing.T) {
	d := newDesk(t)
	if err := d.Learn(ctx); err != nil {
		t.Fatal(err)
	}
	film, e := d.acmesFilm()
	if err := d.Remove(ctx, "op", film); err != nil {
		t.Fatal(err)
	}
	d.teller()(true, "box-a", e)
	if l := d.due("acme")[""]; l.Delivered != 1 || l.Bytes != film.Length {
		t.Errorf("%+v", l)
	}
}
