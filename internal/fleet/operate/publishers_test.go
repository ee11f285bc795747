package operate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/repo"
)

// publisher adds one; its key is on this machine.
func (d *desk) publisher(name string, quota int64) {
	d.t.Helper()
	if err := d.AddPublisher(ctx, "test", name, nil, quota); err != nil {
		d.t.Fatal(err)
	}
}

// file writes what can be published.
func (d *desk) file(name, content string) string {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return file
}

// copies lists what lies at the origin.
func (d *desk) copies() (names []string) {
	d.t.Helper()
	entries, err := os.ReadDir(d.o.OriginDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// twins is one file of two publishers, each with a campaign that has it.
func (d *desk) twins() (mine, theirs Asset) {
	d.t.Helper()
	src := d.file("film.mp4", "the same bytes")
	var assets []Asset
	for _, name := range []string{"aaa", "victim"} {
		d.publisher(name, 0)
		a, err := d.Publish(ctx, name, PublishRequest{Source: src, Publisher: name})
		if err != nil {
			d.t.Fatal(err)
		}
		_, err = d.CreateCampaign(ctx, "op", CampaignRequest{
			AssetIDs: []asset.ID{a.ID}, Publisher: name, Campaign: catalog.Campaign{ID: name, Name: name},
		})
		if err != nil {
			d.t.Fatal(err)
		}
		assets = append(assets, a)
	}
	return assets[0], assets[1]
}

// What one publisher does with its asset leaves another's alone, though the bytes and so the id are the same.
func TestPublishersOfTheSameBytesAreApart(t *testing.T) {
	for name, change := range map[string]func(d *desk, mine Asset) error{
		"withdraw": func(d *desk, mine Asset) error { return d.Withdraw(ctx, "aaa", mine) },
		"remove":   func(d *desk, mine Asset) error { return d.Remove(ctx, "aaa", mine) },
		"replace": func(d *desk, mine Asset) error {
			_, err := d.Publish(ctx, "aaa", PublishRequest{
				Source: d.file("b.mp4", "others"), Publisher: "aaa", Replaces: mine.ID, OwnOnly: true,
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			mine, theirs := d.twins()
			if mine.ID != theirs.ID || mine.Path == theirs.Path {
				t.Fatalf("%+v, %+v", mine, theirs)
			}
			if err := change(d, mine); err != nil {
				t.Fatal(err)
			}
			if c, p := d.record("victim"), d.published("victim"); c.State != CampaignRunning || p == nil || p.Assets[0].Path != theirs.Path {
				t.Errorf("the other's campaign is %s (%s), published %+v", c.State, c.Why, p)
			}
			if c := d.record("aaa"); name != "replace" && c.State != CampaignAborted {
				t.Errorf("one's own is %s with %+v", c.State, c.Assets)
			}
			if a, err := d.Asset(ctx, "victim", theirs.ID); err != nil || a.Withdrawn {
				t.Errorf("the other's asset: %+v, %v", a, err)
			}
			if _, err := os.Stat(filepath.Join(d.o.OriginDir, theirs.ID.String())); err != nil {
				t.Errorf("its bytes: %v", err)
			}
		})
	}
}

func TestAnIDOfSeveralPublishersNeedsAName(t *testing.T) {
	d := newDesk(t)
	mine, theirs := d.twins()
	if _, err := d.Asset(ctx, "", mine.ID); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "aaa, victim") {
		t.Errorf("found without a name: %v", err)
	}
	_, err := d.CreateCampaign(ctx, "op", CampaignRequest{AssetIDs: []asset.ID{mine.ID}, Campaign: catalog.Campaign{ID: "x", Name: "x"}})
	if !errors.Is(err, ErrConflict) {
		t.Errorf("a campaign without a name: %v", err)
	}
	// When all have withdrawn them the bytes go everywhere, and come back for one alone.
	for _, a := range []Asset{mine, theirs} {
		if err := d.Withdraw(ctx, "test", a); err != nil {
			t.Fatal(err)
		}
	}
	if gone := d.withdrawn(); len(gone) != 1 || gone[0] != mine.ID {
		t.Errorf("boxes erase %v", gone)
	}
	if err := d.Readmit(ctx, "test", theirs); err != nil {
		t.Fatal(err)
	}
	m, err1 := d.Asset(ctx, "aaa", mine.ID)
	v, err2 := d.Asset(ctx, "victim", mine.ID)
	if err := errors.Join(err1, err2); err != nil || !m.Withdrawn || v.Withdrawn || len(d.withdrawn()) != 0 {
		t.Errorf("after the other was readmitted: %t, %t, %v; %v", m.Withdrawn, v.Withdrawn, d.withdrawn(), err)
	}
	// The last reference takes the copy along.
	if err := errors.Join(d.Remove(ctx, "test", m), d.Remove(ctx, "test", v)); err != nil || len(d.copies()) != 0 {
		t.Errorf("the origin has %v, %v", d.copies(), err)
	}
}

func (d *desk) withdrawn() (ids []asset.ID) {
	d.t.Helper()
	err := d.o.Repo.View(func(tx *repo.Tx) (err error) {
		ids, err = tx.Withdrawn()
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return ids
}

func TestAReplacementNamesAnAssetThatOneHas(t *testing.T) {
	d := newDesk(t)
	d.publisher("acme", 0)
	d.publisher("rival", 0)
	old, err := d.Publish(ctx, "acme", PublishRequest{Source: d.file("a", "one"), Publisher: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	d.begin("night", old.ID)
	for name, r := range map[string]PublishRequest{
		"another's": {Publisher: "rival", Replaces: old.ID, OwnOnly: true},
		"unknown":   {Publisher: "acme", Replaces: asset.ID{9}},
	} {
		r.Source = d.file("b", "two")
		if _, err := d.Publish(ctx, "x", r); !errors.Is(err, repo.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := d.record("night").Assets; len(got) != 1 || got[0].ID != old.ID || len(d.copies()) != 1 {
		t.Errorf("the campaign has %+v, the origin %v", got, d.copies())
	}
	next, err := d.Publish(ctx, "acme", PublishRequest{Source: d.file("b", "two"), Publisher: "acme", Replaces: old.ID, OwnOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := d.record("night").Assets; len(got) != 1 || got[0].ID != next.ID {
		t.Errorf("its own next version: %+v", got)
	}
	log, err := d.o.Registry.AuditLog(ctx, 0, 1)
	if err != nil || !strings.Contains(log[0].Detail, "replaces "+old.Path) {
		t.Errorf("the audit log says %+v, %v", log, err)
	}
}

func TestAQuotaBoundsTheDisk(t *testing.T) {
	d := newDesk(t)
	d.publisher("acme", 10)
	publish := func(content string, draft bool) error {
		r := PublishRequest{Source: d.file("film", content), Publisher: "acme"}
		if draft {
			_, err := d.DraftAsset(ctx, "acme", r)
			return err
		}
		_, err := d.Publish(ctx, "acme", r)
		return err
	}
	if err := publish("more than ten bytes", false); !errors.Is(err, repo.ErrQuota) || len(d.copies()) != 0 {
		t.Fatalf("too much: %v, the origin has %v", err, d.copies())
	}
	if err := errors.Join(publish("four", false), publish("4444", true)); err != nil {
		t.Fatal(err)
	}
	// What waits for its signature counts.
	if err := publish("five5", true); !errors.Is(err, repo.ErrQuota) || len(d.copies()) != 2 {
		t.Errorf("a draft too many: %v, the origin has %v", err, d.copies())
	}
	// So does what is on its way.
	_, done, err := d.Receive(ctx, "acme", 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Receive(ctx, "acme", 1); !errors.Is(err, repo.ErrQuota) {
		t.Errorf("more than is left on the way: %v", err)
	}
	done()
	if most, done, err := d.Receive(ctx, "acme", -1); err != nil || most != 2 {
		t.Errorf("of unknown length: %d, %v", most, err)
	} else {
		done()
	}
	if _, _, err := d.Receive(ctx, "nobody", 1); !errors.Is(err, repo.ErrNotFound) {
		t.Errorf("a publisher that there is not: %v", err)
	}
}

// An import that hangs, as one from a share that is gone, keeps no other waiting; what it brings counts as its publisher's.
func TestAnImportThatHangsHoldsUpNobody(t *testing.T) {
	d := newDesk(t)
	d.publisher("acme", 10)
	d.publisher("other", 0)
	publish := func(publisher, content string, meanwhile func()) error {
		_, err := d.Publish(ctx, "x", PublishRequest{
			Source: d.file("film", content), Publisher: publisher, Progress: func(int64, int64) { meanwhile() },
		})
		return err
	}
	err := publish("acme", "sixsix", sync.OnceFunc(func() {
		nothing := func() {}
		if err := publish("other", "elsewhere", nothing); err != nil {
			t.Errorf("another publisher's: %v", err)
		}
		if err := publish("acme", "fives", nothing); !errors.Is(err, repo.ErrQuota) {
			t.Errorf("more than is left beside it: %v", err)
		}
		if err := publish("acme", "four", nothing); err != nil {
			t.Errorf("as much as is left beside it: %v", err)
		}
		if err := publish("other", "sixsix", nothing); err != nil {
			t.Errorf("the same bytes of another publisher: %v", err)
		}
	}))
	if err != nil || len(d.copies()) != 3 || len(d.copying) != 0 {
		t.Errorf("%v, the origin has %v, under way %v", err, d.copies(), d.copying)
	}
	if err := publish("acme", "1", func() {}); !errors.Is(err, repo.ErrQuota) {
		t.Errorf("beyond the quota: %v", err)
	}
}

// A copy whose asset the catalog then refuses goes again.
func TestARefusedAssetLeavesNoCopy(t *testing.T) {
	d := newDesk(t)
	d.fault = errors.New("not now")
	_, err := d.Publish(ctx, "x", PublishRequest{Source: d.file("film", "bytes")})
	if !errors.Is(err, d.fault) || len(d.copies()) != 0 {
		t.Errorf("%v, the origin has %v", err, d.copies())
	}
	d.fault = nil
	a := d.film("kept", asset.ID{})
	d.fault = errors.New("not now")
	if _, err := d.Publish(ctx, "x", PublishRequest{Source: d.file("kept", "kept")}); err == nil || len(d.copies()) != 1 {
		t.Errorf("published again: %v, %s has %v", err, a, d.copies())
	}
}

// A draft can be imported for as long as it says; then its bytes go.
func TestADraftLivesAsLongAsItSays(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration
		here  bool
	}{"in time": {repo.DraftLife - 24*time.Hour, true}, "too late": {repo.DraftLife + 24*time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			a, err := d.DraftAsset(ctx, "x", PublishRequest{Source: d.file("film", "some bytes"), Publisher: DefaultPublisher})
			if err != nil {
				t.Fatal(err)
			}
			old := time.Now().Add(-c.after)
			err = filepath.Walk(filepath.Join(d.dir, "tuf"), func(p string, fi os.FileInfo, err error) error {
				if err == nil && !fi.IsDir() {
					err = os.Chtimes(p, old, old)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			d.Fleet.now = func() time.Time { return time.Now().Add(c.after) }
			if err := d.collect(ctx); err != nil {
				t.Fatal(err)
			}
			pem, err := os.ReadFile(filepath.Join(d.dir, "keys", "publisher-operator.pem"))
			if err != nil {
				t.Fatal(err)
			}
			key, err := repo.ParseKey(pem)
			if err != nil {
				t.Fatal(err)
			}
			if err := repo.SignDraft(a.Draft, key); err != nil {
				t.Fatal(err)
			}
			if err := d.o.Repo.Import(a.Draft); (err == nil) != c.here {
				t.Errorf("import after %s: %v", c.after, err)
			}
			if n := len(d.copies()); (n == 1) != c.here {
				t.Errorf("the origin has %d copies", n)
			}
			if err := d.settleDrafts(ctx); err != nil {
				t.Fatal(err)
			}
			if left, _ := d.room(ctx, DefaultPublisher); left == 0 || (len(d.copies()) == 1) != c.here {
				t.Errorf("once signed: %v", d.copies())
			}
		})
	}
}
