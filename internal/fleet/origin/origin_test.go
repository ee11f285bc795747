package origin

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
)

var film = asset.ID{0xab, 1}

func setup(t *testing.T, opt Options) (*Handler, string) {
	t.Helper()
	dir := t.TempDir()
	base := filepath.Join(dir, "origin", film.String())
	for name, content := range map[string]string{
		filepath.Join(base, "film.mp4"):         "0123456789",
		filepath.Join(base, "series", "1.ts"):   "one",
		filepath.Join(dir, "secret"):            "secret",
		filepath.Join(dir, "origin", "not-ids"): "x",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../secret", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	opt.Dir = filepath.Join(dir, "origin")
	return New(opt), "/" + film.String() + "/"
}

func do(h http.Handler, method, target string, header ...string) *http.Response {
	req := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRangesAndCount(t *testing.T) {
	h, base := setup(t, Options{})
	r := do(h, "GET", base+"film.mp4")
	tag := r.Header.Get("ETag")
	if r.StatusCode != 200 || body(t, r) != "0123456789" || !strings.HasPrefix(tag, `"`) {
		t.Fatalf("whole: %d, ETag %s", r.StatusCode, tag)
	}
	r = do(h, "GET", base+"film.mp4", "Range", "bytes=2-4", "If-Range", tag)
	if r.StatusCode != 206 || body(t, r) != "234" || r.Header.Get("Content-Range") != "bytes 2-4/10" {
		t.Fatalf("range: %d %s", r.StatusCode, r.Header.Get("Content-Range"))
	}
	if r = do(h, "GET", base+"film.mp4", "Range", "bytes=2-4", "If-Range", `"other"`); r.StatusCode != 200 {
		t.Fatalf("range of another version: %d", r.StatusCode)
	}
	if r = do(h, "GET", base+"film.mp4", "Range", "bytes=10-"); r.StatusCode != 416 {
		t.Fatalf("beyond the end: %d", r.StatusCode)
	}
	if r = do(h, "GET", base+"film.mp4", "If-None-Match", tag); r.StatusCode != 304 {
		t.Fatalf("same version: %d", r.StatusCode)
	}
	if r = do(h, "HEAD", base+"film.mp4"); r.StatusCode != 200 || r.ContentLength != 10 {
		t.Fatalf("HEAD: %d, %d bytes", r.StatusCode, r.ContentLength)
	}
	if r = do(h, "GET", base+"series/1.ts"); r.StatusCode != 200 || body(t, r) != "one" {
		t.Fatalf("file of a directory: %d", r.StatusCode)
	}
	refused := int64(len("invalid range: failed to overlap\n"))
	if s := h.Sent(film); s.Bytes != 10+3+10+3+refused || h.All()[0] != s {
		t.Fatalf("counted %+v", s)
	}
}

func TestNothingElseIsServed(t *testing.T) {
	h, base := setup(t, Options{})
	for _, p := range []string{
		base, base + "series", base + "none", base + "link", base + "../../secret", base + "series/../../../secret",
		"/secret", "/not-ids", "/not-ids/x", "/" + strings.ToUpper(film.String()) + "/film.mp4", "/", base + "film.mp4/",
		base + "%2e%2e/%2e%2e/secret", base + "/film.mp4",
	} {
		if r := do(h, "GET", p); r.StatusCode != 404 || strings.Contains(body(t, r), "secret") {
			t.Errorf("%s: %d", p, r.StatusCode)
		}
	}
	if r := do(h, "POST", base+"film.mp4"); r.StatusCode != 405 {
		t.Errorf("POST: %d", r.StatusCode)
	}
}

func TestWhoIsServed(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	key := []byte("a signing key")
	h, base := setup(t, Options{
		RequireClientCert: true, Bearer: "cdn", SignKey: key, Now: func() time.Time { return now },
		Allowed: func(cn string, id asset.ID) bool { return cn == "box-1" && id == film },
	})
	get := func(cn, target, auth string) int {
		req := httptest.NewRequest("GET", target, nil)
		if cn != "" {
			cert := &x509.Certificate{Subject: pkix.Name{CommonName: cn}}
			req.TLS = &tls.ConnectionState{
				PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}},
			}
		}
		if auth != "" {
			req.Header.Set("Authorization", auth)
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		return rec.Code
	}
	file := base + "film.mp4"
	signed := file + "?" + SignURL(key, file, now.Add(time.Minute))
	late := file + "?" + SignURL(key, file, now.Add(-time.Second))
	other := base + "series/1.ts?" + SignURL(key, file, now.Add(time.Minute))
	for _, c := range []struct {
		what, cn, target, auth string
		want                   int
	}{
		{"nobody", "", file, "", 403},
		{"box", "box-1", file, "", 200},
		{"box that is not targeted", "box-2", file, "", 403},
		{"bearer", "", file, "Bearer cdn", 200},
		{"wrong bearer", "", file, "Bearer cdm", 403},
		{"basic", "", file, "Basic cdn", 403},
		{"signed", "", signed, "", 200},
		{"signed, late", "", late, "", 403},
		{"signed for another", "", other, "", 403},
	} {
		if got := get(c.cn, c.target, c.auth); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	if s := h.Sent(film); s.Denied != 6 || s.Requests != 3 || s.Bytes != 30 {
		t.Errorf("counted %+v", s)
	}
}

// A client that asks and then reads nothing is let go, and what it did not take is hardly counted.
func TestStalledClientIsLetGo(t *testing.T) {
	h, base := setup(t, Options{Stall: 50 * time.Millisecond})
	big := filepath.Join(h.opt.Dir, film.String(), "big")
	if err := os.WriteFile(big, make([]byte, 64<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	resp, err := http.Get(srv.URL + base + "big")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the handler still waits for a client that does not read")
	}
	if n := h.Sent(film).Bytes; n >= 64<<20 {
		t.Errorf("%d bytes counted", n)
	}
}

// A copy that is cut short on the disk ends the response short of its Content-Length: the client sees that bytes are missing.
func TestDamagedCopyIsNoticed(t *testing.T) {
	h, base := setup(t, Options{})
	file := filepath.Join(h.opt.Dir, film.String(), "film.mp4")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&truncating{ResponseWriter: w, file: file}, r)
	}))
	defer srv.Close()
	resp, err := http.Get(srv.URL + base + "film.mp4")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Fatalf("read %q without an error", b)
	}
}

// truncating cuts the file when the header has been sent.
type truncating struct {
	http.ResponseWriter
	file string
}

func (t *truncating) WriteHeader(code int) {
	t.ResponseWriter.WriteHeader(code)
	_ = os.Truncate(t.file, 3)
}
