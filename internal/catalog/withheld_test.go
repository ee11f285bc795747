package catalog_test

import (
	"context"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"boxd/internal/catalog"
)

// The table of TUF's attacks in docs/security.md names tests that are there.
func TestEachOfTUFsAttacksHasItsTest(t *testing.T) {
	have := map[string]bool{}
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		must(t, err)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				have[fn.Name.Name] = true
			}
		}
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "security.md"))
	must(t, err)
	var named []string
	for _, m := range regexp.MustCompile("`(TestAttack[A-Za-z]+)`").FindAllStringSubmatch(string(page), -1) {
		named = append(named, m[1])
		if !have[m[1]] {
			t.Errorf("docs/security.md names %s, which is not there", m[1])
		}
	}
	for name := range have {
		if strings.HasPrefix(name, "TestAttack") && !slices.Contains(named, name) {
			t.Errorf("docs/security.md does not name %s", name)
		}
	}
	if len(named) < 12 {
		t.Errorf("only %d attacks: %q", len(named), named)
	}
}

// Malicious mirror: it keeps back what is new, one file after the other, in each way that a server has. Nothing half gets
// in, the box says what is the matter, and catches up at once with a mirror that gives all.
func TestAttackMaliciousMirror(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	old := w.take()
	w.put("home", "night2", "film2.mp4")
	good := w.take()
	ways := map[string]func(rw http.ResponseWriter){
		catalog.CodeUnreachable: func(rw http.ResponseWriter) { rw.WriteHeader(http.StatusServiceUnavailable) },
		catalog.CodeIncomplete:  func(rw http.ResponseWriter) { rw.WriteHeader(http.StatusGone) },
	}
	for code, way := range ways {
		for name := range good {
			if old[name] != nil && name != "/metadata/timestamp.json" || strings.HasSuffix(name, ".root.json") {
				continue
			}
			m.before = nil
			c := w.newBox(m, old)
			m.set(good)
			m.before = func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == name {
					way(rw)
				}
				return r.URL.Path == name
			}
			w.refused(c, code)
			m.before = nil
			must(t, c.Refresh(context.Background()))
			if len(c.Snapshot().Assets) != 2 {
				t.Fatalf("%s was kept back: then there are %d assets", name, len(c.Snapshot().Assets))
			}
		}
	}
}

// Withheld: a mirror says for ever that there is nothing new. The box believes it as long as the catalog is fresh, then asks in
// a way that has no such answer, and says so; what it has is still there to play.
func TestAttackWithheld(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	m.before = func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("ETag", `"the first"`)
		return false
	}
	c := w.box()
	w.put("home", "night2", "film2.mp4")
	good := w.take()
	m.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if tag := r.Header.Get("If-None-Match"); tag != "" && tag != `"the first"` {
			t.Errorf("asked with tag %s", tag)
		}
		rw.WriteHeader(http.StatusNotModified)
		return true
	}
	must(t, c.Refresh(context.Background()))
	if len(c.Snapshot().Assets) != 1 || !c.Snapshot().Fresh(w.now) {
		t.Fatalf("within its time: %+v", c.Snapshot())
	}
	w.now = c.Snapshot().Expires.Add(time.Minute)
	w.refused(c, catalog.CodeUnreachable)
	if c.Snapshot().Fresh(w.now) || !w.health.Has(catalog.CodeExpired) {
		t.Fatalf("after its time nobody says so: %+v", w.health.List())
	}
	if len(w.open().Snapshot().Assets) != 1 {
		t.Fatal("what was there to play is forgotten")
	}
	m.before = nil
	w.now = w.now.Add(-2 * time.Minute)
	m.set(good)
	must(t, c.Refresh(context.Background()))
	if len(c.Snapshot().Assets) != 2 || len(w.health.List()) != 0 {
		t.Fatalf("after the attack: %+v, %+v", c.Snapshot(), w.health.List())
	}
}

// Extraneous dependencies: a mirror, or the publisher itself, offers more than was asked for. A box fetches what its campaigns
// name, and asks for nothing else.
func TestAttackExtraneousDependencies(t *testing.T) {
	w := newWorld(t)
	have := w.put("home", "night", "film.mp4")
	m := w.mirrored()
	f := w.forger("timestamp", "snapshot", "publisher-acme")
	role := f.role("publisher-acme")
	for _, name := range []string{"trailer.mp4", "codec.mp4"} {
		f.addTarget(role, "assets/acme/"+name, torrent(t, name, []byte(name)))
	}
	role.Signed.Targets[have.Path].Custom = raw(t, map[string]any{
		"name": "T film.mp4", "version": "1", "length": 19, "requires": []string{"assets/acme/codec.mp4"},
	})
	f.publish("publisher-acme", role, f.keys["publisher-acme"])
	m.set(f.files)
	c := w.box()
	if s := c.Snapshot(); len(s.Assets) != 1 || s.Assets[have.ID] == nil {
		t.Fatalf("assets: %+v", s.Assets)
	}
	for _, path := range m.asked {
		if strings.Contains(path, "trailer") || strings.Contains(path, "codec") {
			t.Errorf("the box asked for %s", path)
		}
	}
}

func raw(t *testing.T, v any) *json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	r := json.RawMessage(b)
	return &r
}

// Wrong software: a file that is rightly signed, and not the one that was asked for.
func TestAttackWrongSoftware(t *testing.T) {
	w := newWorld(t)
	film := w.put("home", "night", "film.mp4")
	m := w.mirrored()
	old := w.take()
	other := w.put("work", "day", "other.mp4")
	next := w.put("home", "night2", "next.mp4")
	find := func(files map[string][]byte, id string) string {
		for name := range files {
			if strings.HasSuffix(name, id+".torrent") {
				return name
			}
		}
		t.Fatalf("no torrent of %s", id)
		return ""
	}
	good := w.take()
	for _, instead := range []string{find(good, film.ID.String()), find(good, other.ID.String())} {
		c := w.newBox(m, old)
		files := w.take()
		files[find(good, next.ID.String())] = good[instead]
		m.set(files)
		w.refused(c, catalog.CodeIncomplete)
	}
	// Nor can who signs campaigns: the id that a campaign names and what the path has must be one.
	f := w.forger("timestamp", "snapshot", "campaigns")
	role := f.role("campaigns")
	f.addTarget(role, "groups/home.json", *raw(t, catalog.GroupFile{V: 1, Group: "home", Campaigns: []catalog.Campaign{{
		V: 1, ID: "crossed", Group: "home", Assets: []catalog.AssetRef{{Path: other.Path, ID: film.ID}},
	}}}))
	f.publish("campaigns", role, f.keys["campaigns"])
	c := w.newBox(m, old)
	m.set(f.files)
	err := c.Refresh(context.Background())
	if a := c.Snapshot().Assets[film.ID]; a != nil && a.Info.ID != film.ID || c.Snapshot().Assets[other.ID] != nil {
		t.Fatalf("crossed assets: %+v, %v", c.Snapshot().Assets, err)
	}
	if err == nil && len(c.Snapshot().Rejected) == 0 {
		t.Error("nobody says so")
	}
}
