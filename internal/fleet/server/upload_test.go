package server

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestOldUploadsAreForgotten(t *testing.T) {
	for _, c := range []struct {
		name  string
		count int
		sum   int64
		left  []string
	}{
		{"within both bounds", 4, 100, []string{"a", "b", "c", "d"}},
		{"too many", 3, 100, []string{"b", "c", "d"}},
		{"too large", 4, 70, []string{"c", "d"}},
		{"exactly", 4, 50, []string{"c", "d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for i, name := range []string{"d", "c", "b", "a"} { // the last is the oldest
				file := filepath.Join(dir, name)
				if err := os.WriteFile(file, make([]byte, 25), 0o600); err != nil {
					t.Fatal(err)
				}
				at := time.Unix(1_700_000_000-int64(i), 0)
				if err := os.Chtimes(file, at, at); err != nil {
					t.Fatal(err)
				}
			}
			if err := forgetOldest(dir, c.count, c.sum); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var left []string
			for _, e := range entries {
				left = append(left, e.Name())
			}
			if !slices.Equal(left, c.left) {
				t.Errorf("left %v, want %v", left, c.left)
			}
		})
	}
	if err := forgetOldest(filepath.Join(t.TempDir(), "none"), 1, 1); err == nil {
		t.Error("a directory that is not there")
	}
}
