package server_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/server"
)

func onAnyPort(dir string) server.Options {
	return server.Options{
		Dir: dir, Listen: "127.0.0.1:0", MQTT: "127.0.0.1:0", API: "127.0.0.1:0", Hosts: []string{"127.0.0.1"}, Log: logTo(),
	}
}

// Two on one directory would share a broker's store and a database that have one owner each.
func TestASecondFleetdOnTheSameDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	first, err := server.Open(t.Context(), onAnyPort(dir))
	if err != nil {
		t.Fatal(err)
	}
	second, err := server.Open(t.Context(), onAnyPort(dir))
	if err == nil || !strings.Contains(err.Error(), "another fleetd") {
		t.Errorf("the second: %v", err)
	}
	if second != nil {
		_ = second.Close()
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := server.Open(t.Context(), onAnyPort(dir))
	if err != nil {
		t.Fatal("after the first ended:", err)
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
}

// A key that boxes do not know signs what nobody obeys: better not to start.
func TestTheOperationsKeyIsNeverMadeAnew(t *testing.T) {
	dir := t.TempDir()
	if err := server.Init(onAnyPort(dir)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "keys", "operations.pem")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s, err := server.Open(t.Context(), onAnyPort(dir))
	if s != nil {
		_ = s.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "operations") {
		t.Errorf("without its operations key it opens: %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a new key: %v", err)
	}
}

func TestAnOperationsKeyThatTheCatalogLacksIsAnAlert(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		if err := server.Init(onAnyPort(d)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(other, "keys", "operations.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys", "operations.pem"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	m := startManager(t, dir)
	eventually(t, "an alert says that boxes obey another key", func() bool {
		var list []registry.Alert
		m.must(t, "GET", "/api/v1/alerts?code=operations-key", nil, &list)
		return len(list) == 1 && list[0].Severity == "critical" && list[0].Box == ""
	})
}
