package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/control"
	"boxd/internal/health"
)

const testToken = "0123456789abcdef"

// fakeBox is a box with one asset of one file, of which the first `have` bytes are verified.
type fakeBox struct {
	id       asset.ID
	data     []byte
	file     *os.File // set: complete, and the bytes begin at fileOff
	fileOff  int64
	playback *control.Playback
	stuck    error

	mu      sync.Mutex // guards the fields below
	have    int64
	changed chan struct{}
	did     []control.Command
}

func newFakeBox(t *testing.T, size int) *fakeBox {
	t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + i>>8)
	}
	return &fakeBox{
		id: asset.ID{1, 2, 3}, data: data, have: int64(size), changed: make(chan struct{}),
		playback: control.NewPlayback(func(bool) {}, time.Now),
	}
}

func (b *fakeBox) Snapshot() *control.Snapshot {
	return &control.Snapshot{
		Schema: control.Schema, Version: "v1", State: control.StateIdle,
		Assets: []control.Asset{{ID: b.id, Name: "film.mp4", State: control.Ready}},
		Health: []health.Warning{{Code: "disk-full", Severity: health.Critical}},
	}
}

func (b *fakeBox) AssetFiles(asset.ID) (control.Asset, bool) { return control.Asset{}, false }
func (b *fakeBox) History() control.History                  { return control.History{} }
func (b *fakeBox) Day(d time.Duration) control.Day           { return control.Day{To: time.Unix(0, 0).Add(d)} }
func (b *fakeBox) Playback() *control.Playback               { return b.playback }
func (b *fakeBox) Probe(context.Context) error               { return b.stuck }
func (b *fakeBox) Ready() (bool, string)                     { return false, "no certificate yet" }

func (b *fakeBox) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *fakeBox) arrive(have int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.have = have
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *fakeBox) BugReport(_ context.Context, w io.Writer, _ ...control.ReportPart) error {
	_, err := io.WriteString(w, "report")
	return err
}

func (b *fakeBox) Do(_ context.Context, c control.Command) control.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.did = append(b.did, c)
	if c.Name != "refresh" {
		return control.Result{Status: control.NotDone, Code: control.CodeUnknown}
	}
	return control.Result{Status: control.Done}
}

func (b *fakeBox) OpenFile(ctx context.Context, id asset.ID, path string) (*control.Content, error) {
	if id != b.id {
		return nil, control.ErrNoAsset
	}
	if path != "film.mp4" {
		return nil, control.ErrNoFile
	}
	r := &fakeReader{box: b, ctx: ctx}
	c := &control.Content{
		ReadSeekCloser: r, Send: r.send, Name: path, Type: "video/mp4", ETag: `"x"`, Length: int64(len(b.data)),
	}
	return c, nil
}

// send hands the whole file on when there is one, else copies.
func (r *fakeReader) send(w io.Writer, n int64) (int64, error) {
	if r.box.file == nil {
		return io.CopyN(struct{ io.Writer }{w}, r, n)
	}
	if _, err := r.box.file.Seek(r.box.fileOff+r.pos, io.SeekStart); err != nil {
		return 0, err
	}
	sent, err := w.(io.ReaderFrom).ReadFrom(io.LimitReader(r.box.file,
		n)) //nolint:forcetypeassert // what the test is about
	r.pos += sent
	return sent, err
}

// fakeReader blocks for bytes that have not arrived.
type fakeReader struct {
	box *fakeBox
	ctx context.Context //nolint:containedctx // it stands for cache.Reader, whose reads end with the request
	pos int64
}

func (r *fakeReader) Close() error { return nil }

func (r *fakeReader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.pos
	case io.SeekEnd:
		off += int64(len(r.box.data))
	}
	r.pos = off
	return off, nil
}

