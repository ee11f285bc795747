package publish

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// smallDisk makes every disk one of 1 GB with so many bytes left.
func smallDisk(t *testing.T, left int64) {
	t.Helper()
	real := free
	free = func(string) (int64, int64, error) { return left, 1_000_000_000, nil }
	t.Cleanup(func() { free = real })
}

// What is published never fills the disk: a reserve stays for the database and the broker.
func TestTheDiskIsNotFilled(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 1<<20)
	file := filepath.Join(t.TempDir(), "film.mp4")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	serve := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	for left, want := range map[int64]error{50_000_000: ErrNoRoom, 900_000_000: nil} {
		smallDisk(t, left)
		origin := t.TempDir()
		if _, err := Publish(t.Context(), Options{Source: file, OriginDir: origin, OriginURLs: []string{"https://o/"}}); !errors.Is(err, want) {
			t.Errorf("copied with %d bytes left: %v", left, err)
		}
		if _, err := fetch(t, serve, Download{}); !errors.Is(err, want) {
			t.Errorf("downloaded with %d bytes left: %v", left, err)
		}
		if entries, err := os.ReadDir(origin); err != nil || (len(entries) == 0) != (want != nil) {
			t.Errorf("at the origin: %v, %v", entries, err)
		}
	}
}

// It is looked at again and again.
func TestRoomIsLookedForOnTheWay(t *testing.T) {
	left := int64(60_000_000)
	smallDisk(t, 0)
	free = func(string) (int64, int64, error) { return left, 1_000_000_000, nil }
	var out bytes.Buffer
	w := &Roomy{Writer: &out, Dir: "/"}
	block := make([]byte, 1<<20)
	for range 100 {
		if _, err := w.Write(block); err != nil {
			if !errors.Is(err, ErrNoRoom) || left < 50_000_000-roomEvery {
				t.Errorf("%v with %d bytes left", err, left)
			}
			return
		}
		left -= int64(len(block))
	}
	t.Error("the disk was filled")
}
