package server_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/fleettest"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/fleet/server"
	"boxd/internal/identity"
	"boxd/internal/mgmt"
	"boxd/internal/mqttwire"
	"boxd/internal/ops"
	"boxd/internal/state"
)

func logTo() *slog.Logger {
	if os.Getenv("BOXD_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// manager is a whole fleetd on ports of its own.
type manager struct {
	dir, api, token string
	stop            func()
}

func startManager(t *testing.T, dir string, change ...func(*server.Options)) *manager {
	t.Helper()
	m := openManager(t, dir, change...)
	eventually(t, "fleetd is ready", func() bool { return ready(m.api) })
	return m
}

// openManager does not wait until it is ready.
func openManager(t *testing.T, dir string, change ...func(*server.Options)) *manager {
	t.Helper()
	o := server.Options{
		Dir:    dir,
		Fleet:  "home",
		Listen: "127.0.0.1:0",
		MQTT:   fleettest.FreeAddr(t),
		API:    "127.0.0.1:0",
		Hosts:  []string{"127.0.0.1"},
		Log:    logTo(),
	}
	for _, f := range change {
		f(&o)
	}
	s, err := server.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m := &manager{dir: dir, api: "http://" + s.APIAddr()}
	var once sync.Once
	m.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("fleetd: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("close fleetd: %v", err)
			}
		})
	}
	t.Cleanup(m.stop)
	eventually(t, "there is a token", func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "api-token"))
		m.token = strings.TrimSpace(string(data))
		return err == nil
	})
	return m
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

// do calls the API and decodes its answer; it returns the status.
func (m *manager) do(t *testing.T, token, method, path string, in, out any) int {
	t.Helper()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, m.api+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if out != nil && resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, data)
		}
	}
	if resp.StatusCode != http.StatusOK {
		t.Logf("%s %s: %d %s", method, path, resp.StatusCode, data)
	}
	return resp.StatusCode
}

func (m *manager) must(t *testing.T, method, path string, in, out any) {
	t.Helper()
	if status := m.do(t, m.token, method, path, in, out); status != http.StatusOK {
		t.Fatalf("%s %s: status %d", method, path, status)
	}
}

func (m *manager) box(t *testing.T, id string) registry.Box {
	t.Helper()
	var b registry.Box
	m.do(t, m.token, http.MethodGet, "/api/v1/boxes/"+id, nil, &b)
	return b
}

// box is a real identity, catalog and session around a scripted cache.
type box struct {
	id  *identity.Identity
	cat *catalog.Catalog
	mg  *mgmt.Manager

	mu       sync.Mutex // guards the fields below
	rep      mgmt.Report
	changed  chan struct{}
	commands []string
	configs  []mqttwire.Config
}

func (b *box) Report() mgmt.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	rep := b.rep
	rep.CatalogVersion = b.cat.Snapshot().Version
	return rep
}

func (b *box) set(f func(*mgmt.Report)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.rep)
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *box) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}
func (b *box) Tele() mqttwire.Tele { return mqttwire.Tele{} }
func (b *box) Do(_ context.Context, c mgmt.Command) mgmt.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.commands = append(b.commands, c.Name)
	return mgmt.Result{Text: "ok"}
}

func (b *box) Configure(_ context.Context, c mqttwire.Config) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.configs = append(b.configs, c)
	return nil, nil
}
func (b *box) Bell(int64) { go func() { _ = b.cat.Refresh(context.Background()) }() }

func (b *box) lastConfig() mqttwire.Config {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.configs) == 0 {
		return mqttwire.Config{}
	}
	return b.configs[len(b.configs)-1]
}

