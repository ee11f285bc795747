package repo

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"boxd/internal/durable"
)

// keyFileOf is the public key of the file that a role's key is in.
func keyFileOf(t *testing.T, r *Repo, name string) ed25519.PublicKey {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.opt.Keys, name+".pem"))
	must(t, err)
	k, err := ParseKey(b)
	must(t, err)
	return k.Public().(ed25519.PublicKey)
}

// Every key that is on a server can be replaced: at once while the key above it is there, else by a draft; boxes follow.
func TestReplaceKeys(t *testing.T) {
	r := newTestRepo(t, testOptions(t))
	addPublisher(t, r, "acme", 0)
	_, err := GenerateKey(durable.OS(), r.opt.Keys, RoleOperations)
	must(t, err)
	_, err = putAsset(r, "acme", makeTorrent(t, "a", []byte("first")))
	must(t, err)
	box := reader(t, r)
	must(t, box.Refresh(t.Context()))
	old := map[string]ed25519.PublicKey{}
	all := []string{"snapshot", "timestamp", "targets", RoleCampaigns, RoleRevocations, RoleOperations, PublisherRole("acme")}
	for _, role := range all {
		old[role] = keyFileOf(t, r, role)
	}
	for _, roles := range [][]string{all[:3], all[3:]} {
		d, err := r.ReplaceKeys(roles, nil)
		must(t, err)
		if d != nil {
			t.Fatalf("%v: all keys are here, and it drafts", roles)
		}
		must(t, box.Refresh(t.Context()))
	}
	for _, role := range all {
		if keyFileOf(t, r, role).Equal(old[role]) {
			t.Errorf("%s has its old key", role)
		}
	}
	ops := box.Snapshot().OperationsKeys
	if len(ops) != 1 || !ops[0].Equal(keyFileOf(t, r, RoleOperations)) {
		t.Error("the box does not know the new operations key")
	}
	_, err = putAsset(r, "acme", makeTorrent(t, "b", []byte("second")))
	must(t, err)
	must(t, box.Refresh(t.Context()))
}

// With the keys away the change is drafted, twice with the same new key; until the import nothing changes. A publisher's new
// key may be elsewhere: then the draft brings the role for both to sign.
func TestReplaceKeysByDraft(t *testing.T) {
	r := newTestRepo(t, testOptions(t))
	addPublisher(t, r, "acme", 0)
	_, err := putAsset(r, "acme", makeTorrent(t, "a", []byte("first")))
	must(t, err)
	box := reader(t, r)
	must(t, box.Refresh(t.Context()))
	name := filepath.Join(r.opt.Keys, "targets.pem")
	b, err := os.ReadFile(name)
	must(t, err)
	must(t, os.Remove(name))
	targets, err := ParseKey(b)
	must(t, err)

	was := keyFileOf(t, r, RoleCampaigns)
	if d, err := r.ReplaceKeys([]string{RoleCampaigns}, nil); err != nil || d == nil {
		t.Fatalf("%v, %v", d, err)
	}
	d, err := r.ReplaceKeys([]string{RoleCampaigns}, nil)
	must(t, err)
	next := keyFileOf(t, r, RoleCampaigns+nextKey)
	if !keyFileOf(t, r, RoleCampaigns).Equal(was) {
		t.Fatal("the new key is in use before the catalog names it")
	}
	must(t, r.Update(func(tx *Tx) error { return tx.setWithdrawn(nil) })) // with the old one
	if err := r.Import(d); err == nil {
		t.Fatal("imported unsigned")
	}
	d, err = r.ReplaceKeys([]string{RoleCampaigns}, nil) // overtaken
	must(t, err)
	must(t, SignDraft(d, targets))
	must(t, r.Import(d))
	if !keyFileOf(t, r, RoleCampaigns).Equal(next) {
		t.Error("the imported key is not the one that waited")
	}
	must(t, box.Refresh(t.Context()))

	pub, priv := newKey(t)
	d, err = r.ReplaceKeys([]string{PublisherRole("acme")}, pub)
	must(t, err)
	must(t, SignDraft(d, targets))
	if err := r.Import(d); !errors.Is(err, ErrNoKey) {
		t.Fatalf("without the publisher's own signature: %v", err)
	}
	must(t, SignDraft(d, priv))
	must(t, r.Import(d))
	must(t, box.Refresh(t.Context()))
	must(t, r.View(func(tx *Tx) error {
		list, err := tx.Assets("acme")
		if len(list) != 1 {
			t.Errorf("the publisher has %d assets", len(list))
		}
		return err
	}))
}

func TestReplaceKeysRefuses(t *testing.T) {
	r := newTestRepo(t, testOptions(t))
	pub, _ := newKey(t)
	for name, c := range map[string]struct {
		roles []string
		key   ed25519.PublicKey
	}{
		"none": {}, "root": {roles: []string{"root"}}, "twice": {roles: []string{"snapshot", "snapshot"}},
		"both keys": {roles: []string{"snapshot", RoleCampaigns}}, "nobody": {roles: []string{PublisherRole("nobody")}},
		"one key for two": {roles: []string{RoleCampaigns, RoleRevocations}, key: pub},
	} {
		if _, err := r.ReplaceKeys(c.roles, c.key); err == nil {
			t.Errorf("%s: replaced", name)
		}
	}
	if left, err := filepath.Glob(filepath.Join(r.opt.Keys, "*"+nextKey+".pem")); err != nil || len(left) > 0 {
		t.Errorf("keys are left for nobody: %v, %v", left, err)
	}
}
