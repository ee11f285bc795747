package repo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testOptions(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	return Options{Dir: filepath.Join(dir, "tuf"), Keys: filepath.Join(dir, "keys"), Now: func() time.Time { return t0 }}
}

var t0 = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func newTestRepo(t *testing.T, opt Options) *Repo {
	t.Helper()
	r, err := Init(opt, InitOptions{})
	must(t, err)
	return r
}

func newKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return pub, priv
}

func addPublisher(t *testing.T, r *Repo, name string, quota int64) {
	t.Helper()
	k, err := GenerateKey(r.fs, r.opt.Keys, "publisher-"+name)
	must(t, err)
	must(t, r.Update(func(tx *Tx) error { return tx.AddPublisher(name, k.Public().(ed25519.PublicKey), quota) }))
}

func makeTorrent(t testing.TB, name string, content []byte) []byte {
	t.Helper()
	b, _, err := asset.Build(context.Background(), []asset.Source{{
		Path: name, Length: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}}, asset.BuildOptions{Name: name, Single: true})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func putAsset(r *Repo, publisher string, torrent []byte) (ref catalog.AssetRef, err error) {
	err = r.Update(func(tx *Tx) error {
		var err error
		ref, err = tx.PutAsset(publisher, torrent)
		return err
	})
	return ref, err
}

func TestInitOnceThenOpen(t *testing.T) {
	opt := testOptions(t)
	if _, err := Open(opt); !errors.Is(err, ErrNotFound) {
		t.Fatalf("open before init: %v", err)
	}
	newTestRepo(t, opt)
	if _, err := Init(opt, InitOptions{}); !errors.Is(err, ErrExists) {
		t.Fatalf("init twice: %v", err)
	}
	r, err := Open(opt)
	must(t, err)
	if v, err := r.Version(); err != nil || v != 1 {
		t.Fatalf("version %d, %v", v, err)
	}
	for _, bad := range []InitOptions{{RootKeys: 2, RootThreshold: 3}} {
		if _, err := Init(testOptions(t), bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestUpdatePublishesOnceAndTells(t *testing.T) {
	r := newTestRepo(t, testOptions(t))
	addPublisher(t, r, "acme", 0)
	before, err := r.Version()
	must(t, err)
	changed := r.Changed()
	var refs []catalog.AssetRef
	must(t, r.Update(func(tx *Tx) error {
		for i := range 3 {
			ref, err := tx.PutAsset("acme", makeTorrent(t, fmt.Sprintf("f%d", i), []byte{byte(i)}))
			if err != nil {
				return err
			}
			refs = append(refs, ref)
		}
		return tx.PutCampaign(catalog.Campaign{ID: "c", Group: "g", Assets: refs})
	}))
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	after, err := r.Version()
	must(t, err)
	if after != before+1 {
		t.Errorf("version went from %d to %d", before, after)
	}
	must(t, r.Update(func(*Tx) error { return nil }))
	if v, _ := r.Version(); v != after {
		t.Errorf("an empty change made version %d", v)
	}
	boom := errors.New("boom")
	if err := r.Update(func(tx *Tx) error { return errors.Join(tx.RemoveCampaign("g", "c"), boom) }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	must(t, r.View(func(tx *Tx) error {
		list, err := tx.Campaigns("g")
		if len(list) != 1 {
			t.Errorf("campaigns after a failed change: %v", list)
		}
		return err
	}))
}

func TestRulesAreKept(t *testing.T) {
	r := newTestRepo(t, testOptions(t))
	addPublisher(t, r, "acme", 10)
	small, big := makeTorrent(t, "a", []byte("12345678")), makeTorrent(t, "b", []byte("12345678"))
	ref, err := putAsset(r, "acme", small)
	must(t, err)
	if _, err := putAsset(r, "acme", small); err != nil {
		t.Errorf("the same asset again: %v", err)
	}
	if _, err := putAsset(r, "acme", big); !errors.Is(err, ErrQuota) {
		t.Errorf("beyond the quota: %v", err)
	}
	if _, err := putAsset(r, "nobody", small); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown publisher: %v", err)
	}
	if _, err := putAsset(r, "acme", []byte("d4:spam4:eggse")); !errors.Is(err, asset.ErrTorrent) {
		t.Errorf("not a torrent: %v", err)
	}
	other := catalog.AssetRef{Path: catalog.AssetPath("acme", asset.ID{1}), ID: asset.ID{1}}
	for what, c := range map[string]catalog.Campaign{
		"an asset nobody signed": {ID: "c", Group: "g", Assets: []catalog.AssetRef{other}},
		"no assets":              {ID: "c", Group: "g"},
		"a bad group":            {ID: "c", Group: "../x", Assets: []catalog.AssetRef{ref}},
	} {
		if err := r.Update(func(tx *Tx) error { return tx.PutCampaign(c) }); err == nil {
			t.Errorf("a campaign with %s was accepted", what)
		}
	}
	k, _ := newKey(t)
	must(t, r.Update(func(tx *Tx) error { return tx.AddPublisher("beta", k, 0) }))
	for name, key := range map[string]ed25519.PublicKey{"acme": nil, "../x": k, "gamma": k, "acme2": {1}} {
		if err := r.Update(func(tx *Tx) error { return tx.AddPublisher(name, key, 0) }); err == nil {
			t.Errorf("publisher %q was accepted", name)
		}
	}
}

func TestWithdrawNeedsNoPublisherKey(t *testing.T) {
	opt := testOptions(t)
	r := newTestRepo(t, opt)
	addPublisher(t, r, "acme", 0)
	a, err := putAsset(r, "acme", makeTorrent(t, "a", []byte("a")))
	must(t, err)
	b, err := putAsset(r, "acme", makeTorrent(t, "b", []byte("b")))
	must(t, err)
	must(t, r.Update(func(tx *Tx) error {
		return errors.Join(
			tx.PutCampaign(catalog.Campaign{ID: "both", Group: "g", Assets: []catalog.AssetRef{a, b}}),
			tx.PutCampaign(catalog.Campaign{ID: "only", Group: "g", Assets: []catalog.AssetRef{a}}))
	}))
	must(t, os.Remove(filepath.Join(opt.Keys, "publisher-acme.pem")))
	must(t, os.Remove(filepath.Join(opt.Keys, "targets.pem")))
	must(t, r.Update(func(tx *Tx) error { return tx.Withdraw(a.ID) }))
	must(t, r.View(func(tx *Tx) error {
		list, err := tx.Campaigns("g")
		if err != nil || len(list) != 1 || list[0].ID != "both" || len(list[0].Assets) != 1 {
			t.Errorf("campaigns: %+v, %v", list, err)
		}
		gone, err := tx.Withdrawn()
		if len(gone) != 1 || gone[0] != a.ID {
			t.Errorf("withdrawn: %v", gone)
		}
		return err
	}))
	c := catalog.Campaign{ID: "again", Group: "g", Assets: []catalog.AssetRef{a}}
	if err := r.Update(func(tx *Tx) error { return tx.PutCampaign(c) }); err == nil {
		t.Error("a campaign with a withdrawn asset was accepted")
	}
	must(t, r.Update(func(tx *Tx) error { return errors.Join(tx.Readmit(a.ID), tx.PutCampaign(c)) }))
}

func TestNewVersionTakesThePlaceOfTheOld(t *testing.T) {
	r := newTestRepo(t, testOptions(t))
	addPublisher(t, r, "acme", 0)
	v1, err := putAsset(r, "acme", makeTorrent(t, "a", []byte("version 1")))
	must(t, err)
	v2, err := putAsset(r, "acme", makeTorrent(t, "a", []byte("version 2")))
	must(t, err)
	v1.PrefixBytes = 7
	must(t, r.Update(func(tx *Tx) error {
		return errors.Join(
			tx.PutCampaign(catalog.Campaign{ID: "one", Group: "g", Priority: 3, Assets: []catalog.AssetRef{v1}}),
			tx.PutCampaign(catalog.Campaign{ID: "both", Group: "h", Assets: []catalog.AssetRef{v1, v2}}),
			tx.PutCampaign(catalog.Campaign{ID: "new", Group: "h", Assets: []catalog.AssetRef{v2}}))
	}))
	must(t, r.Update(func(tx *Tx) error {
		n, err := tx.ReplaceAsset(v1.Path, v2)
		if n != 2 {
			t.Errorf("changed %d campaigns", n)
		}
		return err
	}))
	must(t, r.View(func(tx *Tx) error {
		for _, group := range []string{"g", "h"} {
			list, err := tx.Campaigns(group)
			if err != nil {
				return err
			}
			for _, c := range list {
				if len(c.Assets) != 1 || c.Assets[0].ID != v2.ID || c.ID == "one" && (c.Priority != 3 || c.Assets[0].PrefixBytes != 7) {
					t.Errorf("%+v", c)
				}
			}
		}
		return nil
	}))
	err = r.Update(func(tx *Tx) error {
		_, err := tx.ReplaceAsset(v2.Path, catalog.AssetRef{Path: catalog.AssetPath("acme", asset.ID{1}), ID: asset.ID{1}})
		return err
	})
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("by an asset that nobody signed: %v", err)
	}
}

// The content key stays off the server: the change is drafted, signed elsewhere and imported.
func TestDraftSignedElsewhere(t *testing.T) {
	opt := testOptions(t)
	r := newTestRepo(t, opt)
	pub, priv := newKey(t)
	must(t, r.Update(func(tx *Tx) error { return tx.AddPublisher("acme", pub, 8) }))
	torrent := makeTorrent(t, "a", []byte("12345678"))
	put := func(tx *Tx) error { _, err := tx.PutAsset("acme", torrent); return err }
	if err := r.Update(put); !errors.Is(err, ErrNoKey) {
		t.Fatalf("without the key: %v", err)
	}
	d, err := r.Draft([]string{"add asset a"}, put)
	must(t, err)
	if err := r.Import(d); !errors.Is(err, ErrNoKey) {
		t.Fatalf("unsigned: %v", err)
	}
	_, wrong := newKey(t)
	forged := clone(t, d)
	must(t, SignDraft(forged, wrong))
	if err := r.Import(forged); !errors.Is(err, ErrNoKey) {
		t.Fatalf("signed with another key: %v", err)
	}
	d = clone(t, d) // as if carried in a file
	must(t, SignDraft(d, priv))
	tampered := clone(t, d)
	tampered.Roles[0].Metadata = bytes.Replace(tampered.Roles[0].Metadata, []byte(`"length":8`), []byte(`"length":1`), 1)
	if err := r.Import(tampered); !errors.Is(err, ErrNoKey) {
		t.Fatalf("changed after signing: %v", err)
	}
	must(t, r.Import(d))
	if err := r.Import(d); !errors.Is(err, ErrStale) {
		t.Fatalf("imported twice: %v", err)
	}
	must(t, r.View(func(tx *Tx) error {
		list, err := tx.Assets("acme")
		if len(list) != 1 || list[0].Length != 8 {
			t.Errorf("assets: %+v", list)
		}
		return err
	}))
	// A stolen publisher key is still bound by the quota and by its own paths.
	d, err = r.Draft(nil, func(tx *Tx) error {
		m, err := tx.edit(PublisherRole("acme"))
		if err != nil {
			return err
		}
		in, err := asset.ParseTorrent(makeTorrent(t, "b", []byte("b")))
		if err != nil {
			return err
		}
		b := makeTorrent(t, "b", []byte("b"))
		if err := tx.setTarget(PublisherRole("acme"), catalog.AssetPath("other", in.ID), b, nil); err != nil {
			return err
		}
		_ = m
		return nil
	})
	must(t, err)
	must(t, SignDraft(d, priv))
	if err := r.Import(d); err == nil || !strings.Contains(err.Error(), "not one that this role may sign") {
		t.Fatalf("another publisher's path: %v", err)
	}
}

func clone(t *testing.T, d *Draft) *Draft {
	t.Helper()
	b, err := json.Marshal(d)
	must(t, err)
	c, err := ParseDraft(b)
	must(t, err)
	return c
}

func TestRootCeremony(t *testing.T) {
	opt := testOptions(t)
	r := newTestRepo(t, opt)
	var pubs []ed25519.PublicKey
	var privs []ed25519.PrivateKey
	for range 3 {
		pub, priv := newKey(t)
		pubs, privs = append(pubs, pub), append(privs, priv)
	}
	// From the first, on-line root key to three off-line ones, of which two must sign.
	d, err := r.DraftRoot(RootChange{Root: pubs, Threshold: 2})
	must(t, err)
	first, err := os.ReadFile(filepath.Join(opt.Keys, "root-1.pem"))
	must(t, err)
	firstKey, err := ParseKey(first)
	must(t, err)
	must(t, SignDraft(d, privs[0]))
	if err := r.Import(d); !errors.Is(err, ErrNoKey) {
		t.Fatalf("without the old key: %v", err)
	}
	must(t, SignDraft(d, firstKey))
	if err := r.Import(d); !errors.Is(err, ErrNoKey) {
		t.Fatalf("with one of two new keys: %v", err)
	}
	must(t, SignDraft(d, privs[2]))
	must(t, r.Import(d))
	must(t, os.Remove(filepath.Join(opt.Keys, "root-1.pem")))

	// All keys on the server were stolen: new ones for every role, signed off line.
	change, keys := RootChange{}, map[string]ed25519.PrivateKey{}
	for role, into := range map[string]*[]ed25519.PublicKey{
		"targets": &change.Targets, "snapshot": &change.Snapshot, "timestamp": &change.Timestamp,
	} {
		must(t, os.Remove(filepath.Join(opt.Keys, role+".pem")))
		k, err := GenerateKey(durable.OS(), opt.Keys, role)
		must(t, err)
		*into, keys[role] = []ed25519.PublicKey{k.Public().(ed25519.PublicKey)}, k
	}
	if err := r.RotateRoot(change); !errors.Is(err, ErrNoKey) {
		t.Fatalf("rotated without the root keys: %v", err)
	}
	must(t, r.RotateRoot(change, privs[0], privs[1]))
	// The new targets key can stay off the server too.
	pub, priv := newKey(t)
	must(t, os.Remove(filepath.Join(opt.Keys, "targets.pem")))
	d, err = r.DraftRoot(RootChange{Targets: []ed25519.PublicKey{pub}})
	must(t, err)
	for _, k := range []ed25519.PrivateKey{privs[1], privs[2]} {
		must(t, SignDraft(d, k))
	}
	if err := r.Import(d); err == nil {
		t.Fatal("a root whose targets nobody has signed was accepted")
	}
	must(t, SignDraft(d, priv))
	must(t, r.Import(d))
	status, err := r.Status()
	must(t, err)
	for _, s := range status {
		if want := s.Role != "root" && s.Role != "targets"; s.KeyHere != want {
			t.Errorf("%s: key here is %v", s.Role, s.KeyHere)
		}
		if s.Role == "root" && s.Version != 4 {
			t.Errorf("root version %d", s.Version)
		}
	}
}

func TestRenewInTime(t *testing.T) {
	opt := testOptions(t)
	now := t0
	opt.Now = func() time.Time { return now }
	r := newTestRepo(t, opt)
	addPublisher(t, r, "acme", 0)
	for _, c := range []struct {
		at   time.Duration
		want bool
	}{{time.Hour, false}, {37 * time.Hour, true}, {38 * time.Hour, false}, {16 * day, true}, {310 * day, true}, {310 * day, false}} {
		now = t0.Add(c.at)
		got, err := r.Renew()
		must(t, err)
		if got != c.want {
			t.Errorf("after %s: renewed %v", c.at, got)
		}
	}
	status, err := r.Status()
	must(t, err)
	for _, s := range status {
		if s.Due || !s.KeyHere || s.Expires.Before(now) {
			t.Errorf("after renewal: %+v", s)
		}
	}
	must(t, os.Remove(filepath.Join(opt.Keys, "targets.pem")))
	now = t0.Add(700 * day)
	_, err = r.Renew()
	must(t, err)
	status, err = r.Status()
	must(t, err)
	for _, s := range status {
		if s.Due != (s.Role == "targets" || s.Role == "root") {
			t.Errorf("with the targets key away: %+v", s)
		}
	}
}

// A fleetd that runs hears of what a command on the same machine publishes, and renews in time.
func TestRunHearsOfOtherProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newMem(t)
		opt := memOptions(disk)
		opt.Now = time.Now
		r := newTestRepo(t, opt)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		other, err := Open(opt)
		must(t, err)
		changed := r.Changed()
		time.Sleep(time.Minute)
		must(t, other.Update(func(tx *Tx) error { return tx.SetRevocations([]string{"ab"}) }))
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Error("nobody heard")
		}
		time.Sleep(20 * day)
		synctest.Wait()
		status, err := r.Status()
		must(t, err)
		for _, s := range status {
			if s.Expires.Before(time.Now()) {
				t.Errorf("%+v has expired", s)
			}
		}
		cancel()
		must(t, <-done)
	})
}

