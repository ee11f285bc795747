package operate

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/identity/identitytest"
	"boxd/internal/mqttwire"
)

var ctx = context.Background()

// desk is a manager with a catalog and a store, and no broker.
type desk struct {
	*Fleet
	t     *testing.T
	dir   string
	fault error // of publishing
	dies  bool  // right after the next thing is published
	heard uint64
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, dir: t.TempDir()}
	r, err := repo.Init(repo.Options{
		Dir: filepath.Join(d.dir, "tuf"), Keys: filepath.Join(d.dir, "keys"), Fence: d.fence,
	}, repo.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Fleet = New(Options{
		ID: "f", Repo: r, Registry: d.store(), Keys: filepath.Join(d.dir, "keys"), OriginDir: filepath.Join(d.dir, "origin"),
		OriginURLs: []string{"https://o.example/origin/"}, CA: identitytest.New(t).CA, Holder: "test",
	})
	if err := d.AddPublisher(ctx, "test", DefaultPublisher, nil, 0); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) store() *registry.Registry {
	d.t.Helper()
	g, err := registry.Open(ctx, registry.Options{Path: filepath.Join(d.dir, "fleet.db")})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = g.Close() })
	return g
}

// fence is called right before something is published.
func (d *desk) fence() error {
	if d.dies {
		_ = d.o.Registry.Close() // nothing gets into the store any more
	}
	return d.fault
}

// again starts the manager that died anew.
func (d *desk) again() {
	d.t.Helper()
	o := d.o
	o.Registry, d.dies = d.store(), false
	d.Fleet = New(o)
	if err := d.Start(ctx); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) film(name string, replaces asset.ID) asset.ID {
	d.t.Helper()
	file := filepath.Join(d.dir, name)
	if err := os.WriteFile(file, []byte(name), 0o600); err != nil {
		d.t.Fatal(err)
	}
	a, err := d.Publish(ctx, "test", PublishRequest{Source: file, Replaces: replaces})
	if err != nil {
		d.t.Fatal(err)
	}
	return a.ID
}

func (d *desk) begin(id string, assets ...asset.ID) {
	d.t.Helper()
	_, err := d.CreateCampaign(ctx, "test", CampaignRequest{Campaign: catalog.Campaign{ID: id, Name: id}, AssetIDs: assets})
	if err != nil {
		d.t.Fatal(err)
	}
}