// startBox enrols a box with the firmware bundle and the given token.
func startBox(t *testing.T, m *manager, token string, change ...func(*identity.Options)) *box {
	t.Helper()
	fw := filepath.Join(m.dir, "firmware")
	dir := t.TempDir()
	db, err := state.Open(filepath.Join(dir, "state.db"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	urls := configOf(t, fw)
	io := identity.Options{
		Dir:          filepath.Join(dir, "identity"),
		State:        db,
		CAFile:       filepath.Join(fw, "ca.pem"),
		EnrollURL:    urls.url,
		Token:        token,
		Log:          logTo(),
		TimeSyncPath: synced(t, dir),
	}
	for _, f := range change {
		f(&io)
	}
	id, err := identity.Open(io)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(fw, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	groups := func() []string { return []string{id.Group()} }
	b := &box{id: id, changed: make(chan struct{}), rep: mgmt.Report{Software: "1", HoldingsKnown: true, ClockTrusted: true}}
	b.cat, err = catalog.Open(catalog.Options{
		Dir: filepath.Join(
			dir,
			"catalog",
		),
		Root:   root,
		URL:    urls.url + "/tuf",
		Client: id.HTTPClient(10 * time.Second),
		Groups: groups,
		BoxID:  id.BoxID,
		Now:    id.Now,
		Log:    logTo(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cat.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.mg, err = mgmt.New(mgmt.Options{
		Box:             b,
		DB:              db,
		Brokers:         []string{urls.broker},
		BoxID:           id.BoxID,
		Fleet:           id.Fleet,
		Groups:          groups,
		TLS:             id.FleetClient,
		Now:             id.Now,
		IdentityChanged: id.Changed,
		BootSpread:      -1,
		BackoffMin:      50 * time.Millisecond,
		BackoffMax:      time.Second,
		Log:             logTo(),
		ReportSoon:      20 * time.Millisecond,
		Resend:          time.Second,
		TelePeriod:      time.Second,
		Upload:          mgmt.Uploader(id.HTTPClient(10*time.Second), urls.url+"/upload"),
		Verify: func(raw []byte) (mgmt.Message, error) {
			now, _ := id.Now()
			msg, err := ops.Verify(
				b.cat.Snapshot().OperationsKeys,
				raw,
				ops.Box{Fleet: id.Fleet(), ID: id.BoxID(), Groups: groups()},
				now,
			)
			return mgmt.Message{Kind: msg.Kind, ID: msg.ID, To: msg.To, Expires: msg.Expires, Payload: msg.Payload}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.mg.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// synced is the file by which a box knows that its clock is right.
func synced(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "synchronized")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type bundle struct{ url, broker string }

func configOf(t *testing.T, dir string) bundle {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "boxd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	var b bundle
	for _, line := range strings.Split(string(data), "\n") {
		if v, ok := strings.CutPrefix(line, "url = "); ok {
			b.url = strings.Trim(v, `"`)
		}
		if v, ok := strings.CutPrefix(line, "brokers = "); ok {
			b.broker = strings.Trim(v, `[]"`)
		}
	}
	return b
}

func firmwareToken(t *testing.T, m *manager) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.dir, "firmware", "token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func publishFilm(t *testing.T, m *manager, name string) asset.ID {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".bin")
	if err := os.WriteFile(file, bytes.Repeat([]byte(name), 40_000), 0o600); err != nil {
		t.Fatal(err)
	}
	var a struct{ ID asset.ID }
	m.must(t, http.MethodPost, "/api/v1/assets", map[string]string{"path": file, "name": name}, &a)
	return a.ID
}

func TestFromAnEmptyDirectoryToAProofOfArrival(t *testing.T) {
	m := startManager(t, t.TempDir())
	b := startBox(t, m, firmwareToken(t, m))
	id := b.id.BoxID()
	eventually(t, "the box is online in group default", func() bool {
		x := m.box(t, id)
		return x.Online && x.Group == "default"
	})
	film := publishFilm(t, m, "film")
	var camp struct{ ID string }
	m.must(
		t,
		http.MethodPost,
		"/api/v1/campaigns",
		map[string]any{"v": 1, "name": "Tonight", "group": "default", "assets": nil, "asset_ids": []string{film.String()}},
		&camp,
	)
	eventually(t, "the bell brought the campaign to the box", func() bool { return len(b.cat.Snapshot().Campaigns) == 1 })

	b.set(func(r *mgmt.Report) {
		r.Holdings = []mgmt.Holding{
			{
				ID:        film,
				Name:      "film",
				Publisher: "operator",
				Campaign:  camp.ID,
				Size:      160_000,
				From:      mqttwire.Traffic{LAN: 100_000, Origin: 60_000},
				At:        time.Now(),
				Trusted:   true,
			},
		}
	})
	var proofs []registry.Proof
	eventually(t, "the proof is committed", func() bool {
		m.do(t, m.token, http.MethodGet, "/api/v1/proofs?asset="+film.String(), nil, &proofs)
		return len(proofs) == 1
	})
	if p := proofs[0]; p.Box != id || p.LAN != 100_000 || p.Origin != 60_000 || p.Kind != "arrived" || !p.Trusted {
		t.Errorf("proof %+v", p)
	}
	publishersSeeTheirOwn(t, m)
	eventually(t, "the box was told", func() bool { return b.mg.Status().Outbox == 0 })
	var c struct{ Counts struct{ Included, Ready int } }
	m.must(t, http.MethodGet, "/api/v1/campaigns/"+camp.ID, nil, &c)
	if c.Counts.Ready != 1 || c.Counts.Included != 1 {
		t.Errorf("campaign counts %+v", c.Counts)
	}

	var cmd struct{ ID string }
	m.must(t, http.MethodPost, "/api/v1/commands", map[string]any{"target": "group:default", "name": "refresh"}, &cmd)
	eventually(t, "the command is done", func() bool {
		var got registry.Command
		m.do(t, m.token, http.MethodGet, "/api/v1/commands/"+cmd.ID, nil, &got)
		return got.Counts["done"] == 1
	})
	m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 1000}, nil)
	m.must(t, http.MethodPut, "/api/v1/config/group:default", map[string]any{"wan_down": 5000, "paused": true}, nil)
	eventually(t, "the tighter of both limits is applied and reported", func() bool {
		c, x := b.lastConfig(), m.box(t, id)
		return c.WANDown != nil && *c.WANDown == 1000 && c.Paused != nil && *c.Paused && x.Desired == 1 && x.GroupDesired > 0
	})

	m.must(t, http.MethodPost, "/api/v1/assets/"+film.String()+"/withdraw", map[string]any{}, nil)
	eventually(t, "the box knows of the withdrawal", func() bool { return len(b.cat.Snapshot().Withdrawn) == 1 })
	b.set(func(r *mgmt.Report) { r.Holdings, r.Gone = nil, map[asset.ID]string{film: "withdrawn"} })
	eventually(t, "the erasure is proven", func() bool {
		m.do(t, m.token, http.MethodGet, "/api/v1/proofs?kind=erased", nil, &proofs)
		return len(proofs) == 1 && proofs[0].Reason == "withdrawn"
	})

	m.must(t, http.MethodPost, "/api/v1/boxes/"+id+"/revoke", map[string]string{"reason": "test"}, nil)
	eventually(t, "the revoked box is cut off", func() bool { return !b.mg.Status().Connected })
	if sessions := b.mg.Status().Sessions; sessions != 1 {
		t.Errorf("%d sessions", sessions)
	}
	eventually(t, "the revoked box is refused", func() bool {
		st := b.mg.Status()
		return st.Sessions == 1 && strings.Contains(st.LastError, "tls: ")
	})
}

func TestARestartForgetsNothing(t *testing.T) {
	dir := t.TempDir()
	m := startManager(t, dir)
	b := startBox(t, m, firmwareToken(t, m))
	film := publishFilm(t, m, "film")
	b.set(func(r *mgmt.Report) { r.Holdings = []mgmt.Holding{{ID: film, Name: "film", Size: 1, At: time.Now()}} })
	eventually(t, "outbox empty", func() bool { return m.box(t, b.id.BoxID()).Holdings == 1 && b.mg.Status().Outbox == 0 })
	urls := configOf(t, filepath.Join(dir, "firmware"))
	m.stop()
	m = startManager(t, dir, func(o *server.Options) {
		o.Listen = strings.TrimPrefix(urls.url, "https://")
		o.MQTT = strings.TrimPrefix(urls.broker, "tls://")
	})
	eventually(t, "the box is back", func() bool { return m.box(t, b.id.BoxID()).Online })
	var proofs []registry.Proof
	eventually(t, "the proof is there", func() bool {
		m.must(t, http.MethodGet, "/api/v1/proofs", nil, &proofs)
		return len(proofs) == 1
	})
	var assets []struct{ ID asset.ID }
	m.must(t, http.MethodGet, "/api/v1/assets", nil, &assets)
	if len(assets) != 1 || assets[0].ID != film {
		t.Errorf("assets after the restart: %v", assets)
	}
}

// publishersSeeTheirOwn expects one proof, of the publisher "operator".
func publishersSeeTheirOwn(t *testing.T, m *manager) {
	t.Helper()
	m.must(t, http.MethodPost, "/api/v1/publishers", map[string]any{"name": "other"}, nil)
	for publisher, want := range map[string]int{"operator": 1, "other": 0} {
		var user struct{ Token string }
		m.must(t, http.MethodPost, "/api/v1/users",
			map[string]any{"name": "of-" + publisher, "role": "publisher", "publisher": publisher}, &user)
		var proofs []registry.Proof
		status := m.do(t, user.Token, http.MethodGet, "/api/v1/proofs", nil, &proofs)
		if status != http.StatusOK || len(proofs) != want {
			t.Errorf("%s sees %d proofs (status %d), want %d", publisher, len(proofs), status, want)
		}
		for _, path := range []string{"/api/v1/proofs?publisher=third", "/api/v1/publishers/third/statement"} {
			if status := m.do(t, user.Token, http.MethodGet, path, nil, nil); status != http.StatusForbidden {
				t.Errorf("%s: %s: status %d", publisher, path, status)
			}
		}
	}
}

func opsPublic(t *testing.T, pemKey []byte) []ed25519.PublicKey {
	t.Helper()
	key, err := repo.ParseKey(pemKey)
	if err != nil {
		t.Fatal(err)
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		t.Fatalf("a %T", key.Public())
	}
	return []ed25519.PublicKey{pub}
}
