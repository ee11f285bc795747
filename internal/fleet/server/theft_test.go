package server_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/ceremony"
	"boxd/internal/fleet/repo"
	"boxd/internal/identity/pki"
)

// runsItself does what the daemon does for its identity: it renews, and hears from the catalog what is revoked.
func (b *box) runsItself(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.id.Run(ctx) }()
	told := make(chan struct{})
	go func() {
		defer close(told)
		for {
			changed := b.cat.Changed()
			b.id.SetRevoked(b.cat.Snapshot().Revoked)
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-told
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// The fleet manager was stolen, with all that is on its disk; the offline keys were sealed. This is the recovery of
// docs/security.md, step by step, and a box that follows it by itself.
func TestRecoveryFromAStolenManager(t *testing.T) {
	dir := t.TempDir()
	m := startManager(t, dir)
	b := startBox(t, m, firmwareToken(t, m))
	b.runsItself(t)
	id, urls := b.id.BoxID(), configOf(t, filepath.Join(dir, "firmware"))
	eventually(t, "the box is there", func() bool { return m.box(t, id).Online })
	m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 1000}, nil)
	eventually(t, "the wish is applied", func() bool { return m.box(t, id).Desired == 1 })
	m.stop()

	bundle, desk := filepath.Join(t.TempDir(), "bundle"), t.TempDir()
	sealed, err := ceremony.Seal(ceremony.Options{
		Dir: dir, Out: bundle, Shares: 3, Needed: 2, HandOut: func(ceremony.Bundle) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	thief := t.TempDir()
	if err := os.CopyFS(thief, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}

	// Custodians open the bundle on a desk; no private key of it comes back to the manager.
	if _, err := ceremony.Unseal(bundle, desk, sealed.Shares[1:]); err != nil {
		t.Fatal(err)
	}
	old := newIntermediates(t, dir, desk)
	r := openCatalog(t, dir)
	replaceKeys(t, r, filepath.Join(desk, "keys", "root-1.pem"), "snapshot", "timestamp")
	replaceKeys(t, r, filepath.Join(desk, "keys", "targets.pem"), "campaigns", "revocations", "operations")
	if err := os.Remove(filepath.Join(dir, "api-token")); err != nil {
		t.Fatal(err)
	}

	before := b.id.Serial()
	m = again(t, dir, urls)
	for role, serial := range old {
		in := map[string]string{"serial": serial, "reason": "stolen"}
		m.must(t, http.MethodPost, "/api/v1/revocations", in, nil)
		now, err := ca.Intermediate(filepath.Join(dir, "ca"), role)
		if err != nil {
			t.Fatal(err)
		}
		in["serial"] = pki.Serial(now)
		if status := m.do(t, m.token, http.MethodPost, "/api/v1/revocations", in, nil); status != http.StatusConflict {
			t.Errorf("the intermediate in use was revoked: status %d", status)
		}
	}
	eventually(t, "the box reads the revocation and renews under the new intermediate", func() bool {
		_ = b.cat.Refresh(t.Context()) // its poll: it cannot know yet whose bell it would hear
		return b.id.Serial() != before && b.id.Revoked(old[pki.Boxes]) && m.box(t, id).Online && b.mg.Status().Connected
	})
	eventually(t, "its wish holds under the new operations key", func() bool { return m.box(t, id).Desired == 2 })
	m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 2000}, nil)
	eventually(t, "it obeys the new operations key", func() bool {
		c := b.lastConfig()
		return c.WANDown != nil && *c.WANDown == 2000
	})
	version := b.cat.Snapshot().Version
	publishFilm(t, m, "film")
	eventually(t, "it follows the catalog", func() bool { return b.cat.Snapshot().Version > version })

	// What the thief signs is no catalog any more, and he cannot replace what he has lost.
	stolen := openCatalog(t, thief)
	if err := stolen.Update(func(tx *repo.Tx) error { return tx.SetRevocations([]string{"1"}) }); err != nil {
		t.Fatal(err) // in his own copy
	}
	if b.id.Revoked("1") {
		t.Error("a box believed the thief")
	}
	if d, err := stolen.ReplaceKeys([]string{"operations"}, nil); err != nil || d == nil {
		t.Errorf("the thief signed for the targets role: %v", err)
	}
}

func openCatalog(t *testing.T, dir string) *repo.Repo {
	t.Helper()
	r, err := repo.Open(repo.Options{Dir: filepath.Join(dir, "tuf"), Keys: filepath.Join(dir, "keys")})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newIntermediates replaces both under the opened root and returns the serial numbers of the old ones.
func newIntermediates(t *testing.T, dir, desk string) map[pki.Role]string {
	t.Helper()
	here, old := filepath.Join(dir, "ca"), map[pki.Role]string{}
	root, err := os.ReadFile(filepath.Join(here, ca.RootCert))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(desk, "ca", ca.RootKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []pki.Role{pki.Boxes, pki.Servers} {
		was, err := ca.Intermediate(here, role)
		if err != nil {
			t.Fatal(err)
		}
		old[role] = pki.Serial(was)
		request, err := ca.RequestIntermediate(here, role)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.SignIntermediate(root, key, nil, request, role)
		if err != nil {
			t.Fatal(err)
		}
		if err := ca.InstallIntermediate(here, role, cert); err != nil {
			t.Fatal(err)
		}
	}
	return old
}

// replaceKeys drafts, signs on the desk and imports.
func replaceKeys(t *testing.T, r *repo.Repo, keyFile string, roles ...string) {
	t.Helper()
	d, err := r.ReplaceKeys(roles, nil)
	if err != nil || d == nil {
		t.Fatalf("replace %v: draft %v, %v", roles, d, err)
	}
	data, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := repo.ParseKey(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.SignDraft(d, key); err != nil {
		t.Fatal(err)
	}
	if err := r.Import(d); err != nil {
		t.Fatal(err)
	}
}
