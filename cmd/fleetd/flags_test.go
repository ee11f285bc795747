package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"boxd/internal/durable"
	"boxd/internal/fleet/repo"
)

// What a flag says wrongly is refused by its name, before anything is sent: no box may begin because of a slip.
func TestFlagsAreCheckedBeforeAnythingIsSent(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was sent", r.Method, r.URL)
	}))
	t.Cleanup(api.Close)
	dir := t.TempDir()
	if _, err := repo.GenerateKey(durable.OS(), dir, "private"); err != nil {
		t.Fatal(err)
	}
	create := []string{"campaign", "create", "--name", "n", "--asset", strings.Repeat("a", 40)}
	for _, c := range []struct {
		says string
		args []string
	}{
		{"--stage", append(create, "--cohort", "box-1")},
		{"--stage", append(create, "--success", "0.9")},
		{"--stage", append(create, "--max-errors", "0")},
		{"--stage", append(create, "--stage", "0.01%")},
		{"--success", append(create, "--stage", "1%", "--success", "0")},
		{"--deadline", append(create, "--deadline", "2020-01-01T00:00:00Z")},
		{"--spread", append(create, "--spread", "foo")},
		{"--origin-delay", append(create, "--origin-delay", "foo")},
		{"--ttl", []string{"enroll", "token", "--ttl", "soon"}},
		{"--replace", []string{"enroll", "token", "--replace"}},
		{"--set", []string{"config", "box-1", "--set", "{bad"}},
		{"--args", []string{"command", "box-1", "evict", "--args", "{bad"}},
		{"private key", []string{"publisher", "add", "bob", "--public-key", filepath.Join(dir, "private.pem")}},
		{"serial", []string{"keys", "revoke", "not-hex"}},
		{"want fleetd statement PUBLISHER; see", []string{"statement"}},
		{"want fleetd campaign abort|create|", []string{"campaign"}},
		{`fleetd campaign list: unknown argument "x"`, []string{"campaign", "list", "x"}},
	} {
		var bad usageError
		_, err := fleetd("", append(c.args, "--api", api.URL)...)
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("fleetd %s: %v", strings.Join(c.args, " "), err)
		}
	}
	if _, err := fleetd("", "keys", "list", "--dir", filepath.Join(dir, "nosuch")); err == nil {
		t.Error("keys of a directory that is not there")
	}
}

// A share that is not set is the manager's to say; a share of errors that is nought is sent as nought.
func TestSharesAreSentAsTheyAreSet(t *testing.T) {
	var got struct{ Staged map[string]any }
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Staged = nil
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, `{"id":"n"}`)
	}))
	t.Cleanup(api.Close)
	create := []string{"campaign", "create", "--name", "n", "--asset", strings.Repeat("a", 40), "--stage", "1%", "--api", api.URL}
	for _, c := range []struct {
		args            []string
		success, errors any
	}{{nil, nil, nil}, {[]string{"--max-errors", "0"}, nil, 0.0}, {[]string{"--success", "0.5", "--max-errors", "0.25"}, 0.5, 0.25}} {
		if _, err := fleetd("", append(create, c.args...)...); err != nil {
			t.Fatal(err)
		}
		if got.Staged["success"] != c.success || got.Staged["max_errors"] != c.errors {
			t.Errorf("%v: %v", c.args, got.Staged)
		}
	}
}

// Days are days.
func TestDurationsMayBeDays(t *testing.T) {
	var got struct{ Life string }
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(data, &got) != nil {
			t.Error(err)
		}
		_, _ = w.Write([]byte(`{"token":"x"}`))
	}))
	t.Cleanup(api.Close)
	mustFleetd(t, "", "enroll", "token", "--ttl", "30d", "--api", api.URL)
	if got.Life != "720h0m0s" {
		t.Errorf("30d is %q", got.Life)
	}
}

// A fleet that is there is not made again under another name.
func TestInitRefusesAFleetThatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fleet")
	if _, err := fleetd("", "init", "--dir", dir, "--host", "bad host name/"); err == nil {
		t.Error("a host that no box could reach")
	}
	mustFleetd(t, "", "init", "--dir", dir, "--fleet", "one", "--host", "127.0.0.1")
	if _, err := fleetd("", "init", "--dir", dir, "--fleet", "two"); err == nil {
		t.Error("made a second fleet")
	}
	if out := mustFleetd(t, "", "init", "--dir", dir); !strings.Contains(out, `"one"`) {
		t.Errorf("it says %s", out)
	}
}

// Replacing, drafting, signing and importing by command, with the targets key away.
func TestReplaceKeysByCommand(t *testing.T) {
	dir, away := filepath.Join(t.TempDir(), "fleet"), t.TempDir()
	mustFleetd(t, "", "init", "--dir", dir, "--host", "127.0.0.1")
	targets := filepath.Join(away, "targets.pem")
	if err := os.Rename(filepath.Join(dir, "keys", "targets.pem"), targets); err != nil {
		t.Fatal(err)
	}
	key := func() string {
		data, err := os.ReadFile(filepath.Join(dir, "keys", "operations.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	was, draft := key(), filepath.Join(away, "draft.json")
	if _, err := fleetd("", "keys", "replace", "operations", "--dir", dir); err == nil || !strings.Contains(err.Error(), "--draft") {
		t.Errorf("without the targets key: %v", err)
	}
	mustFleetd(t, "", "keys", "replace", "operations", "campaigns", "--dir", dir, "--draft", draft)
	mustFleetd(t, "", "keys", "sign", draft, targets)
	if key() != was {
		t.Error("in use before the import")
	}
	mustFleetd(t, "", "keys", "import", draft, "--dir", dir)
	if key() == was {
		t.Error("the old key is still in use")
	}
	mustFleetd(t, "", "keys", "replace", "snapshot", "timestamp", "--dir", dir) // the root key is here
	if out := mustFleetd(t, "", "keys", "raise", "--dir", dir, "--draft", draft); !strings.Contains(out, "targets") {
		t.Errorf("raise: %s", out)
	}
	mustFleetd(t, "", "keys", "sign", draft, targets)
	mustFleetd(t, "", "keys", "import", draft, "--dir", dir)
	var list []intermediateDoc
	out := mustFleetd(t, "", "keys", "intermediate", "list", "--dir", dir, "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 || list[0].Serial == "" {
		t.Errorf("%v: %s", err, out)
	}
}
