package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// flaky serves content and breaks every connection after so many bytes.
type flaky struct {
	content  []byte
	tag      string
	breakAt  int
	requests int
	ranges   []string
	change   func(f *flaky)
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.requests++
	f.ranges = append(f.ranges, r.Header.Get("Range"))
	if f.change != nil && f.requests == 2 {
		f.change(f)
	}
	if f.tag != "" {
		w.Header().Set("ETag", f.tag)
	}
	if f.breakAt > 0 {
		w = &breaking{ResponseWriter: w, left: f.breakAt}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if len(p) > b.left {
		_, _ = b.ResponseWriter.Write(p[:b.left])
		panic(http.ErrAbortHandler)
	}
	b.left -= len(p)
	return b.ResponseWriter.Write(p)
}

func fetch(t *testing.T, h http.Handler, d Download) ([]byte, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	d.URL, d.AllowPrivate, d.Wait = srv.URL+"/a/film.mp4?token=x", true, func(int) time.Duration { return 0 }
	d.Dir = t.TempDir()
	file, remove, err := Fetch(context.Background(), d)
	if err != nil {
		nothingLeft(t, d.Dir)
		return nil, err
	}
	if filepath.Base(file) != "film.mp4" {
		t.Errorf("it is called %s", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	remove()
	nothingLeft(t, d.Dir)
	return b, nil
}

func TestFetch(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	got, err := fetch(t, &flaky{content: content}, Download{SHA256: strings.ToUpper(sum), MaxBytes: 1_000_000})
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if _, err := fetch(t, &flaky{content: content}, Download{SHA256: strings.Repeat("0", 64)}); !errors.Is(err, ErrDigest) {
		t.Errorf("wrong digest: %v", err)
	}
	if _, err := fetch(t, &flaky{content: content}, Download{MaxBytes: 999_999}); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
	chunked := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(content)
	})
	if got, err := fetch(t, chunked, Download{}); err != nil || !bytes.Equal(got, content) {
		t.Errorf("without a length: %d bytes, %v", len(got), err)
	}
	if _, err := fetch(t, chunked, Download{MaxBytes: 10}); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long without a length: %v", err)
	}
	if _, err := fetch(t, http.NotFoundHandler(), Download{}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("not found: %v", err)
	}
}

func TestFetchGoesOnAfterBreaks(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	f := &flaky{content: content, tag: `"v1"`, breakAt: 300_000}
	got, err := fetch(t, f, Download{Attempts: 2})
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if f.requests != 4 || f.ranges[1] == "" {
		t.Errorf("%d requests, ranges %q", f.requests, f.ranges)
	}
	// The server has another version when the connection is made again: nothing of the two is mixed.
	other := bytes.Repeat([]byte("abcdefghij"), 100_000)
	f = &flaky{content: content, tag: `"v1"`, breakAt: 300_000, change: func(f *flaky) { f.content, f.tag, f.breakAt = other, `"v2"`, 0 }}
	got, err = fetch(t, f, Download{})
	if err != nil || !bytes.Equal(got, other) {
		t.Fatalf("after a change: %d bytes, %v", len(got), err)
	}
	// A server that never gets further is given up.
	f = &flaky{content: content, breakAt: 10}
	if _, err := fetch(t, f, Download{Attempts: 3}); err == nil || f.requests > 8 {
		t.Errorf("%d requests, %v", f.requests, err)
	}
}

// A connection that just ends is no end of a file.
func TestFetchRefusesABodyWithoutAnEnd(t *testing.T) {
	const half = "only half of it came"
	endless := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, out, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = out.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + half)
		_ = out.Flush()
		_ = conn.Close()
	})
	if got, err := fetch(t, endless, Download{}); !errors.Is(err, ErrNoEnd) {
		t.Errorf("taken: %q, %v", got, err)
	}
	if got, err := fetch(t, endless, Download{SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(half)))}); err != nil || string(got) != half {
		t.Errorf("with its digest: %q, %v", got, err)
	}
	if _, err := fetch(t, endless, Download{SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(half+" and more")))}); !errors.Is(err, ErrDigest) {
		t.Errorf("with the digest of all of it: %v", err)
	}
}

func TestOnlyAddressesOfTheInternetArePublic(t *testing.T) {
	for _, a := range []string{
		"127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.169.254", "100.100.100.200", "100.64.0.1", "198.18.0.1", "0.1.2.3", "240.0.0.1",
		"255.255.255.255", "224.0.0.1", "::", "::1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "fec0::1",
		"fe80::1%eth0", "fd00::1", "ff02::1", "2001:db8::1", "2001::1", "::127.0.0.1", "",
	} {
		if ip, _ := netip.ParseAddr(a); public(ip) {
			t.Errorf("%q is taken for public", a)
		}
	}
	for _, a := range []string{"1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1", "100.128.0.1"} {
		if !public(netip.MustParseAddr(a)) {
			t.Errorf("%s is not taken for public", a)
		}
	}
}

func TestFetchRefusesAddresses(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	_, _, err := Fetch(context.Background(), Download{URL: srv.URL + "/secret", Dir: t.TempDir()})
	if !errors.Is(err, ErrPrivate) {
		t.Errorf("loopback: %v", err)
	}
	for _, u := range []string{"file:///etc/passwd", "ftp://a/b", "https://", "https://host/", "https://host/a/..", ":"} {
		if _, _, err := Fetch(context.Background(), Download{URL: u, Dir: t.TempDir()}); err == nil {
			t.Errorf("%s was accepted", u)
		}
	}
}
