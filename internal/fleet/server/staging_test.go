package server

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Another fleetd on the same directory may be in the middle of an upload: only what nobody touched for a day goes.
func TestWhatAnotherFleetdStagesStays(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-48 * time.Hour)
	busy, left := filepath.Join(dir, dirStaging, "busy"), filepath.Join(dir, dirStaging, "left")
	copying := filepath.Join(dir, dirOrigin, ".staging-1-x")
	for _, d := range []string{busy, left, copying} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "part"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(d, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(left, "part"), old, old); err != nil {
		t.Fatal(err)
	}
	there := func(shared bool) (n int) {
		t.Helper()
		if err := cleanStaging(dir, shared); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{busy, left, copying} {
			if _, err := os.Stat(d); err == nil {
				n++
			}
		}
		return n
	}
	if n := there(true); n != 2 {
		t.Errorf("%d of 3 are left on a shared directory, want 2", n)
	}
	if n := there(false); n != 0 {
		t.Errorf("%d are left on a directory of one's own", n)
	}
}
