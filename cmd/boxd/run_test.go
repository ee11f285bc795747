package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"boxd/internal/control"
)

func mediaFile(t *testing.T, name string, size int) (string, []byte) {
	t.Helper()
	data := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = rnd.Read(data)
	file := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(file, data, 0o600))
	return file, data
}

// TestBoxFromNothingToPlaying is the daemon's whole life: enrol, believe the catalog, fetch, play, restart, be asked.
func TestBoxFromNothingToPlaying(t *testing.T) {
	f := newFleet(t)
	file, data := mediaFile(t, "film.mp4", 5<<20+12345)
	id := f.publish(file, "The Film", nil)
	box := f.box("one", "").start()
	s := box.has(id, 60*time.Second)
	if s.Box.ID == "" || s.Box.Group != "home" || !s.Clock.Trusted || s.Catalog.Version == 0 {
		t.Errorf("box %+v, clock %+v, catalog %+v", s.Box, s.Clock, s.Catalog)
	}
	a, _ := s.Asset(id.String())
	if a.Name != "The Film" || a.Verified != int64(len(data)) || a.Bytes.Total() < int64(len(data)) || len(a.Files) != 1 {
		t.Errorf("asset %+v", a)
	}
	resp, body := box.get(s.Box.HTTP + a.Files[0].URL)
	if resp.StatusCode != 200 || !bytes.Equal(body, data) || resp.Header.Get("Content-Type") != "video/mp4" {
		t.Errorf("playout: %s, %d bytes, %s", resp.Status, len(body), resp.Header.Get("Content-Type"))
	}
	for _, p := range []string{"/healthz", "/readyz", "/metrics", "/"} {
		if resp, body := box.get(s.Box.HTTP + p); resp.StatusCode != 200 {
			t.Errorf("%s: %s %s", p, resp.Status, body)
		}
	}
	box.end()
	box.start()
	again := box.until("ready after the restart", 20*time.Second, func(s *control.Snapshot) bool {
		a, ok := s.Asset(id.String())
		return ok && a.State == control.Ready
	})
	if again.Box.ID != s.Box.ID {
		t.Errorf("the box was %s and is %s", s.Box.ID, again.Box.ID)
	}
	if sent := f.origin.Sent(id).Bytes; sent > int64(len(data))*102/100 {
		t.Errorf("the origin sent %d bytes of %d", sent, len(data))
	}
	testCommands(t, box, id.String())
}

func testCommands(t *testing.T, box *testBox, id string) {
	t.Helper()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"status", 0, "The Film"},
		{"assets", 0, id[:8]},
		{"why The", 0, "whole and verified"},
		{"why nothing", 1, "no asset of this box"},
		{"peers", 0, "In this home"},
		{"schedule", 0, "FROM"},
		{"schedule --json", 0, `"slots"`},
		{"pin " + id[:6], 0, "is kept until"},
		{"evict " + id, 1, "pinned"},
		{"unpin " + id, 0, "as long as policy"},
		{"verify " + id, 0, "all right"},
		{"verify zzz", 1, "no-such-asset"},
		{"pause", 0, "paused"},
		{"status", 0, "paused"},
		{"resume", 0, "goes on"},
		{"refresh", 0, "Catalog version"},
		{"log", 0, "started"},
		{"doctor", 0, "certificate"},
		{"doctor --json", 0, `"status"`},
		{"version", 0, "boxd devel"},
		{"status --nonsense", 2, "unknown flag"},
		{"status extra", 2, "unknown argument"},
		{"nonsense", 2, "unknown"},
		{"why", 2, "want one asset"},
		{"check-config " + box.file, 0, "is valid"},
		{"", 0, "prefetches"},
	} {
		out, code := box.boxd(strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("boxd %s: exit %d, want %d with %q:\n%s", c.args, code, c.code, c.want, out)
		}
	}
	out, _ := box.boxd("status", "--json")
	var s control.Snapshot
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.Schema != control.Schema {
		t.Errorf("status --json: %v", err)
	}
	testBugReport(t, box)
}

