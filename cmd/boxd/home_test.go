package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/control"
	"boxd/internal/durable"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/fleettest"
	"boxd/internal/fleet/origin"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/repo"
	"boxd/internal/fleet/tracker"
	"boxd/internal/identity/identitytest"
)

// testFleet is what a box needs of the operator's side, on loopback ports: enrolment, catalog, origin, tracker.
type testFleet struct {
	t      *testing.T
	ids    *identitytest.Fleet
	dir    string
	url    string
	repo   *repo.Repo
	origin *origin.Handler
}

func newFleet(t *testing.T) *testFleet {
	t.Helper()
	f := &testFleet{t: t, ids: identitytest.New(t), dir: t.TempDir()}
	var err error
	f.repo, err = repo.Init(repo.Options{Dir: f.dir + "/tuf", Keys: f.dir + "/keys"}, repo.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := repo.GenerateKey(durable.OS(), f.dir+"/keys", "publisher-acme")
	if err != nil {
		t.Fatal(err)
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		t.Fatal("the publisher's key is no ed25519 key")
	}
	if err := f.repo.Update(func(tx *repo.Tx) error { return tx.AddPublisher("acme", pub, 0) }); err != nil {
		t.Fatal(err)
	}
	f.origin = origin.New(origin.Options{Dir: f.dir + "/origin"})
	announces := tracker.New(tracker.Options{MinInterval: time.Second})
	mux := http.NewServeMux()
	mux.Handle("/tuf/", http.StripPrefix("/tuf", f.repo.Handler()))
	mux.Handle("/origin/", http.StripPrefix("/origin", f.origin))
	mux.Handle("/announce", f.ids.CA.RequireBox(announces))
	f.url = f.ids.Serve(mux)
	root, err := f.repo.Root()
	if err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(f.dir+"/root.json", root, 0o600))
	must(t, os.WriteFile(f.dir+"/token", []byte(f.ids.Token(ca.TokenSpec{Group: "home", MaxUses: 100})), 0o600))
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publish puts a file into the catalog and a campaign over it.
func (f *testFleet) publish(file, title string, edit func(*catalog.Campaign)) asset.ID {
	f.t.Helper()
	res, err := publish.Publish(f.t.Context(), publish.Options{
		Source: file, OriginDir: f.dir + "/origin", OriginURLs: []string{f.url + "/origin"}, Title: title, Version: "1",
		Publisher: "acme",
	})
	must(f.t, err)
	must(f.t, f.repo.Update(func(tx *repo.Tx) error {
		ref, err := tx.PutAsset("acme", res.Torrent)
		if err != nil {
			return err
		}
		c := catalog.Campaign{
			V: 1, ID: "c-" + res.Info.ID.Short(), Name: "Tonight: " + title, Group: "home", Assets: []catalog.AssetRef{ref},
			Deadline: time.Now().Add(6 * time.Hour), KeepUntil: time.Now().Add(72 * time.Hour),
		}
		if edit != nil {
			edit(&c)
		}
		return tx.PutCampaign(c)
	}))
	return res.Info.ID
}

// testBox is `boxd run` in this process.
type testBox struct {
	t       *testing.T
	dir     string
	file    string
	log     *syncBuffer
	stop    context.CancelFunc
	ended   chan error
	command *command
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func freePort(t *testing.T) string { return strconv.Itoa(fleettest.FreePort(t)) }

// box writes a configuration; extra is appended to it.
func (f *testFleet) box(name, extra string, static ...string) *testBox {
	f.t.Helper()
	dir := filepath.Join(f.t.TempDir(), name)
	must(f.t, os.MkdirAll(dir, 0o755))
	must(f.t, os.WriteFile(dir+"/synced", nil, 0o600))
	list, err := json.Marshal(append([]string{}, static...))
	must(f.t, err)
	b := &testBox{t: f.t, dir: dir, file: dir + "/boxd.toml", log: &syncBuffer{}}
	text := fmt.Sprintf(`[paths]
cache = "%[1]s/cache"
state = "%[1]s/state"
socket = "%[1]s/sock"
timesync = "%[1]s/synced"
[fleet]
url = %[2]q
ca = %[3]q
root = "%[4]s/root.json"
token_file = "%[4]s/token"
poll = "1s"
[cache]
quota = "1GiB"
reserve = "16MiB"
[lan]
mdns = false
static = %[5]s
`, dir, f.url, f.ids.CAFile, f.dir, list)
	if !strings.Contains(extra, "[swarm]") {
		extra += "\n[swarm]\nlisten = \"127.0.0.1:0\"\n"
	}
	if !strings.Contains(extra, "[http]") {
		extra += "\n[http]\nlisten = \"127.0.0.1:0\"\n"
	}
	must(f.t, os.WriteFile(b.file, []byte(text+extra), 0o600))
	b.command = &command{config: b.file, socket: dir + "/sock"}
	return b
}

func (b *testBox) start() *testBox {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b.stop, b.ended = cancel, make(chan error, 1)
	go func() { b.ended <- b.command.run(ctx, b.log) }()
	b.t.Cleanup(func() { b.end() })
	b.until("answers", 30*time.Second, func(*control.Snapshot) bool { return true })
	return b
}

func (b *testBox) end() {
	if b.stop == nil {
		return
	}
	b.stop()
	b.stop = nil
	select {
	case err := <-b.ended:
		if err != nil {
			b.t.Errorf("boxd run: %v", err)
		}
	case <-time.After(patience):
		b.t.Errorf("boxd run did not end\n%s", b.log)
	}
	if b.t.Failed() {
		b.t.Logf("log of %s:\n%s", filepath.Base(b.dir), b.log)
	}
}

// patience is the least that a test waits: the machine may be busy, and a bound costs nothing while all is well.
const patience = 2 * time.Minute

// until waits until the box's status is as wanted.
func (b *testBox) until(what string, limit time.Duration, good func(*control.Snapshot) bool) *control.Snapshot {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), max(limit, patience))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	cl := b.command.client()
	defer cl.http.CloseIdleConnections()
	var last *control.Snapshot
	for {
		if s, err := cl.status(ctx); err == nil {
			if last = s; good(s) {
				return s
			}
		}
		select {
		case err := <-b.ended:
			b.ended <- err
			b.t.Fatalf("%s: boxd ended with %v\n%s", what, err, b.log)
		case <-ctx.Done():
			js, _ := json.MarshalIndent(last, "", " ")
			b.t.Fatalf("not within %v: %s\n%s\n%s", max(limit, patience), what, js, b.log)
		case <-tick.C:
		}
	}
}

// has waits until the box has the asset whole and durable.
func (b *testBox) has(id asset.ID, limit time.Duration) *control.Snapshot {
	b.t.Helper()
	return b.until("ready "+id.Short(), limit, func(s *control.Snapshot) bool {
		a, ok := s.Asset(id.String())
		return ok && a.State == control.Ready
	})
}

// boxd runs a command of the command line against the box.
func (b *testBox) boxd(args ...string) (out string, code int) {
	root := newRoot()
	var buf bytes.Buffer
	root.SetOut(&buf)
	root.SetErr(&buf)
	code = execute(b.t.Context(), root, append([]string{"--socket", b.dir + "/sock"}, args...))
	return buf.String(), code
}

func (b *testBox) get(url string) (*http.Response, []byte) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, url, nil)
	must(b.t, err)
	resp, err := http.DefaultClient.Do(req)
	must(b.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(b.t, err)
	return resp, body
}
