package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"boxd/internal/fleet/repo"
)

// The ceremony as an operator does it: from the first root key on the server to two of three off-line ones.
func TestRootCeremonyByCommand(t *testing.T) {
	dir, away := t.TempDir(), t.TempDir()
	if _, err := repo.Init(repo.Options{Dir: filepath.Join(dir, "tuf"), Keys: filepath.Join(dir, "keys")}, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	run := func(a ...string) (string, error) {
		cmd := root()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(a)
		err := cmd.Execute()
		return out.String(), err
	}
	ok := func(a ...string) string {
		t.Helper()
		out, err := run(a...)
		if err != nil {
			t.Fatalf("fleetd %s: %v\n%s", strings.Join(a, " "), err, out)
		}
		return out
	}
	draft := filepath.Join(away, "draft.json")
	create := []string{"keys", "root", "--dir", dir, "-o", draft, "--threshold", "2"}
	for _, name := range []string{"alice", "bob", "carol"} {
		ok("keys", "new", name, "--dir", away)
		create = append(create, "--root", filepath.Join(away, name+".pub.pem"))
	}
	if out := ok(create...); !strings.Contains(out, "root needs 2 signatures") {
		t.Errorf("the draft does not say what it is: %s", out)
	}
	ok("keys", "sign", draft, filepath.Join(away, "alice.pem"))
	ok("keys", "sign", draft, filepath.Join(dir, "keys", "root-1.pem"))
	if _, err := run("keys", "import", draft, "--dir", dir); err == nil {
		t.Fatal("imported with one signature of the new keys")
	}
	ok("keys", "sign", draft, filepath.Join(away, "carol.pem"))
	ok("keys", "import", draft, "--dir", dir)
	if err := os.Remove(filepath.Join(dir, "keys", "root-1.pem")); err != nil {
		t.Fatal(err)
	}
	var status []repo.RoleStatus
	if err := json.Unmarshal([]byte(ok("keys", "status", "--dir", dir, "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if status[0].Role != "root" || status[0].Version != 2 || status[0].KeyHere {
		t.Errorf("%+v", status[0])
	}
	if _, err := run("keys", "status"); err == nil {
		t.Error("without --dir")
	}
}