func TestCollect(t *testing.T) {
	r := newTestRepo(t, testOptions(t))
	addPublisher(t, r, "acme", 0)
	ref, err := putAsset(r, "acme", makeTorrent(t, "a", []byte("a")))
	must(t, err)
	must(t, r.Update(func(tx *Tx) error {
		return tx.PutCampaign(catalog.Campaign{ID: "c", Group: "g", Assets: []catalog.AssetRef{ref}})
	}))
	must(t, r.Update(func(tx *Tx) error { return tx.RemoveCampaign("g", "c") }))
	r.opt.Now = func() time.Time { return time.Now().Add(time.Hour) }
	n, err := r.Collect(2 * time.Hour)
	must(t, err)
	if n != 0 {
		t.Errorf("removed %d young files", n)
	}
	n, err = r.Collect(time.Minute)
	must(t, err)
	if n == 0 {
		t.Error("removed nothing")
	}
	if _, err := Open(r.opt); err != nil {
		t.Fatal(err)
	}
	must(t, r.View(func(tx *Tx) error { _, err := tx.Torrent(ref.Path); return err }))
	if n, err := r.Collect(time.Minute); err != nil || n != 0 {
		t.Errorf("a second time: %d, %v", n, err)
	}
}

func TestLostLeaseStopsCommit(t *testing.T) {
	opt := testOptions(t)
	r := newTestRepo(t, opt)
	lost := errors.New("another holds the lease")
	files := func() (n int) {
		must(t, filepath.WalkDir(opt.Dir, func(_ string, _ fs.DirEntry, err error) error { n++; return err }))
		return n
	}
	before, asked := files(), 0
	opt.Fence = func() error { asked++; return lost }
	r2, err := Open(opt)
	must(t, err)
	if err := r2.Update(func(tx *Tx) error { return tx.SetRevocations([]string{"ab"}) }); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	if v, _ := r.Version(); v != 1 || files() != before {
		t.Fatalf("published version %d without the lease, %d files in place of %d", v, files(), before)
	}
	// Lost while the files were written.
	asked = 0
	r2.opt.Fence = func() error {
		if asked++; asked > 1 {
			return lost
		}
		return nil
	}
	err = r2.Update(func(tx *Tx) error { return tx.SetRevocations([]string{"ab"}) })
	if v, _ := r.Version(); v != 1 || !errors.Is(err, lost) {
		t.Fatalf("published version %d without the lease: %v", v, err)
	}
	must(t, r.Update(func(tx *Tx) error { return tx.SetRevocations([]string{"cd"}) }))
}