func (r *fakeReader) Read(p []byte) (int, error) {
	for {
		r.box.mu.Lock()
		have, changed := r.box.have, r.box.changed
		r.box.mu.Unlock()
		if r.pos >= int64(len(r.box.data)) {
			return 0, io.EOF
		}
		if r.pos < have {
			n := copy(p, r.box.data[r.pos:have])
			r.pos += int64(n)
			return n, nil
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

type testServer struct {
	box  *fakeBox
	base string
	unix string
	lan  string
	srv  *Server
}

func start(t *testing.T, box *fakeBox, edit func(*Options)) *testServer {
	t.Helper()
	listen := func(network, addr string) net.Listener {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	sock := filepath.Join(t.TempDir(), "s")
	o := Options{
		Box: box, TCP: listen("tcp", "127.0.0.1:0"), Unix: listen("unix", sock), LAN: listen("tcp", "127.0.0.1:0"),
		Token:   testToken,
		Origins: []string{"https://player.example/"},
	}
	if edit != nil {
		edit(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &testServer{
		box: box, base: "http://" + o.TCP.Addr().String(), unix: sock, lan: "http://" + o.LAN.Addr().String(), srv: s,
	}
}

type call struct {
	method, url, body string
	header            map[string]string
	client            *http.Client
}

func (c call) do(t *testing.T) (*http.Response, string) {
	t.Helper()
	if c.method == "" {
		c.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(t.Context(), c.method, c.url, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range c.header {
		if k == "Host" {
			req.Host = v
		}
		req.Header.Set(k, v)
	}
	if c.client == nil {
		c.client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		defer c.client.CloseIdleConnections()
	}
	resp, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func (s *testServer) film() string { return s.base + "/assets/" + s.box.id.String() + "/film.mp4" }

func TestMediaRangesAndConditions(t *testing.T) {
	for _, whole := range []bool{false, true} {
		box := newFakeBox(t, 3<<20)
		if whole {
			f, err := os.Create(filepath.Join(t.TempDir(), "blob"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			box.fileOff = 1000
			if _, err := f.WriteAt(box.data, box.fileOff); err != nil {
				t.Fatal(err)
			}
			box.file = f
		}
		s := start(t, box, nil)
		resp, body := call{url: s.film()}.do(t)
		if resp.StatusCode != 200 || body != string(box.data) || resp.Header.Get("Content-Type") != "video/mp4" {
			t.Errorf("whole=%v: all: %s, %d bytes, %s", whole, resp.Status, len(body), resp.Header.Get("Content-Type"))
		}
		resp, body = call{url: s.film(), header: map[string]string{"Range": "bytes=2000000-2000009"}}.do(t)
		if resp.StatusCode != 206 || body != string(box.data[2000000:2000010]) ||
			resp.Header.Get("Content-Range") != "bytes 2000000-2000009/3145728" {
			t.Errorf("whole=%v: range: %s %v", whole, resp.Status, resp.Header)
		}
		resp, body = call{url: s.film(), header: map[string]string{"Range": "bytes=-5"}}.do(t)
		if resp.StatusCode != 206 || body != string(box.data[len(box.data)-5:]) {
			t.Errorf("whole=%v: suffix: %s %q", whole, resp.Status, body)
		}
		resp, _ = call{url: s.film(), header: map[string]string{"If-None-Match": `"x"`}}.do(t)
		if resp.StatusCode != 304 {
			t.Errorf("whole=%v: If-None-Match: %s", whole, resp.Status)
		}
		resp, body = call{url: s.film(), header: map[string]string{"Range": "bytes=0-1", "If-Range": `"old"`}}.do(t)
		if resp.StatusCode != 200 || len(body) != len(box.data) {
			t.Errorf("whole=%v: If-Range of another version: %s", whole, resp.Status)
		}
		resp, _ = call{url: s.film(), header: map[string]string{"Range": "bytes=99999999-"}}.do(t)
		if resp.StatusCode != 416 {
			t.Errorf("whole=%v: past the end: %s", whole, resp.Status)
		}
		resp, body = call{url: s.film(), method: http.MethodHead}.do(t)
		if resp.StatusCode != 200 || body != "" || resp.ContentLength != 3<<20 ||
			resp.Header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("whole=%v: HEAD: %s %d", whole, resp.Status, resp.ContentLength)
		}
	}
}

func TestMediaThatIsNotThere(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	for _, p := range []string{
		"/assets/zz/film.mp4", "/assets/" + asset.ID{9}.String() + "/film.mp4",
		"/assets/" + s.box.id.String() + "/x",
	} {
		if resp, body := (call{url: s.base + p}).do(t); resp.StatusCode != 404 || !strings.Contains(body, "no-such-asset") {
			t.Errorf("%s: %s %s", p, resp.Status, body)
		}
	}
}

func TestReadWaitsForBytesThatAreArriving(t *testing.T) {
	box := newFakeBox(t, 1<<20)
	box.have = 1000
	s := start(t, box, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.film(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, first); err != nil || !bytes.Equal(first, box.data[:1000]) {
		t.Fatalf("the first verified bytes: %v", err)
	}
	if n, active := box.playback.State(); n != 1 || !active {
		t.Errorf("%d players, active %v while one waits", n, active)
	}
	box.arrive(1 << 20)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(rest, box.data[1000:]) {
		t.Errorf("the rest: %d bytes, %v", len(rest), err)
	}
}

func TestOnlyLoopbackHosts(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	for host, want := range map[string]int{
		"127.0.0.1:8480": 200, "localhost": 200, "[::1]:8480": 200, "LOCALHOST:1": 200, "127.9.9.9": 200,
		"evil.example": 403, "192.168.1.5:8480": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example": 403,
	} {
		if resp, _ := (call{
			url:    s.base + "/api/v1/status",
			header: map[string]string{"Host": host},
		}).do(t); resp.StatusCode != want {
			t.Errorf("Host %s: %s, want %d", host, resp.Status, want)
		}
	}
}

func TestOtherOriginsReadNothingUnlessAllowed(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	for _, c := range []struct {
		header map[string]string
		want   int
	}{
		{map[string]string{"Origin": "https://evil.example"}, 403},
		{map[string]string{"Origin": "null"}, 403},
		{map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403},
		{map[string]string{"Sec-Fetch-Site": "same-origin"}, 200},
		{map[string]string{"Origin": "https://player.example", "Sec-Fetch-Site": "cross-site"}, 200},
	} {
		resp, _ := call{url: s.film(), header: c.header}.do(t)
		if resp.StatusCode != c.want {
			t.Errorf("%v: %s, want %d", c.header, resp.Status, c.want)
		}
		if allow := resp.Header.Get("Access-Control-Allow-Origin"); (allow != "") != (c.header["Origin"] == "https://player.example") {
			t.Errorf("%v: Access-Control-Allow-Origin %q", c.header, allow)
		}
	}
	resp, _ := call{url: s.film(), method: http.MethodOptions, header: map[string]string{
		"Origin": "https://player.example", "Access-Control-Request-Method": "GET",
		"Access-Control-Request-Private-Network": "true",
	}}.do(t)
	if resp.StatusCode != 204 || resp.Header.Get("Access-Control-Allow-Private-Network") != "true" {
		t.Errorf("preflight: %s %v", resp.Status, resp.Header)
	}
}

func TestWritesNeedJSONAndTheToken(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	const js = "application/json"
	for _, c := range []struct {
		kind, auth, body string
		want             int
	}{
		{"text/plain", "Bearer " + testToken, `{"name":"refresh"}`, 415},
		{js, "", `{"name":"refresh"}`, 401},
		{js, "Bearer wrong", `{"name":"refresh"}`, 401},
		{js, testToken, `{"name":"refresh"}`, 401},
		{js, "Bearer " + testToken, `{"name":"refresh","x":1}`, 400},
		{js, "Bearer " + testToken, `{"name":"refresh"}{}`, 400},
		{js, "Bearer " + testToken, `{"name":"explode"}`, 400},
		{js, "Bearer " + testToken, `{"name":"` + strings.Repeat("x", maxBody) + `"}`, 400},
		{js + "; charset=utf-8", "Bearer " + testToken, `{"name":"refresh"}`, 200},
	} {
		resp, _ := call{method: http.MethodPost, url: s.base + "/api/v1/commands", body: c.body, header: map[string]string{
			"Content-Type": c.kind, "Authorization": c.auth,
		}}.do(t)
		if resp.StatusCode != c.want {
			t.Errorf("%s %.20q %.40q: %s, want %d", c.kind, c.auth, c.body, resp.Status, c.want)
		}
	}
	if len(s.box.did) != 2 {
		t.Errorf("%d commands ran, want 2", len(s.box.did))
	}
	if resp, _ := (call{url: s.base + "/api/v1/bugreport"}).do(t); resp.StatusCode != 401 {
		t.Errorf("a bug report without the token: %s", resp.Status)
	}
}

func TestSocketKnowsItsPeer(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error,
	) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.unix)
	}}}
	defer client.CloseIdleConnections()
	post := call{
		method: http.MethodPost, url: "http://boxd/api/v1/commands", body: `{"name":"refresh"}`, client: client,
		header: map[string]string{"Content-Type": "application/json"},
	}
	if resp, body := post.do(t); resp.StatusCode != 200 {
		t.Errorf("our own user: %s %s", resp.Status, body)
	}
	if resp, _ := (call{url: "http://boxd/api/v1/bugreport", client: client}).do(t); resp.StatusCode != 200 {
		t.Errorf("bug report for our own user: %s", resp.Status)
	}
	check := newAdminCheck("no-such-group-here")
	check.own = 4242
	for uid, want := range map[uint32]bool{0: true, 4242: true, 1000: false} {
		if check.allows(&peer{uid: uid, groups: []uint32{100}}) != want {
			t.Errorf("uid %d: want %v", uid, want)
		}
	}
	if check.allows(nil) {
		t.Error("an unknown peer may change the box")
	}
	check.group = "daemon" // in every Debian's /etc/group, with gid 1
	if !check.allows(&peer{uid: 1000, groups: []uint32{1}}) || check.allows(&peer{uid: 1000, groups: []uint32{2}}) {
		t.Error("membership of the group does not decide")
	}
}

func TestHealthReadinessAndMetrics(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	if resp, _ := (call{url: s.base + "/healthz"}).do(t); resp.StatusCode != 200 {
		t.Errorf("healthz: %s", resp.Status)
	}
	if resp, body := (call{url: s.base + "/readyz"}).do(t); resp.StatusCode != 503 || !strings.Contains(body,
		"no certificate yet") {
		t.Errorf("readyz: %s %s", resp.Status, body)
	}
	s.box.stuck = errors.New("fetch does not answer")
	if resp, body := (call{url: s.base + "/healthz"}).do(t); resp.StatusCode != 503 || !strings.Contains(body,
		"fetch does not answer") {
		t.Errorf("healthz of a stuck box: %s %s", resp.Status, body)
	}
	_, body := call{url: s.base + "/metrics"}.do(t)
	for _, m := range families {
		if strings.Count(body, "# HELP "+m.name+" ") != 1 || strings.Count(body, "# TYPE "+m.name+" "+m.kind+"\n") != 1 {
			t.Errorf("%s: no HELP and TYPE", m.name)
		}
	}
	for _, line := range []string{
		`boxd_info{version="v1"} 1`, `boxd_assets{state="ready"} 1`, `boxd_health_warnings{severity="critical"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no %s in\n%s", line, body)
		}
	}
}

func TestPlaybackLease(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	post := call{
		method: http.MethodPost, url: s.base + "/api/v1/playback", body: `{"seconds":60}`,
		header: map[string]string{
			"Content-Type": "application/json", "Authorization": "Bearer " + testToken,
		},
	}
	if resp, body := post.do(t); resp.StatusCode != 200 || !strings.Contains(body, "until") {
		t.Fatalf("%s %s", resp.Status, body)
	}
	if _, active := s.box.playback.State(); !active {
		t.Error("not active after a lease")
	}
	post.method, post.body = http.MethodDelete, ""
	if resp, _ := post.do(t); resp.StatusCode != 200 {
		t.Errorf("DELETE: %s", resp.Status)
	}
	if _, active := s.box.playback.State(); active {
		t.Error("active after the lease was given back")
	}
	post.method = http.MethodPost
	for _, body := range []string{`{"seconds":0}`, `{"seconds":99999999}`, `{}`, `[]`} {
		post.body = body
		if resp, _ := post.do(t); resp.StatusCode != 400 {
			t.Errorf("%s: %s", body, resp.Status)
		}
	}
}

func TestEventsBeginWithTheStatus(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 64<<10)
	n, err := resp.Body.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_, data, ok := strings.Cut(strings.TrimSpace(string(buf[:n])), "data: ")
	var snap control.Snapshot
	if !ok || json.Unmarshal([]byte(data), &snap) != nil || snap.Version != "v1" {
		t.Errorf("first event %q", buf[:n])
	}
}

func TestPairing(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	if resp, _ := (call{url: s.lan + "/api/v1/status"}).do(t); resp.StatusCode != 401 {
		t.Errorf("unpaired: %s", resp.Status)
	}
	if resp, _ := (call{url: s.lan + "/"}).do(t); resp.StatusCode != 303 || resp.Header.Get("Location") != "/pair" {
		t.Errorf("unpaired /: %s", resp.Status)
	}
	for _, p := range []string{"/api/v1/pairing", "/metrics", "/assets/" + s.box.id.String() + "/film.mp4"} {
		if resp, _ := (call{url: s.lan + p}).do(t); resp.StatusCode == 200 {
			t.Errorf("%s is served to the home", p)
		}
	}
	_, body := call{url: s.lan + "/api/v1/pairing"}.do(t)
	if strings.Contains(body, `"here":true`) {
		t.Errorf("the home is told %s", body)
	}
	_, body = call{url: s.base + "/api/v1/pairing"}.do(t)
	var shown pairingAnswer
	if err := json.Unmarshal([]byte(body), &shown); err != nil || !shown.Enabled || len(shown.Code) != 6 {
		t.Fatalf("%s: %v", body, err)
	}
	clock := time.Now()
	s.srv.pair.now = func() time.Time { clock = clock.Add(2 * tryGap); return clock }
	pair := func(code string) *http.Response {
		resp, _ := call{
			method: http.MethodPost, url: s.lan + "/pair", body: `{"code":"` + code + `"}`,
			header: map[string]string{
				"Content-Type": "application/json",
			},
		}.do(t)
		return resp
	}
	if resp := pair("wrong"); resp.StatusCode != 403 {
		t.Errorf("a wrong code: %s", resp.Status)
	}
	resp := pair(shown.Code)
	if resp.StatusCode != 200 || len(resp.Cookies()) != 1 {
		t.Fatalf("the right code: %s", resp.Status)
	}
	cookie := map[string]string{"Cookie": resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value}
	if resp := pair(shown.Code); resp.StatusCode != 403 {
		t.Errorf("the code works twice: %s", resp.Status)
	}
	if resp, _ := (call{url: s.lan + "/api/v1/status", header: cookie}).do(t); resp.StatusCode != 200 {
		t.Errorf("paired: %s", resp.Status)
	}
	resp, _ = call{
		method: http.MethodPost, url: s.lan + "/api/v1/commands", body: `{"name":"refresh"}`,
		header: map[string]string{
			"Content-Type": "application/json", "Cookie": cookie["Cookie"], "Authorization": "Bearer " + testToken,
		},
	}.do(t)
	if resp.StatusCode != 405 || len(s.box.did) != 0 {
		t.Errorf("a write from the home: %s", resp.Status)
	}
	cookie["Host"] = "rebound.example"
	if resp, _ := (call{url: s.lan + "/api/v1/status", header: cookie}).do(t); resp.StatusCode != 403 {
		t.Errorf("a name of the internet: %s", resp.Status)
	}
	if _, _, err := s.srv.pair.current(); err != nil {
		t.Fatal(err)
	}
	for range codeTries {
		pair("000000x")
	}
	s.srv.pair.mu.Lock()
	defer s.srv.pair.mu.Unlock()
	if s.srv.pair.code != "" {
		t.Error("the code survives too many wrong tries")
	}
}
