package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"boxd/internal/fleet/ceremony"
)

func fleetd(in string, a ...string) (string, error) {
	cmd := root()
	var out, errs bytes.Buffer
	cmd.SetIn(strings.NewReader(in))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(a)
	err := cmd.Execute()
	return out.String(), err
}

func mustFleetd(t *testing.T, in string, a ...string) string {
	t.Helper()
	out, err := fleetd(in, a...)
	if err != nil {
		t.Fatalf("fleetd %s: %v\n%s", strings.Join(a, " "), err, out)
	}
	return out
}

func offline(t *testing.T, dir string) (files []string) {
	t.Helper()
	var keys []ceremony.Key
	if err := json.Unmarshal([]byte(mustFleetd(t, "", "keys", "list", "--dir", dir, "--json")), &keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if k.Place == ceremony.Offline {
			files = append(files, k.File)
		}
	}
	return files
}

// The whole ceremony by command: found, seal, open with some of the shares, and a new intermediate under the opened root.
func TestOfflineKeysByCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fleet")
	away := t.TempDir()
	bundle, safe := filepath.Join(away, "bundle"), filepath.Join(away, "safe")
	if out := mustFleetd(t, "", "init", "--dir", dir, "--host", "127.0.0.1"); !strings.Contains(out, "ca/root.key") ||
		!strings.Contains(out, "keys/timestamp.pem") || !strings.Contains(out, "keys seal") {
		t.Errorf("init does not list the keys:\n%s", out)
	}
	want := []string{"ca/root.key", "keys/root-1.pem", "keys/targets.pem"}
	if got := offline(t, dir); !slices.Equal(got, want) {
		t.Fatalf("offline keys %v, want %v", got, want)
	}
	var s sealed
	out := mustFleetd(t, "", "keys", "seal", "--dir", dir, "--out", bundle, "--shares", "3", "--needed", "2", "--yes", "--json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || len(s.Shares) != 3 || s.Needed != 2 || len(s.Keys) != len(want) {
		t.Fatalf("%v: %s", err, out)
	}
	if got := offline(t, dir); len(got) != 0 {
		t.Errorf("still on the server: %v", got)
	}
	open := []string{"keys", "open", "--bundle", bundle, "--out", safe}
	if _, err := fleetd(s.Shares[1]+"\n", open...); err == nil {
		t.Error("one share opened the bundle")
	}
	out = mustFleetd(t, s.Shares[2]+"\n"+s.Shares[0]+"\n\nnot a share\n", open...)
	if !strings.Contains(out, filepath.Join(safe, "ca", "root.key")) {
		t.Errorf("open wrote %s", out)
	}
	newIntermediate(t, dir, safe)
}

// fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// Shares that did not reach the paper must not cost the keys.
func TestSealRemovesNothingUntilAShareIsTypedBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fleet")
	mustFleetd(t, "", "init", "--dir", dir, "--host", "127.0.0.1")
	there := len(offline(t, dir))
	seal := []string{"keys", "seal", "--dir", dir, "--out", filepath.Join(t.TempDir(), "bundle")}
	for name, out := range map[string]io.Writer{"text": fullDisk{}, "--json": fullDisk{}, "not typed back": io.Discard} {
		cmd, a := root(), slices.Clone(seal)
		switch name {
		case "text":
			a = append(a, "--yes")
		case "--json":
			a = append(a, "--yes", "--json")
		}
		cmd.SetIn(strings.NewReader("not a share\n"))
		cmd.SetOut(out)
		cmd.SetErr(io.Discard)
		cmd.SetArgs(a)
		if err := cmd.Execute(); err == nil {
			t.Errorf("%s: sealed, and nobody has a share", name)
		}
		if n := len(offline(t, dir)); n != there {
			t.Fatalf("%s: %d of %d offline keys are left", name, n, there)
		}
	}
	in, custodian := io.Pipe()
	cmd := root()
	cmd.SetIn(in)
	cmd.SetOut(writerFunc(func(p []byte) (int, error) {
		var s sealed
		if json.Unmarshal(p, &s) == nil {
			go func() { _, _ = fmt.Fprintln(custodian, "mistyped\n"+s.Shares[0]) }()
		}
		return len(p), nil
	}))
	cmd.SetErr(io.Discard)
	cmd.SetArgs(append(seal, "--json"))
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if got := offline(t, dir); len(got) != 0 {
		t.Errorf("still on the server: %v", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func newIntermediate(t *testing.T, dir, safe string) {
	t.Helper()
	csr, crt := filepath.Join(safe, "boxes.csr"), filepath.Join(safe, "boxes.crt")
	inUse := filepath.Join(dir, "ca", "boxes.pem")
	before, err := os.ReadFile(inUse)
	if err != nil {
		t.Fatal(err)
	}
	step := []string{"keys", "intermediate"}
	mustFleetd(t, "", append(step, "request", "boxes", "--dir", dir, "-o", csr)...)
	sign := []string{"--root", filepath.Join(dir, "ca", "root.pem"), "--key", filepath.Join(safe, "ca", "root.key"), "-o", crt}
	if _, err := fleetd("", append(append(step, "sign", "servers", csr), sign...)...); err == nil {
		t.Error("a request for boxes was signed for servers")
	}
	mustFleetd(t, "", append(append(step, "sign", "boxes", csr), sign...)...)
	mustFleetd(t, "", append(step, "install", "boxes", crt, "--dir", dir)...)
	after, err := os.ReadFile(inUse)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(crt)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before, after) || !bytes.HasSuffix(after, cert) {
		t.Error("the new intermediate is not in use")
	}
	if _, err := fleetd("", append(step, "install", "boxes", crt, "--dir", dir)...); err == nil {
		t.Error("installed twice: no key waits any more")
	}
}

func TestKeyCommandsRefuseBadUsage(t *testing.T) {
	for _, a := range []string{
		"keys list", "keys seal --dir D", "keys seal --dir D --out O --shares 2 --needed 3", "keys open --bundle B",
		"keys intermediate request boxes", "keys intermediate request roots --dir D", "keys intermediate sign boxes F",
		"keys intermediate install boxes F", "keys intermediate install boxes",
	} {
		var bad usageError
		if _, err := fleetd("", strings.Fields(a)...); !errors.As(err, &bad) {
			t.Errorf("fleetd %s: %v", a, err)
		}
	}
}
