package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Errors of Fetch that callers branch on.
var (
	ErrTooLong = errors.New("it is longer than allowed")
	ErrDigest  = errors.New("its SHA-256 is not the expected one")
	ErrNoEnd   = errors.New("the server does not say where it ends, so half of it would look like all of it: give its SHA-256")
	ErrPrivate = errors.New("the address is not a public one")
)

// Download says what Fetch gets.
type Download struct {
	URL      string
	Dir      string // a directory of its own is made in it
	Name     string // of the file; "" takes the last element of the URL's path
	SHA256   string // hexadecimal; "" takes what comes
	MaxBytes int64  // 0 means 1 TiB
	// AllowPrivate lets the URL lead to loopback, link-local and private addresses. Leave it false when the URL comes from
	// somebody who may not look into this machine's network.
	AllowPrivate bool
	Attempts     int                                     // connections in a row that bring nothing; 0 means 5
	Wait         func(attempt int) time.Duration         // before another connection; nil doubles from a second
	Progress     func(done, total int64)                 // total is -1 while it is not known
	Transport    func(*http.Transport) http.RoundTripper // nil takes it as it is; for tests and proxies
}

// Fetch downloads a file to publish it. It goes on where a broken connection left off, but only if the server still has the
// same version, and returns the path of the file and what removes it.
func Fetch(ctx context.Context, d Download) (file string, remove func(), err error) {
	u, err := url.Parse(d.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", nil, fmt.Errorf("fetch %q: not an http or https address", d.URL)
	}
	name := d.Name
	if name == "" {
		name = path.Base(u.Path)
	}
	if name == "." || name == "/" || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", nil, fmt.Errorf("fetch %s: the address ends in no file name; give one", u.Redacted())
	}
	dir, err := os.MkdirTemp(d.Dir, ".fetch-")
	if err != nil {
		return "", nil, fmt.Errorf("fetch %s: %w", u.Redacted(), err)
	}
	remove = func() { _ = os.RemoveAll(dir) } // a leftover wastes space, no more
	file = filepath.Join(dir, name)
	if err := d.fetch(ctx, file); err != nil {
		remove()
		return "", nil, fmt.Errorf("fetch %s: %w", u.Redacted(), err)
	}
	return file, remove, nil
}

func (d *Download) fetch(ctx context.Context, file string) error {
	if d.MaxBytes == 0 {
		d.MaxBytes = 1 << 40
	}
	if d.Attempts == 0 {
		d.Attempts = 5
	}
	if d.Wait == nil {
		d.Wait = func(attempt int) time.Duration { return time.Second << min(attempt, 6) }
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644) //nolint:gosec // what is published is public
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // Sync has told
	g := &getter{d: d, out: out, room: Roomy{Dir: d.Dir}, sum: sha256.New(), total: -1, client: d.client()}
	for barren := 0; ; {
		before := g.done
		done, err := g.connect(ctx)
		if done {
			break
		}
		if fatal := (*fatalError)(nil); errors.As(err, &fatal) || ctx.Err() != nil {
			return err
		}
		if barren++; g.done > before {
			barren = 0
		}
		if barren >= d.Attempts {
			return fmt.Errorf("%d attempts: %w", barren, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d.Wait(barren)):
		}
	}
	if got := hex.EncodeToString(g.sum.Sum(nil)); d.SHA256 != "" && !strings.EqualFold(got, d.SHA256) {
		return fmt.Errorf("%w: %s", ErrDigest, got)
	}
	return out.Sync()
}

func (d *Download) client() *http.Client {
	dialer := &net.Dialer{Timeout: 20 * time.Second}
	if !d.AllowPrivate {
		dialer.Control = func(_, address string, _ syscall.RawConn) error { // after DNS: a name cannot lead around it
			ap, err := netip.ParseAddrPort(address)
			if err != nil || !public(ap.Addr()) {
				return &fatalError{fmt.Errorf("%s: %w", address, ErrPrivate)}
			}
			return nil
		}
	}
	t := &http.Transport{
		DialContext: dialer.DialContext, TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: time.Minute,
		DisableCompression: true, Proxy: nil, ForceAttemptHTTP2: true,
	}
	if d.Transport != nil {
		return &http.Client{Transport: d.Transport(t)}
	}
	return &http.Client{Transport: t}
}

// fatalError is one that another attempt does not mend.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

type getter struct {
	d      *Download
	client *http.Client
	out    *os.File
	room   Roomy
	sum    interface {
		io.Writer
		Sum([]byte) []byte
		Reset()
	}
	done, total int64
	tag         string // strong ETag, or Last-Modified
}

// stalled ends a connection that brings nothing for so long.
const stalled = time.Minute

// connect makes one request. It is true when the file is complete.
func (g *getter) connect(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.d.URL, nil)
	if err != nil {
		return false, &fatalError{err}
	}
	if g.done > 0 && g.tag != "" {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(g.done, 10)+"-")
		req.Header.Set("If-Range", g.tag)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // read to the end or given up
	if err := g.begin(resp); err != nil {
		return false, err
	}
	watchdog := time.AfterFunc(stalled, cancel)
	defer watchdog.Stop()
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		watchdog.Reset(stalled)
		if n > 0 {
			if werr := g.take(buf[:n]); werr != nil {
				return false, &fatalError{werr}
			}
		}
		switch {
		case errors.Is(err, io.EOF) && (g.total < 0 || g.done == g.total):
			return true, nil
		case errors.Is(err, io.EOF):
			return false, io.ErrUnexpectedEOF
		case err != nil:
			return false, err
		}
	}
}

// begin reads the header: whether the body goes on where we are, or begins anew.
func (g *getter) begin(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusPartialContent && g.done > 0:
		want := fmt.Sprintf("bytes %d-%d/%d", g.done, g.total-1, g.total)
		if got := resp.Header.Get("Content-Range"); got != want {
			return &fatalError{fmt.Errorf("content range %q, want %q", got, want)}
		}
		return nil
	case resp.StatusCode == http.StatusOK:
		g.total = resp.ContentLength
		if g.total < 0 && resp.ProtoMajor < 2 && !slices.Contains(resp.TransferEncoding, "chunked") && g.d.SHA256 == "" {
			return &fatalError{ErrNoEnd}
		}
		if g.total > g.d.MaxBytes {
			return &fatalError{fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, g.total, g.d.MaxBytes)}
		}
		g.tag = resp.Header.Get("ETag")
		if !strings.HasPrefix(g.tag, `"`) {
			g.tag = resp.Header.Get("Last-Modified")
		}
		g.done = 0
		g.sum.Reset()
		return g.out.Truncate(0)
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return fmt.Errorf("HTTP status %d", resp.StatusCode)
	default:
		return &fatalError{fmt.Errorf("HTTP status %d", resp.StatusCode)}
	}
}

func (g *getter) take(p []byte) error {
	if g.done+int64(len(p)) > g.d.MaxBytes {
		return fmt.Errorf("%w: more than %d bytes", ErrTooLong, g.d.MaxBytes)
	}
	if err := g.room.look(len(p)); err != nil {
		return err
	}
	if _, err := g.out.WriteAt(p, g.done); err != nil {
		return err
	}
	_, _ = g.sum.Write(p) // a hash does not fail
	g.done += int64(len(p))
	if g.d.Progress != nil {
		g.d.Progress(g.done, g.total)
	}
	return nil
}
