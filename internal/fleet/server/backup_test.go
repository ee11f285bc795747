package server

import (
	"bytes"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"boxd/internal/fleet/repo"
)

// Backups that are made at once, while the catalog changes, are each a whole fleet.
func TestBackupsWhileTheCatalogChanges(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), Options{
		Dir: dir, Listen: "127.0.0.1:0", MQTT: "127.0.0.1:0", API: "127.0.0.1:0", Hosts: []string{"127.0.0.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the directory goes
	var backups [3]bytes.Buffer
	var wg sync.WaitGroup
	for i := range backups {
		wg.Go(func() {
			if err := s.Backup(t.Context(), &backups[i]); err != nil {
				t.Errorf("backup %d: %v", i, err)
			}
		})
	}
	for i := range 10 {
		err := s.repo.Update(func(tx *repo.Tx) error { return tx.SetRevocations([]string{strconv.Itoa(1000 + i)}) })
		if err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i := range backups {
		to := filepath.Join(t.TempDir(), "fleet")
		if err := Restore(to, &backups[i]); err != nil {
			t.Fatalf("restore %d: %v", i, err)
		}
		back, err := Open(t.Context(), Options{
			Dir: to, Listen: "127.0.0.1:0", MQTT: "127.0.0.1:0", API: "127.0.0.1:0", Hosts: []string{"127.0.0.1"},
		})
		if err != nil {
			t.Fatalf("open %d: %v", i, err)
		}
		if err := back.repo.View(func(tx *repo.Tx) error { _, err := tx.Publishers(); return err }); err != nil {
			t.Errorf("catalog %d: %v", i, err)
		}
		if back.ca.Fleet() != s.ca.Fleet() {
			t.Errorf("fleet %q", back.ca.Fleet())
		}
		if err := back.Close(); err != nil {
			t.Error(err)
		}
	}
}
