package repo

import (
	"crypto/ed25519"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/durable"
)

// reader is a box of the repository's group that remembers what it has seen.
func reader(t *testing.T, r *Repo) *catalog.Catalog {
	t.Helper()
	srv := httptest.NewServer(r.Handler())
	t.Cleanup(srv.Close)
	root, err := durable.ReadFile(r.fs, r.metaPath("1.root.json"), 1<<20)
	must(t, err)
	c, err := catalog.Open(catalog.Options{
		Dir: "/var/box", FS: durable.NewMem(0), Root: root, URL: srv.URL,
		Groups: func() []string { return []string{"g"} }, Now: func() (time.Time, bool) { return t0, true },
	})
	must(t, err)
	return c
}

// A repository that was restored from a backup is older than what boxes have seen. Raised, and with what needs a key that is
// elsewhere signed there, it is believed again, by boxes and by drafts.
func TestBoxesFollowARestoredRepository(t *testing.T) {
	opt := testOptions(t)
	r := newTestRepo(t, opt)
	addPublisher(t, r, "acme", 0)
	_, err := putAsset(r, "acme", makeTorrent(t, "a", []byte("first")))
	must(t, err)
	backup := t.TempDir()
	must(t, os.CopyFS(backup, os.DirFS(opt.Dir)))

	_, err = putAsset(r, "acme", makeTorrent(t, "b", []byte("second")))
	must(t, err)
	must(t, r.Update(func(tx *Tx) error { return tx.SetRevocations([]string{"0a"}) }))
	addPublisher(t, r, "late", 0)
	box := reader(t, r)
	must(t, box.Refresh(t.Context()))
	seen := box.Snapshot().Version

	must(t, os.RemoveAll(opt.Dir))
	must(t, os.CopyFS(opt.Dir, os.DirFS(backup)))
	acme := filepath.Join(opt.Keys, "publisher-acme.pem")
	key, err := os.ReadFile(acme)
	must(t, err)
	must(t, os.Remove(acme)) // it is with the publisher
	stale, err := r.Draft(nil, func(tx *Tx) error { _, err := tx.PutAsset("acme", makeTorrent(t, "c", []byte("third"))); return err })
	must(t, err)
	if err := box.Refresh(t.Context()); err == nil {
		t.Fatal("the box believed an older catalog")
	}
	floor := t0.Unix()
	left, err := r.Raise(floor)
	must(t, err)
	if !slices.Equal(left, []string{"publisher-acme"}) {
		t.Errorf("left: %v", left)
	}
	if v, err := r.Version(); err != nil || v <= floor {
		t.Errorf("version %d, %v", v, err)
	}
	before, err := r.Version()
	must(t, err)
	_, err = r.Raise(floor)
	must(t, err)
	if v, err := r.Version(); err != nil || v != before {
		t.Errorf("raised twice: %d and %d, %v", before, v, err)
	}
	d, err := r.DraftRaised()
	must(t, err)
	priv, err := ParseKey(key)
	must(t, err)
	must(t, SignDraft(stale, priv))
	if err := r.Import(stale); !errors.Is(err, ErrStale) {
		t.Errorf("a draft from before: %v", err)
	}
	must(t, SignDraft(d, priv))
	must(t, r.Import(d))
	if left, err := r.Raise(floor); err != nil || len(left) != 0 {
		t.Errorf("left after the import: %v, %v", left, err)
	}
	// What was added after the backup is added again, above the version that boxes know of it.
	late, err := os.ReadFile(filepath.Join(opt.Keys, "publisher-late.pem"))
	must(t, err)
	latePriv, err := ParseKey(late)
	must(t, err)
	must(t, r.Update(func(tx *Tx) error { return tx.AddPublisher("late", latePriv.Public().(ed25519.PublicKey), 0) }))
	must(t, box.Refresh(t.Context()))
	if v := box.Snapshot().Version; v <= seen {
		t.Errorf("the box has version %d and had %d", v, seen)
	}
}

// A publisher who has signed nothing yet has nothing that could expire.
func TestAPublisherWhoHasSignedNothingIsNotDue(t *testing.T) {
	r := newTestRepo(t, testOptions(t))
	pub, _ := newKey(t)
	must(t, r.Update(func(tx *Tx) error { return tx.AddPublisher("far", pub, 0) }))
	status, err := r.Status()
	must(t, err)
	i := slices.IndexFunc(status, func(s RoleStatus) bool { return s.Role == "publisher-far" })
	if s := status[i]; s.Due || s.Version != 0 || s.KeyHere {
		t.Errorf("%+v", s)
	}
}