// entry is an asset in the catalog.
func (d *desk) entry(id asset.ID) Asset {
	d.t.Helper()
	a, err := d.Asset(ctx, "", id)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

// published returns a campaign as the boxes see it, or nil.
func (d *desk) published(id string) (found *catalog.Campaign) {
	d.t.Helper()
	err := d.o.Repo.View(func(tx *repo.Tx) error {
		list, err := tx.Campaigns(DefaultGroup)
		for i := range list {
			if list[i].ID == id {
				found = &list[i]
			}
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return found
}

func (d *desk) record(id string) Campaign {
	d.t.Helper()
	c, err := d.CampaignRecord(ctx, id)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// What could not be published when it was said is published later, whatever it was.
func TestAStopThatWasNotPublishedIsPublishedLater(t *testing.T) {
	d := newDesk(t)
	film := d.film("film", asset.ID{})
	d.begin("one", film)
	d.begin("two", film)
	d.fault = errors.New("the disk is full")
	for id, state := range map[string]string{"one": CampaignPaused, "two": CampaignAborted} {
		if _, err := d.SetCampaignState(ctx, "test", id, state, ""); err == nil {
			t.Fatal("it was published")
		}
	}
	if _, err := d.SetCampaignState(ctx, "test", "two", CampaignRunning, ""); !errors.Is(err, ErrConflict) {
		t.Errorf("an aborted campaign runs again: %v", err)
	}
	d.fault = nil
	if err := d.lead(ctx); err != nil {
		t.Fatal(err)
	}
	if c := d.published("one"); c == nil || !c.Paused {
		t.Errorf("one is not paused: %+v", c)
	}
	if c := d.published("two"); c != nil {
		t.Errorf("two is still there: %+v", c)
	}
	if _, err := d.SetCampaignState(ctx, "test", "two", CampaignAborted, "again"); err != nil {
		t.Errorf("an aborted campaign cannot be aborted again: %v", err)
	}
}

// A campaign goes on when one of its assets went: its record says what the catalog says.
func TestRecordsFollowTheAssets(t *testing.T) {
	d := newDesk(t)
	a, b, c := d.film("a", asset.ID{}), d.film("b", asset.ID{}), d.film("c", asset.ID{})
	d.begin("both", a, b)
	d.begin("all", a, b, c)
	d.begin("alone", a)
	if err := d.Withdraw(ctx, "test", d.entry(a)); err != nil {
		t.Fatal(err)
	}
	if s := d.record("alone").State; s != CampaignAborted {
		t.Errorf("without an asset it is %s", s)
	}
	if _, err := d.SetCampaignState(ctx, "test", "both", CampaignPaused, ""); err != nil {
		t.Errorf("pause after a withdrawal: %v", err)
	}
	d.film("c", b) // the same bytes: c takes the place of b
	if _, err := d.SetCampaignState(ctx, "test", "all", CampaignPaused, ""); err != nil {
		t.Errorf("pause after a replacement: %v", err)
	}
	if got := d.record("all").Assets; len(got) != 1 || got[0].ID != c {
		t.Errorf("after the replacement it has %+v", got)
	}
	if err := d.Remove(ctx, "test", d.entry(c)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"both", "all"} {
		if s, p := d.record(id).State, d.published(id); s != CampaignAborted || p != nil {
			t.Errorf("%s is %s after the removal, published %+v", id, s, p)
		}
	}
}

// keyless takes the campaigns key away and returns what signs a draft with it.
func (d *desk) keyless() func(*repo.Draft) []byte {
	d.t.Helper()
	file := filepath.Join(d.dir, "keys", "campaigns.pem")
	pem, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	key, err := repo.ParseKey(pem)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		d.t.Fatal(err)
	}
	return func(draft *repo.Draft) []byte {
		if err := repo.SignDraft(draft, key); err != nil {
			d.t.Fatal(err)
		}
		out, err := json.Marshal(draft)
		if err != nil {
			d.t.Fatal(err)
		}
		return out
	}
}

// A draft that went stale is made once more; one of a campaign that was aborted meanwhile is refused.
func TestDraftsAreMadeAgainOrRefused(t *testing.T) {
	d := newDesk(t)
	film := d.film("film", asset.ID{})
	sign := d.keyless()
	drafts := map[string]*repo.Draft{}
	for _, id := range []string{"one", "two", "three"} {
		c, err := d.DraftCampaign(ctx, "test", CampaignRequest{Campaign: catalog.Campaign{ID: id, Name: id}, AssetIDs: []asset.ID{film}})
		if err != nil {
			t.Fatal(err)
		}
		drafts[id] = c.Draft
	}
	if _, err := d.SetCampaignState(ctx, "test", "one", CampaignAborted, ""); err != nil {
		t.Error(err)
	}
	if err := d.ImportDraft(ctx, "test", sign(drafts["one"])); !errors.Is(err, ErrConflict) {
		t.Errorf("an aborted campaign was imported: %v", err)
	}
	if err := d.ImportDraft(ctx, "test", sign(drafts["two"])); err != nil {
		t.Fatal(err)
	}
	if err := d.ImportDraft(ctx, "test", sign(drafts["three"])); err == nil {
		t.Fatal("a stale draft was imported")
	}
	if _, err := d.SetCampaignState(ctx, "test", "three", CampaignRunning, ""); !errors.Is(err, ErrNoKey) {
		t.Fatalf("sign without the key: %v", err)
	}
	again, err := d.DraftCampaignState(ctx, "test", "three")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.ImportDraft(ctx, "test", sign(again.Draft)); err != nil || d.published("three") == nil {
		t.Errorf("the second draft: %v", err)
	}
	for range 2 { // the first draft of an abortion may get lost
		if _, err := d.SetCampaignState(ctx, "test", "two", CampaignAborted, ""); !errors.Is(err, ErrNoKey) {
			t.Fatalf("abort without the key: %v", err)
		}
		if again, err = d.DraftCampaignState(ctx, "test", "two"); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.ImportDraft(ctx, "test", sign(again.Draft)); err != nil || d.published("two") != nil {
		t.Errorf("the abortion: %v", err)
	}
}

// hear takes a report of a box, with these assets unfinished.
func (d *desk) hear(box string, assets ...mqttwire.AssetProgress) {
	d.t.Helper()
	d.heard++
	now := d.now()
	data, err := mqttwire.Encode(mqttwire.MaxPayload, &mqttwire.Reported{
		Envelope: mqttwire.Envelope{V: mqttwire.Version, Epoch: "epoch-one", SID: 1, Seq: d.heard, TS: now}, Software: "1", Assets: assets,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	topic := mqttwire.Topic{Fleet: "f", Box: box, Kind: mqttwire.KindReported}
	if _, err := d.o.Registry.Ingest(ctx, []mqttwire.Message{{Topic: topic, Payload: data, Received: now}}); err != nil {
		d.t.Fatal(err)
	}
}

// leave takes a box's word that it goes.
func (d *desk) leave(box string) {
	d.t.Helper()
	d.heard++
	now := d.now()
	data, err := mqttwire.Encode(mqttwire.MaxPayload, &mqttwire.State{
		Envelope: mqttwire.Envelope{V: mqttwire.Version, Epoch: "epoch-one", SID: 1, Seq: d.heard, TS: now}, Reason: "bye",
	})
	if err != nil {
		d.t.Fatal(err)
	}
	topic := mqttwire.Topic{Fleet: "f", Box: box, Kind: mqttwire.KindState}
	if _, err := d.o.Registry.Ingest(ctx, []mqttwire.Message{{Topic: topic, Payload: data, Received: now}}); err != nil {
		d.t.Fatal(err)
	}
}
