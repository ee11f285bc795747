package operate

import (
	"os"
	"path/filepath"
	"testing"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/repo"
)

// fleetd dies after the catalog has changed and before its records have: they follow when it is back.
func TestTheRecordsFollowTheCatalogAfterADeath(t *testing.T) {
	for name, change := range map[string]func(d *desk, a, b asset.ID) error{
		"withdraw": func(d *desk, a, _ asset.ID) error { return d.Withdraw(ctx, "test", d.entry(a)) },
		"remove":   func(d *desk, a, _ asset.ID) error { return d.Remove(ctx, "test", d.entry(a)) },
		"replace": func(d *desk, a, b asset.ID) error {
			_, err := d.Publish(ctx, "test", PublishRequest{Source: filepath.Join(d.dir, "b"), Replaces: a})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			a, b, c := d.film("a", asset.ID{}), d.film("b", asset.ID{}), d.film("c", asset.ID{})
			d.begin("pair", a, c)
			d.begin("alone", a)
			d.dies = true
			if err := change(d, a, b); err == nil {
				t.Fatal("it did not die")
			}
			d.again()
			want := map[string][]asset.ID{"pair": {c}, "alone": nil}
			if name == "replace" {
				want = map[string][]asset.ID{"pair": {b, c}, "alone": {b}}
			}
			for id, assets := range want {
				r, p := d.record(id), d.published(id)
				if len(assets) == 0 {
					if r.State != CampaignAborted || p != nil {
						t.Errorf("%s is %s without an asset, published %+v", id, r.State, p)
					}
					continue
				}
				if r.State != CampaignRunning || p == nil || !named(r.Assets, assets) || !named(p.Assets, assets) {
					t.Errorf("%s: record %s %+v, published %+v; want %v", id, r.State, r.Assets, p, assets)
				}
				// The next change publishes nothing that is gone.
				if _, err := d.SetCampaignState(ctx, "test", id, CampaignPaused, ""); err != nil || !named(d.published(id).Assets, assets) {
					t.Errorf("%s paused: %+v, %v", id, d.published(id), err)
				}
			}
			left := filepath.Join(d.o.OriginDir, a.String())
			if _, err := os.Stat(left); (err == nil) != (name != "remove") {
				t.Errorf("the origin's copy: %v", err)
			}
			if known := d.knows(a); known != (name != "remove") {
				t.Errorf("in the catalog: %t", known)
			}
		})
	}
}

func named(refs []catalog.AssetRef, ids []asset.ID) bool {
	if len(refs) != len(ids) {
		return false
	}
	for i := range refs {
		if refs[i].ID != ids[i] {
			return false
		}
	}
	return true
}

func (d *desk) knows(id asset.ID) (found bool) {
	d.t.Helper()
	list, err := d.Assets(ctx, "")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, a := range list {
		found = found || a.ID == id
	}
	return found
}

// A removal that did not get as far as the catalog is forgotten: the origin's copy is still needed.
func TestARemovalThatDidNotHappen(t *testing.T) {
	d := newDesk(t)
	a := d.film("a", asset.ID{})
	path := catalog.AssetPath(DefaultPublisher, a)
	if err := d.o.Registry.PutDoc(ctx, tableRemoving, a.String(), path); err != nil {
		t.Fatal(err)
	}
	d.again()
	if _, err := os.Stat(filepath.Join(d.o.OriginDir, a.String())); err != nil {
		t.Error(err)
	}
	if err := d.o.Repo.Update(func(tx *repo.Tx) error { return tx.RemoveAsset(path) }); err != nil {
		t.Fatal(err)
	}
	d.again() // nothing is left to be done
	if _, err := os.Stat(filepath.Join(d.o.OriginDir, a.String())); err != nil {
		t.Error(err)
	}
}
