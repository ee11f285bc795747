package publish

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
)

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// nothingLeft fails if a failed Publish left something in the origin's directory.
func nothingLeft(t *testing.T, origin string) {
	t.Helper()
	entries, err := os.ReadDir(origin)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", e.Name())
	}
}

func TestPublishFile(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("boxd"), 200_000)
	src := write(t, filepath.Join(dir, "film.mp4"), content)
	var done, total int64
	res, err := Publish(context.Background(), Options{
		Source: src, OriginDir: filepath.Join(dir, "origin"), OriginURLs: []string{"https://o.example/origin/"},
		Title: "Film", Version: "2", Publisher: "acme",
		Progress: func(d, all int64) { done, total = d, all },
	})
	if err != nil {
		t.Fatal(err)
	}
	if done != int64(len(content)) || total != done {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	got, err := os.ReadFile(filepath.Join(dir, "origin", res.Info.ID.String(), "film.mp4"))
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("origin's copy: %d bytes, %v", len(got), err)
	}
	if want := "https://o.example/origin/" + res.Info.ID.String() + "/"; res.Info.WebSeeds[0] != want || !res.Info.Private {
		t.Errorf("web seeds %v, private %v", res.Info.WebSeeds, res.Info.Private)
	}
	x, err := asset.ParseExtra(res.Torrent)
	if err != nil || x.Types["film.mp4"] != "video/mp4" || x.Title != "Film" || x.Version != "2" || x.Publisher != "acme" {
		t.Errorf("extra: %+v, %v", x, err)
	}
	again, err := Publish(context.Background(), Options{Source: src, OriginDir: filepath.Join(dir, "origin")})
	if err != nil || again.Info.ID != res.Info.ID {
		t.Fatalf("publishing again: %v", err)
	}
	if err := Remove(filepath.Join(dir, "origin"), res.Info.ID); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, filepath.Join(dir, "origin"))
}

func TestPublishDirectory(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "series")
	write(t, filepath.Join(src, "b", "2.ts"), []byte("two"))
	write(t, filepath.Join(src, "1.ts"), []byte("one!"))
	write(t, filepath.Join(src, "empty"), nil)
	res, err := Publish(context.Background(), Options{Source: src, OriginDir: filepath.Join(dir, "origin")})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range res.Info.Files {
		paths = append(paths, f.Path)
		if _, err := os.Stat(filepath.Join(res.Dir, "series", filepath.FromSlash(f.Path))); err != nil {
			t.Error(err)
		}
	}
	if got := strings.Join(paths, " "); got != "1.ts b/2.ts empty" {
		t.Errorf("files: %s", got)
	}
}

func TestPublishRefuses(t *testing.T) {
	dir := t.TempDir()
	origin := filepath.Join(dir, "origin")
	emptyDir := filepath.Join(dir, "void")
	if err := os.Mkdir(emptyDir, 0o755); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "links")
	write(t, filepath.Join(dangling, "a"), []byte("a"))
	if err := os.Symlink("nowhere", filepath.Join(dangling, "b")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, source string
		want         error
	}{
		{"empty file", write(t, filepath.Join(dir, "empty.mp4"), nil), ErrEmpty},
		{"empty directory", emptyDir, ErrEmpty},
		{"missing", filepath.Join(dir, "none.mp4"), fs.ErrNotExist},
		{"device", "/dev/null", ErrSpecial},
		{"dangling link", dangling, fs.ErrNotExist},
	} {
		_, err := Publish(context.Background(), Options{Source: c.source, OriginDir: origin})
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.source) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	nothingLeft(t, origin)
}

// A file that somebody writes to while it is read is refused, whichever way it changes.
func TestPublishSeesChange(t *testing.T) {
	size := 3 << 20
	for name, change := range map[string]func(string) error{
		"grows": func(f string) error {
			h, err := os.OpenFile(f, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = h.WriteString("more")
			return errors.Join(err, h.Close())
		},
		"shrinks": func(f string) error { return os.Truncate(f, 100) },
		"in place": func(f string) error {
			h, err := os.OpenFile(f, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = h.WriteAt([]byte("x"), 0)
			return errors.Join(err, h.Close(), os.Chtimes(f, time.Time{}, time.Now().Add(time.Second)))
		},
		"replaced": func(f string) error {
			if err := os.WriteFile(f+".new", make([]byte, size), 0o644); err != nil {
				return err
			}
			return os.Rename(f+".new", f)
		},
		"removed": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			src := write(t, filepath.Join(dir, "film.mp4"), make([]byte, size))
			once := false
			_, err := Publish(context.Background(), Options{
				Source: src, OriginDir: filepath.Join(dir, "origin"),
				Progress: func(int64, int64) {
					if !once {
						once = true
						if err := change(src); err != nil {
							t.Error(err)
						}
					}
				},
			})
			if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "film.mp4") {
				t.Errorf("published: %v", err)
			}
			nothingLeft(t, filepath.Join(dir, "origin"))
		})
	}
}

func TestCleanStaging(t *testing.T) {
	dir := t.TempDir()
	st, err := newStaging(dir)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(st.dir, "half"), []byte("x"))
	if err := CleanStaging(dir, time.Time{}); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}

func TestCancelled(t *testing.T) {
	dir := t.TempDir()
	src := write(t, filepath.Join(dir, "film.mp4"), make([]byte, 1<<20))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Publish(ctx, Options{Source: src, OriginDir: filepath.Join(dir, "o")}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	nothingLeft(t, filepath.Join(dir, "o"))
}
