package control

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/config"
	"boxd/internal/fleet/repo"
	"boxd/internal/health"
	"boxd/internal/state"
)

type fakeIdentity struct{ renewErr error }

func (fakeIdentity) BoxID() string                 { return "box-a" }
func (fakeIdentity) Fleet() string                 { return "test" }
func (fakeIdentity) Group() string                 { return "home" }
func (fakeIdentity) Enrolled() bool                { return true }
func (fakeIdentity) Expires() time.Time            { return time.Now().Add(60 * 24 * time.Hour) }
func (fakeIdentity) Now() (time.Time, bool)        { return time.Now(), true }
func (f fakeIdentity) Renew(context.Context) error { return f.renewErr }
func (fakeIdentity) Changed() <-chan struct{}      { return nil }

type fakeFetch struct {
	state   FetchState
	limits  Limits
	paused  bool
	dead    bool
	changed func() <-chan struct{} // nil: nothing changes
}

func (f *fakeFetch) State() FetchState          { return f.state }
func (f *fakeFetch) Day(time.Duration) []Slot   { return nil }
func (f *fakeFetch) SetPaused(p bool)           { f.paused = p }
func (f *fakeFetch) SetPlayback(bool)           {}
func (f *fakeFetch) SetLimits(l Limits)         { f.limits = l }
func (f *fakeFetch) Alive(context.Context) bool { return !f.dead }
func (f *fakeFetch) Changed() <-chan struct{} {
	if f.changed == nil {
		return nil
	}
	return f.changed()
}

