package server

import (
	"archive/tar"
	"bytes"
	"io/fs"
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

// A backup that is cut off, between two files or within one, is no fleet, and leaves no key behind.
func TestABackupThatIsCutOff(t *testing.T) {
	s, err := Open(t.Context(), Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", MQTT: "127.0.0.1:0", API: "127.0.0.1:0", Hosts: []string{"127.0.0.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the directory goes
	var backup bytes.Buffer
	if err := s.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	var cuts []int
	whole := bytes.NewReader(backup.Bytes())
	for tr := tar.NewReader(whole); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		at := backup.Len() - whole.Len() // the content begins here; its header has a block of 512 bytes
		cuts = append(cuts, at-512, at, at+int(h.Size)/2)
	}
	to := t.TempDir()
	for _, at := range cuts {
		if err := Restore(to, bytes.NewReader(backup.Bytes()[:at])); err == nil {
			t.Errorf("cut at %d of %d bytes, it was restored", at, backup.Len())
		}
		err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				t.Errorf("cut at %d of %d bytes, it left %s", at, backup.Len(), path)
			}
			return err
		})
		if err != nil || t.Failed() {
			t.Fatal(err)
		}
	}
	if err := Restore(to, &backup); err != nil {
		t.Error(err)
	}
	if id, err := FleetOf(to); err != nil || id != s.ca.Fleet() {
		t.Errorf("restored, it is fleet %q, %v", id, err)
	}
}
