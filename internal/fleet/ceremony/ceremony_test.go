package ceremony_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"boxd/internal/durable"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/ceremony"
	"boxd/internal/fleet/keyfile"
	"boxd/internal/fleet/repo"
	"boxd/internal/identity/pki"
)

// found makes a fleet's directory as fleetd lays it out, with three root keys.
func found(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := ca.Init(filepath.Join(dir, "ca"), ca.InitOptions{Fleet: "test"}); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(dir, "keys")
	if _, err := repo.Init(repo.Options{Dir: filepath.Join(dir, "tuf"), Keys: keys}, repo.InitOptions{RootKeys: 3}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"operations", "publisher-main"} {
		if _, err := repo.GenerateKey(durable.OS(), keys, name); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func files(t *testing.T, dir string, place ceremony.Place) []string {
	t.Helper()
	keys, err := ceremony.Survey(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, k := range keys {
		if k.Place == place {
			list = append(list, k.File)
		}
	}
	return list
}

// Every private key that a new fleet has is known to the survey: a new kind of key must get a place.
func TestSurveyKnowsEveryKey(t *testing.T) {
	dir := found(t)
	known := slices.Concat(files(t, dir, ceremony.Offline), files(t, dir, ceremony.Author), files(t, dir, ceremony.Server))
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if _, isKey := keyfile.Encrypted(data); isKey && !slices.Contains(known, filepath.ToSlash(rel)) {
			t.Errorf("%s is a private key that the survey does not know", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(known) < 12 {
		t.Errorf("only %d keys: %v", len(known), known)
	}
}

func TestSealAndOpen(t *testing.T) {
	dir, safe := found(t), filepath.Join(t.TempDir(), "stick", "bundle")
	original, err := os.ReadFile(filepath.Join(dir, "keys/targets.pem"))
	if err != nil {
		t.Fatal(err)
	}
	offline := files(t, dir, ceremony.Offline)
	b, err := ceremony.Seal(ceremony.Options{Dir: dir, Out: safe, Shares: 5, Needed: 3, HandOut: taken})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Keys) != len(offline) || len(b.Shares) != 5 || len(offline) != 5 {
		t.Fatalf("sealed %v of %v", b.Keys, offline)
	}
	if left := files(t, dir, ceremony.Offline); len(left) != 0 {
		t.Fatalf("still on the server: %v", left)
	}
	for _, f := range offline {
		data, err := os.ReadFile(filepath.Join(safe, f))
		if err != nil {
			t.Fatal(err)
		}
		if encrypted, _ := keyfile.Encrypted(data); !encrypted {
			t.Errorf("%s is readable in the bundle", f)
		}
	}
	// The fleet goes on without them.
	store, err := ca.OpenStore(filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := ca.Open(t.Context(), ca.Options{Dir: filepath.Join(dir, "ca"), Store: store}); err != nil {
		t.Fatal(err)
	}
	if _, err := ceremony.Unseal(safe, t.TempDir(), b.Shares[:2]); !errors.Is(err, keyfile.ErrShares) {
		t.Fatalf("two of three custodians: %v", err)
	}
	desk := t.TempDir()
	if _, err := ceremony.Unseal(safe, desk, []string{b.Shares[4], b.Shares[0], b.Shares[2]}); err != nil {
		t.Fatal(err)
	}
	back, err := os.ReadFile(filepath.Join(desk, "keys/targets.pem"))
	if err != nil || string(back) != string(original) {
		t.Fatalf("the targets key came back changed: %v", err)
	}
	// A new intermediate, with the root key on the desk: request, sign, install; no private key travels.
	request, err := ca.RequestIntermediate(filepath.Join(dir, "ca"), pki.Servers)
	if err != nil {
		t.Fatal(err)
	}
	rootPEM, err := os.ReadFile(filepath.Join(dir, "ca", ca.RootCert))
	if err != nil {
		t.Fatal(err)
	}
	rootKey, err := os.ReadFile(filepath.Join(desk, "ca", ca.RootKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.SignIntermediate(rootPEM, rootKey, nil, request, pki.Boxes); err == nil {
		t.Fatal("a request for servers was signed for boxes")
	}
	cert, err := ca.SignIntermediate(rootPEM, rootKey, nil, request, pki.Servers)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.InstallIntermediate(filepath.Join(dir, "ca"), pki.Boxes, cert); err == nil {
		t.Fatal("the certificate for servers was installed for boxes")
	}
	if err := ca.InstallIntermediate(filepath.Join(dir, "ca"), pki.Servers, cert); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Open(t.Context(), ca.Options{Dir: filepath.Join(dir, "ca"), Store: store}); err != nil {
		t.Fatal(err)
	}
}

func taken(ceremony.Bundle) error { return nil }

// The keys are there until the custodians have their shares: whatever keeps those from coming out leaves everything as it was.
func TestKeysStayUntilTheSharesAreOut(t *testing.T) {
	dir, out := found(t), filepath.Join(t.TempDir(), "bundle")
	o := ceremony.Options{Dir: dir, Out: out, Shares: 2, Needed: 2}
	if _, err := ceremony.Seal(o); err == nil {
		t.Error("sealed with nobody to take the shares")
	}
	full := errors.New("no paper")
	o.HandOut = func(b ceremony.Bundle) error {
		if len(b.Shares) != 2 || len(files(t, dir, ceremony.Offline)) != 5 {
			t.Errorf("%d shares, and the keys are gone before they are out", len(b.Shares))
		}
		return full
	}
	if _, err := ceremony.Seal(o); !errors.Is(err, full) {
		t.Errorf("the shares are lost and it says %v", err)
	}
	if n := len(files(t, dir, ceremony.Offline)); n != 5 {
		t.Fatalf("%d of 5 offline keys are left, and nobody has a share", n)
	}
	o.HandOut = taken
	if _, err := ceremony.Seal(o); err != nil {
		t.Errorf("the second attempt: %v", err)
	}
	if n := len(files(t, dir, ceremony.Offline)); n != 0 {
		t.Errorf("%d keys are left after the seal", n)
	}
}

func TestSealRefuses(t *testing.T) {
	dir := found(t)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]ceremony.Options{
		"a bundle that is there":   {Dir: dir, Out: full},
		"a key the server needs":   {Dir: dir, Out: t.TempDir(), Files: []string{"keys/timestamp.pem"}},
		"a key that is not there":  {Dir: dir, Out: t.TempDir(), Files: []string{"keys/nobody.pem"}},
		"more needed than shares":  {Dir: dir, Out: t.TempDir(), Shares: 2, Needed: 3},
		"a directory without keys": {Dir: t.TempDir(), Out: t.TempDir()},
		"nowhere to write":         {Dir: dir, Out: "/proc/nothing"},
	} {
		o.HandOut = taken
		if _, err := ceremony.Seal(o); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	if len(files(t, dir, ceremony.Offline)) != 5 {
		t.Error("a seal that failed removed keys")
	}
}

func TestChangedBundleIsNoticed(t *testing.T) {
	dir, safe := found(t), t.TempDir()
	b, err := ceremony.Seal(ceremony.Options{Dir: dir, Out: safe, Shares: 1, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(files(t, dir, ceremony.Offline)) != 5 {
		t.Error("keys that were to be kept are gone")
	}
	swap, err := os.ReadFile(filepath.Join(safe, "keys/root-2.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(safe, "keys/root-1.pem"), swap, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ceremony.Unseal(safe, t.TempDir(), b.Shares); err == nil {
		t.Fatal("a key was exchanged for another and nobody noticed")
	}
}