type rig struct {
	box   *Box
	fetch *fakeFetch
	cfg   *config.Config
	db    *state.DB
	cache *cache.Cache
	ring  *LogRing
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Fleet.Token = "bt1-verysecret"
	cfg.Limits.WANDown = config.RateLimit{Set: true, Value: 1000}
	r := &rig{fetch: &fakeFetch{}, cfg: &cfg, ring: NewLogRing(10)}
	var err error
	if r.db, err = state.Open(dir+"/state.db", state.Options{}); err != nil {
		t.Fatal(err)
	}
	r.cache, err = cache.Open(cache.Options{Dir: dir + "/cache", StateDir: dir, State: r.db})
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := repo.Init(repo.Options{Dir: dir + "/tuf", Keys: dir + "/keys"}, repo.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := fleet.Root()
	if err != nil {
		t.Fatal(err)
	}
	cat, err := catalog.Open(catalog.Options{Dir: dir + "/catalog", Root: root, URL: "https://127.0.0.1:1/tuf"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.cache.Close(), r.db.Close()); err != nil {
			t.Error(err)
		}
	})
	r.box, err = New(Options{
		Version: "v1", Config: r.cfg, Identity: fakeIdentity{renewErr: errors.New("no way")}, Catalog: cat, Cache: r.cache,
		Fetch: r.fetch, Store: r.db, Health: health.New(nil), LogRing: r.ring,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// add puts an asset into the cache of which the first have pieces are verified.
func (r *rig) add(t *testing.T, name string, pieces, have int) asset.ID {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	data := bytes.Repeat([]byte(name), pieces*asset.MinPieceLength/len(name)+1)[:pieces*asset.MinPieceLength]
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	torrent, info, err := asset.Build(t.Context(), []asset.Source{{
		Path: name, Length: int64(len(data)), Open: func() (io.ReadCloser, error) { return os.Open(file) },
	}}, asset.BuildOptions{Name: name, Single: true, PieceLength: asset.MinPieceLength})
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.cache.Create(torrent, cache.Attr{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	for i := range have {
		off, n := info.PieceSpan(i)
		if _, err := a.WriteAt(data[off:off+n], off); err != nil {
			t.Fatal(err)
		}
		if err := a.MarkVerified(i); err != nil {
			t.Fatal(err)
		}
	}
	return info.ID
}

func TestSnapshotShowsWhatTheCacheAndFetchSay(t *testing.T) {
	r := newRig(t)
	id := r.add(t, "film.mp4", 4, 2)
	r.fetch.state = FetchState{
		Fetch: Fetch{Rates: Sources{LAN: 5, Origin: 2}},
		Assets: map[asset.ID]AssetFetch{id: {
			State: Fetching, Why: "It is its turn.", Role: "courier", Rates: Sources{LAN: 5, Origin: 2}, Bytes: Sources{Peer: 7},
		}},
	}
	s := r.box.Snapshot()
	a, ok := s.Asset("film")
	if !ok || a.Verified != 2*asset.MinPieceLength || a.Length != 4*asset.MinPieceLength || a.State != Fetching || a.Rate != 7 ||
		a.Role != "courier" || a.Why != "It is its turn." || a.HavePieces != 2 {
		t.Errorf("%+v", a)
	}
	if len(a.Files) != 1 || a.Files[0].Type != "video/mp4" || a.Files[0].URL != "/assets/"+id.String()+"/film.mp4" {
		t.Errorf("files %+v", a.Files)
	}
	if s.State != StateFetching || s.Fetch.Limits.WANDown == nil || *s.Fetch.Limits.WANDown != 1000 {
		t.Errorf("%s, limits %+v", s.State, s.Fetch.Limits)
	}
	js, err := json.Marshal(s)
	if err != nil || bytes.Contains(js, []byte(":null,\"")) && !bytes.Contains(js, []byte("wan_up\":null")) {
		t.Errorf("lists that are null in %s: %v", js, err)
	}
}

func TestCommands(t *testing.T) {
	r := newRig(t)
	id := r.add(t, "film.mp4", 2, 2)
	do := func(name, args string) Result {
		return r.box.Do(t.Context(), Command{Name: name, Args: json.RawMessage(args)})
	}
	for _, c := range []struct {
		name, args string
		status     Status
		code       string
	}{
		{"pin", `{"asset":"film.mp4"}`, Done, ""},
		{"evict", `{"asset":"` + id.String() + `"}`, NotDone, CodePinned},
		{"unpin", `{"asset":"film"}`, Done, ""},
		{"verify", `{"asset":"film"}`, Done, ""},
		{"verify", `{"asset":"nothing"}`, NotDone, CodeNoAsset},
		{"verify", `{"asset":1}`, NotDone, CodeBadArgs},
		{"verify", `{"asset":"film","x":1}`, NotDone, CodeBadArgs},
		{"evict", `{"asset":"film"}`, Done, ""},
		{"pause", ``, Done, ""},
		{"resume", `{}`, Done, ""},
		{"set-limits", `{"wan_down":-1}`, NotDone, CodeBadArgs},
		{"renew-certificate", ``, NotDone, CodeFailed},
		{"refresh", ``, NotDone, CodeFailed},
		{"log-tail", `{"lines":3}`, Done, ""},
		{"explode", ``, NotDone, CodeUnknown},
	} {
		if res := do(c.name, c.args); res.Status != c.status || res.Code != c.code || res.Status == NotDone && res.Text == "" {
			t.Errorf("%s %s: %+v, want %s %s", c.name, c.args, res, c.status, c.code)
		}
	}
	if _, ok := r.cache.Asset(id); ok {
		t.Error("evicted, and still here")
	}
}

func TestACommandRunsOnceForItsID(t *testing.T) {
	var a answers
	runs := 0
	run := func() Result { runs++; return Result{Status: Done, Text: "x"} }
	for range 3 {
		if res := a.once(t.Context(), "id-1", run); res.Text != "x" {
			t.Errorf("%+v", res)
		}
	}
	if runs != 1 {
		t.Errorf("ran %d times", runs)
	}
	for i := range 3 * maxAnswers {
		a.once(t.Context(), "n"+string(rune('a'+i%26))+time.Duration(i).String(), run)
	}
	if len(a.byID) > maxAnswers || len(a.order) > maxAnswers {
		t.Errorf("%d answers are remembered", len(a.byID))
	}
}

func TestTheTightestLimitWinsAndSurvives(t *testing.T) {
	r := newRig(t)
	refused, err := r.box.Narrow(Remote{WANDown: ptr(2000), WANUp: ptr(300), Quota: ptr(1 << 60), Reserve: ptr(2 << 30)})
	if err != nil || !slices.Equal(refused, []string{"quota", "wan_down"}) {
		t.Errorf("refused %v, %v", refused, err)
	}
	if r.fetch.limits.WANDown == nil || *r.fetch.limits.WANDown != 1000 || *r.fetch.limits.WANUp != 300 {
		t.Errorf("limits %+v", r.fetch.limits)
	}
	res := r.box.Do(t.Context(), Command{Name: "set-limits", Args: json.RawMessage(`{"wan_down":0}`)})
	if res.Status != Done || *r.fetch.limits.WANDown != 0 {
		t.Errorf("%+v, limits %+v", res, r.fetch.limits)
	}
	r.box.Do(t.Context(), Command{Name: "pause"})
	next, err := New(r.box.o)
	if err != nil {
		t.Fatal(err)
	}
	next.applyLimits()
	if !r.fetch.paused || *r.fetch.limits.WANDown != 0 {
		t.Errorf("after a restart: paused %v, limits %+v", r.fetch.paused, r.fetch.limits)
	}
	at := RemoteAtStart(r.db, slog.New(slog.DiscardHandler))
	if at.NarrowReserve(1<<30) != 2<<30 || at.NarrowQuota(20<<30) != 20<<30 || at.NarrowPeers(24) != 24 {
		t.Errorf("at the next start: %+v", at)
	}
	// A slip of the pen must not empty the cache.
	refused, err = r.box.Narrow(Remote{Reserve: ptr(1 << 62)})
	if at = RemoteAtStart(r.db, slog.New(slog.DiscardHandler)); err != nil || !slices.Equal(refused, []string{"reserve"}) || at.Reserve != nil {
		t.Errorf("a reserve of the whole disk: refused %v, %v; at the next start %+v", refused, err, at)
	}
}

func TestProbeNamesWhatIsStuck(t *testing.T) {
	r := newRig(t)
	if err := r.box.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	r.fetch.dead = true
	if err := r.box.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "fetch") {
		t.Errorf("%v", err)
	}
	var p probes
	hang := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var started atomic.Int32
	for range 5 {
		err := p.ask(ctx, "x", func() error { started.Add(1); <-hang; return nil })
		if err == nil || !strings.Contains(err.Error(), "x does not answer") {
			t.Errorf("%v", err)
		}
	}
	close(hang)
	if n := started.Load(); n > 1 {
		t.Errorf("%d probes wait for one service", n)
	}
}

func TestSecretsAreRemoved(t *testing.T) {
	for _, s := range []string{
		"token=abcdef", "Authorization: Bearer abcdefghijkl", "https://user:pass@host/x", "bt1-ABC_def",
		"-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\ncut off",
	} {
		if got := scrubSecrets("before " + s + " after"); strings.Contains(got, "abcdef") || strings.Contains(got, "pass") ||
			strings.Contains(got, "ABC") || strings.Contains(got, "MHc") || strings.Contains(got, "cut off") {
			t.Errorf("%q became %q", s, got)
		}
	}
	r := newRig(t)
	slog.New(r.ring.Handler(slog.DiscardHandler)).Info("enrolling", "url", "https://x/?token=sesame")
	r.ring.add("enrolling with token=sesame")
	r.ring.add("url=https://operator:hunter2@fleet/ Authorization: Bearer 0123456789abcdef")
	r.ring.add("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIKey\n-----END EC PRIVATE KEY-----")
	report := readReport(t, r.box)
	for _, secret := range []string{"sesame", "hunter2", "0123456789abcdef", "MHcCAQEEIKey", "verysecret"} {
		for name, text := range report {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q in it", name, secret)
			}
		}
	}
	if c := r.cfg.Redacted(); c.Fleet.Token == r.cfg.Fleet.Token {
		t.Error("the token is in the redacted configuration")
	}
}

// readReport unpacks a bug report, which must hold all its parts.
func readReport(t *testing.T, b *Box) map[string]string {
	t.Helper()
	var buf bytes.Buffer
	if err := b.BugReport(t.Context(), &buf); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&buf)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		text, readErr := io.ReadAll(tr)
		if err != nil || readErr != nil {
			t.Fatal(err, readErr)
		}
		parts[h.Name] = string(text)
	}
	for _, want := range []string{"status.json", "doctor.json", "config.json", "cache.json", "log.txt", "goroutines.txt", "build.txt"} {
		if len(parts["boxd-bugreport/"+want]) < 10 {
			t.Errorf("%s is missing or empty", want)
		}
	}
	if !strings.Contains(parts["boxd-bugreport/log.txt"], "[removed]") {
		t.Error("the log has lost more than its secrets")
	}
	return parts
}

func TestDoctorSaysWhatToDo(t *testing.T) {
	r := newRig(t)
	d := r.box.doctor()
	d.Fleet, d.Brokers = "https://127.0.0.1:1", []string{"tls://127.0.0.1:1"}
	d.Dirs = []string{t.TempDir(), "/nonexistent/dir"}
	checks := Diagnose(t.Context(), d)
	byName := map[string]CheckStatus{}
	for _, c := range checks {
		if c.Status != CheckOK && c.Action == "" {
			t.Errorf("%s: %s, and nothing to do", c.Name, c.Text)
		}
		if byName[c.Name] != CheckFailed {
			byName[c.Name] = c.Status
		}
	}
	for name, want := range map[string]CheckStatus{
		"clock": CheckOK, "disk": CheckFailed, "trust": CheckFailed, "certificate": CheckOK, "fleet": CheckFailed,
		"broker": CheckFailed, "catalog": CheckFailed, "dns": CheckOK,
	} {
		if byName[name] != want {
			t.Errorf("%s: %s, want %s", name, byName[name], want)
		}
	}
}