func testBugReport(t *testing.T, box *testBox) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	if out, code := box.boxd("bugreport", "-o", file); code != 0 {
		t.Fatalf("bugreport: %s", out)
	}
	b, err := os.ReadFile(file)
	must(t, err)
	gz, err := gzip.NewReader(bytes.NewReader(b))
	must(t, err)
	tr := tar.NewReader(gz)
	token, err := os.ReadFile(box.dir + "/state/http.token")
	must(t, err)
	parts := map[string]int{}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		body, err := io.ReadAll(tr)
		must(t, err)
		parts[filepath.Base(h.Name)] = len(body)
		for _, secret := range []string{"PRIVATE KEY", "bt1-", strings.TrimSpace(string(token))} {
			if bytes.Contains(body, []byte(secret)) {
				t.Errorf("%s has %q in it", h.Name, secret)
			}
		}
	}
	for _, want := range []string{
		"status.json", "history.json", "doctor.json", "config.json", "log.txt",
		"goroutines.txt", "build.txt", "cache.json", "metrics.txt", "schedule.json",
	} {
		if parts[want] == 0 {
			t.Errorf("no %s in the report: %v", want, parts)
		}
	}
}

func TestFaultsOfStarting(t *testing.T) {
	f := newFleet(t)
	box := f.box("one", "").start()
	s := box.until("up", time.Second, func(*control.Snapshot) bool { return true })
	taken := strings.TrimPrefix(s.Box.HTTP, "http://")
	two := f.box("two", "[http]\nlisten = \""+taken+"\"\n")
	if out, code := two.runExpectingFault(); code != 1 || !strings.Contains(out, "another program has this port") {
		t.Errorf("a taken port: exit %d\n%s", code, out)
	}
	three := f.box("three", "")
	text, err := os.ReadFile(three.file)
	must(t, err)
	must(t, os.WriteFile(three.file, append(text, "[nonsense]\nkey = 1\n"...), 0o600))
	if out, code := three.runExpectingFault(); code != 2 || !strings.Contains(out, "nonsense: unknown key") {
		t.Errorf("an unknown key: exit %d\n%s", code, out)
	}
	four := f.box("four", "")
	text, err = os.ReadFile(four.file)
	must(t, err)
	must(t, os.WriteFile(four.file, bytes.ReplaceAll(text, []byte(four.dir), []byte(box.dir)), 0o600))
	if out, code := four.runExpectingFault(); code != 1 || !strings.Contains(out, "another boxd") {
		t.Errorf("a second daemon on the same paths: exit %d\n%s", code, out)
	}
	if out, code := three.boxd("status"); code != 1 || !strings.Contains(out, "is it running?") {
		t.Errorf("status without a daemon: exit %d\n%s", code, out)
	}
}

// runExpectingFault runs the daemon where it must end by itself.
func (b *testBox) runExpectingFault() (string, int) {
	root := newRoot()
	var buf syncBuffer
	root.SetErr(&buf)
	root.SetOut(&buf)
	code := execute(b.t.Context(), root, []string{"run", "--config", b.file})
	return buf.String(), code
}

// TestTwoBoxesOfOneHome fetches over the access line once.
func TestTwoBoxesOfOneHome(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	f := newFleet(t)
	pa, pb := freePort(t), freePort(t)
	a := f.box("a", "[swarm]\nlisten = \"127.0.0.1:"+pa+"\"\n", "127.0.0.1:"+pb).start()
	b := f.box("b", "[swarm]\nlisten = \"127.0.0.1:"+pb+"\"\n", "127.0.0.1:"+pa).start()
	for _, box := range []*testBox{a, b} {
		box.until("sees the other", 30*time.Second, func(s *control.Snapshot) bool { return len(s.Home) == 1 })
	}
	file, data := mediaFile(t, "film.mp4", 16<<20)
	id := f.publish(file, "The Film", nil)
	sa, sb := a.has(id, 90*time.Second), b.has(id, 90*time.Second)
	aa, _ := sa.Asset(id.String())
	ab, _ := sb.Asset(id.String())
	t.Logf("a: %+v, b: %+v, origin sent %d of %d", aa.Bytes, ab.Bytes, f.origin.Sent(id).Bytes, len(data))
	if sent := f.origin.Sent(id).Bytes; float64(sent) > 1.02*float64(len(data)) {
		t.Errorf("the origin sent %.3f copies", float64(sent)/float64(len(data)))
	}
	for _, box := range []*testBox{a, b} {
		s := box.until("up", time.Second, func(*control.Snapshot) bool { return true })
		x, _ := s.Asset(id.String())
		if resp, body := box.get(s.Box.HTTP + x.Files[0].URL); resp.StatusCode != http.StatusOK || !bytes.Equal(body, data) {
			t.Errorf("playout: %s, %d bytes", resp.Status, len(body))
		}
	}
}