func FuzzImport(f *testing.F) {
	dir := f.TempDir()
	r, err := Init(Options{Dir: dir + "/tuf", Keys: dir + "/keys"}, InitOptions{})
	if err != nil {
		f.Fatal(err)
	}
	root, err := r.Root()
	if err != nil {
		f.Fatal(err)
	}
	tx, err := r.begin()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("targets", []byte(`{"signed":{"_type":"targets","targets":{"a":null}},"signatures":[]}`))
	f.Add("root", root)
	f.Add("root", bytes.Replace(root, []byte(`"version": 1`), []byte(`"version": 2`), 1))
	f.Add("publisher-a.bin-00", []byte(`{"signed":{"_type":"targets","version":1,"delegations":{"roles":null}}}`))
	f.Fuzz(func(t *testing.T, role string, raw []byte) {
		if tx.importRole(DraftRole{Role: role, Metadata: raw}) == nil {
			t.Fatalf("an unsigned role was imported: %s", raw)
		}
		if next, err := parse(metadata.Root(), raw); err == nil && next.Signed.Version > 1 && verifyRoot(tx.root, next) == nil {
			t.Fatalf("an unsigned root was imported: %s", raw)
		}
		d, err := ParseDraft(raw)
		if err == nil && len(d.Roles) == 0 {
			t.Fatal("a draft without roles")
		}
	})
}
