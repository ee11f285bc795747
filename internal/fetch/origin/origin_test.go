package origin

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"boxd/internal/asset"
	"boxd/internal/fetch/pace"
)

const pieceLen = 64 << 10

// memStore keeps an asset in memory, with the rules of the cache.
type memStore struct {
	info *asset.Info
	mu   sync.Mutex
	data []byte
	have []bool
	werr error
}

func (s *memStore) Info() *asset.Info { return s.info }
func (s *memStore) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.werr != nil {
		return 0, s.werr
	}
	if b, e := s.info.PiecesOf(off, int64(len(p))); e-b != 1 || s.have[b] {
		return 0, errors.New("piece is verified")
	}
	return copy(s.data[off:], p), nil
}

func (s *memStore) HashPiece(i int) ([20]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	off, n := s.info.PieceSpan(i)
	return sha1.Sum(s.data[off : off+n]), nil //nolint:gosec // BEP 3
}

func (s *memStore) MarkVerified(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have[i] = true
	return nil
}

func (s *memStore) MarkMissing(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have[i] = false
	return nil
}
func (s *memStore) Have(i int) bool { s.mu.Lock(); defer s.mu.Unlock(); return s.have[i] }

type file struct {
	path string
	n    int
}

// publish makes an asset of random bytes; one file with an empty path makes a single-file torrent.
func publish(t testing.TB, files ...file) (*memStore, []byte) {
	t.Helper()
	var data []byte
	rnd := rand.NewChaCha8([32]byte{3})
	info := map[string]any{"name": "my film", "piece length": pieceLen}
	var list []map[string]any
	for _, f := range files {
		b := make([]byte, f.n)
		_, _ = rnd.Read(b)
		data = append(data, b...)
		list = append(list, map[string]any{"length": f.n, "path": strings.Split(f.path, "/")})
	}
	if files[0].path == "" {
		info["length"] = len(data)
	} else {
		info["files"] = list
	}
	var hashes []byte
	for off := 0; off < len(data); off += pieceLen {
		h := sha1.Sum(data[off:min(off+pieceLen, len(data))]) //nolint:gosec // BEP 3
		hashes = append(hashes, h[:]...)
	}
	info["pieces"] = string(hashes)
	tor, err := bencode.Marshal(map[string]any{"info": info})
	if err != nil {
		t.Fatal(err)
	}
	in, err := asset.ParseTorrent(tor)
	if err != nil {
		t.Fatal(err)
	}
	return &memStore{info: in, data: make([]byte, len(data)), have: make([]bool, in.NumPieces())}, data
}

func (s *memStore) complete() bool {
	for i := range s.have {
		if !s.Have(i) {
			return false
		}
	}
	return true
}

// serve answers with data, as a single file, changed by hook (which reports that it answered).
func serve(t testing.TB, data []byte, hook func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hook != nil && hook(w, r) {
			return
		}
		http.ServeContent(w, r, "film", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/film"
}

func TestFetchSingleFileInOneRequest(t *testing.T) {
	st, data := publish(t, file{"", 10*pieceLen + 77})
	var requests, bytesSeen, pieces int
	u := serve(t, data, func(_ http.ResponseWriter, r *http.Request) bool { requests++; return false })
	s := New(st, []string{u}, Options{
		Client: Client(nil), OnBytes: func(n int) { bytesSeen += n }, OnPiece: func(int) { pieces++ },
		Buckets: []*pace.Bucket{pace.NewBucket(pace.Unlimited), pace.NewBucket(100 << 20)},
	})
	_ = st.MarkVerified(0)
	copy(st.data, data[:pieceLen])
	res := s.Fetch(t.Context(), 0, 11)
	if res.Err != nil || !st.complete() || !bytes.Equal(st.data, data) {
		t.Fatalf("%+v", res)
	}
	if want := int64(len(data) - pieceLen); requests != 1 || res.Received != want || int64(bytesSeen) != want ||
		pieces != 10 || res.Verified != 10 || res.Wasted != 0 {
		t.Fatalf("%d requests, %d bytes, %d pieces, %+v", requests, bytesSeen, pieces, res)
	}
}

func TestFetchManyFilesAndEscapedNames(t *testing.T) {
	st, data := publish(t, file{"a b/é?.m3u8", 100}, file{"empty", 0}, file{"seg/1.ts", 3 * pieceLen}, file{"z", 50_000})
	paths := map[string][]byte{
		"/base/my film/a b/é?.m3u8": data[:100], "/base/my film/seg/1.ts": data[100 : 100+3*pieceLen],
		"/base/my film/z": data[100+3*pieceLen:],
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := paths[r.URL.Path]
		if !ok {
			t.Errorf("asked for %q", r.URL.Path)
		}
		http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(b))
	}))
	defer srv.Close()
	s := New(st, []string{srv.URL + "/base/"}, Options{Client: Client(nil)})
	if res := s.Fetch(t.Context(), 0, st.info.NumPieces()); res.Err != nil || !bytes.Equal(st.data, data) || !st.complete() {
		t.Fatalf("%+v", res)
	}
}

// TestBadServers: each is noticed, named, left alone for a while, and never leaves a wrong byte that counts.
func TestBadServers(t *testing.T) {
	ranged := func(w http.ResponseWriter, v string, body []byte) {
		w.Header().Set("Content-Range", v)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(body)
	}
	for name, c := range map[string]struct {
		hook    func(data []byte) func(http.ResponseWriter, *http.Request) bool
		want    error
		atLeast time.Duration
	}{
		"other bytes": {func(data []byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(make([]byte, len(data))))
				return true
			}
		}, ErrWrongBytes, 20 * time.Second},
		"range ignored": {func(data []byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write(data); return true }
		}, ErrRangeIgnored, 7 * time.Minute},
		"another range": {func(data []byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool {
				ranged(w, fmt.Sprintf("bytes 0-%d/%d", pieceLen-1, len(data)), data[:pieceLen])
				return true
			}
		}, ErrWrongRange, 7 * time.Minute},
		"another length": {func(data []byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool {
				ranged(w, fmt.Sprintf("bytes %d-%d/%d", pieceLen, 2*pieceLen-1, len(data)+1), data[pieceLen:2*pieceLen])
				return true
			}
		}, ErrWrongRange, 7 * time.Minute},
		"retry after": {func([]byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Retry-After", "120")
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
		}, ErrStatus, 119 * time.Second},
		"gone": {func([]byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusGone); return true }
		}, ErrStatus, 7 * time.Minute},
		"redirect loop": {func([]byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "/film", http.StatusFound)
				return true
			}
		}, nil, 0},
		"cut short": {func(data []byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Length", fmt.Sprint(pieceLen))
				ranged(w, fmt.Sprintf("bytes %d-%d/%d", pieceLen, 2*pieceLen-1, len(data)), data[pieceLen:pieceLen+1000])
				return true
			}
		}, io.ErrUnexpectedEOF, 0},
	} {
		t.Run(name, func(t *testing.T) {
			st, data := publish(t, file{"", 4 * pieceLen})
			s := New(st, []string{serve(t, data, c.hook(data))}, Options{Client: Client(nil)})
			now := time.Now()
			res := s.Fetch(t.Context(), 1, 2)
			if res.Err == nil || (c.want != nil && !errors.Is(res.Err, c.want)) || st.Have(1) || res.Verified != 0 {
				t.Fatalf("%+v", res)
			}
			if res.RetryAt.Sub(now) < c.atLeast {
				t.Fatalf("asks again after %v, want at least %v", res.RetryAt.Sub(now), c.atLeast)
			}
			if c.atLeast > 0 {
				if again := s.Fetch(t.Context(), 1, 2); !errors.Is(again.Err, ErrNotNow) || again.Received != 0 {
					t.Fatalf("asked too early: %+v", again)
				}
			}
			if name == "other bytes" && (res.Received != pieceLen || res.Wasted != pieceLen) {
				t.Fatalf("counted %+v", res)
			}
		})
	}
}

func TestAPrefixOfAServerWithoutRangesIsUsed(t *testing.T) {
	st, data := publish(t, file{"", 4 * pieceLen})
	s := New(st, []string{serve(t, data, func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write(data); return true })},
		Options{Client: Client(nil)})
	if res := s.Fetch(t.Context(), 0, 3); res.Err != nil || res.Verified != 3 || res.Received != 3*pieceLen {
		t.Fatalf("%+v", res)
	}
}

func TestResumeGoesOnWhereItBroke(t *testing.T) {
	st, data := publish(t, file{"", 4 * pieceLen})
	var ranges []string
	u := serve(t, data, func(w http.ResponseWriter, r *http.Request) bool {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) > 1 {
			return false
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, len(data)))
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data[:pieceLen+5000])
		return true
	})
	s := New(st, []string{u}, Options{Client: Client(nil)})
	if res := s.Fetch(t.Context(), 0, 4); res.Err == nil || res.Verified != 1 {
		t.Fatalf("%+v", res)
	}
	s.cheer(0) // do not wait
	if res := s.Fetch(t.Context(), 1, 4); res.Err != nil || !st.complete() || res.Received != int64(3*pieceLen-5000) {
		t.Fatalf("%+v", res)
	}
	if want := fmt.Sprintf("bytes=%d-%d", pieceLen+5000, len(data)-1); ranges[1] != want {
		t.Fatalf("asked for %s, want %s", ranges[1], want)
	}
}

// TestAPieceLostHalfWayIsNotTheServersFault breaks off in a piece whose bytes are lost before the request that resumes it.
func TestAPieceLostHalfWayIsNotTheServersFault(t *testing.T) {
	st, data := publish(t, file{"", 4 * pieceLen})
	asked := 0
	u := serve(t, data, func(w http.ResponseWriter, _ *http.Request) bool {
		if asked++; asked > 1 {
			return false
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, len(data)))
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data[:pieceLen+5000])
		return true
	})
	s := New(st, []string{u}, Options{Client: Client(nil)})
	if res := s.Fetch(t.Context(), 0, 4); res.Err == nil || res.Verified != 1 {
		t.Fatalf("%+v", res)
	}
	s.cheer(0) // do not wait
	if err := st.MarkMissing(1); err != nil {
		t.Fatal(err)
	}
	clear(st.data[pieceLen : pieceLen+5000])
	res := s.Fetch(t.Context(), 1, 4)
	if res.Err != nil || res.Verified != 2 || res.Wasted != pieceLen-5000 || st.Have(1) {
		t.Fatalf("%+v, the lost piece is here: %v", res, st.Have(1))
	}
	if res := s.Fetch(t.Context(), 1, 4); res.Err != nil || !st.complete() || res.Received != pieceLen {
		t.Fatalf("%+v", res)
	}
}

// TestWhatAStoreRefusedIsNotTheServersFault: a player is being sent the old bytes of a lost piece, so nothing is written.
func TestWhatAStoreRefusedIsNotTheServersFault(t *testing.T) {
	st, data := publish(t, file{"", 2 * pieceLen})
	busy := errors.New("in use")
	st.werr = busy
	s := New(st, []string{serve(t, data, nil)}, Options{
		Client: Client(nil), Taken: func(err error) bool { return errors.Is(err, busy) },
	})
	if res := s.Fetch(t.Context(), 0, 2); res.Err != nil || res.Verified != 0 || res.Wasted != 2*pieceLen {
		t.Fatalf("%+v", res)
	}
	st.werr = nil
	if res := s.Fetch(t.Context(), 0, 2); res.Err != nil || !st.complete() {
		t.Fatalf("%+v", res)
	}
}

func TestSlowServersAreGivenUp(t *testing.T) {
	for name, drip := range map[string]func(*io.PipeWriter){
		"silent": func(*io.PipeWriter) {},
		"slow loris": func(w *io.PipeWriter) {
			for {
				if _, err := w.Write([]byte{1}); err != nil {
					return
				}
				time.Sleep(10 * time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			st, data := publish(t, file{"", 4 * pieceLen})
			synctest.Test(t, func(t *testing.T) {
				client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
					pr, pw := io.Pipe()
					context.AfterFunc(r.Context(), func() { _ = pw.CloseWithError(r.Context().Err()) })
					go drip(pw)
					h := http.Header{"Content-Range": {fmt.Sprintf("bytes 0-%d/%d", pieceLen-1, len(data))}}
					return &http.Response{StatusCode: 206, Header: h, Body: pr, ContentLength: pieceLen}, nil
				})}
				s := New(st, []string{"http://origin.test/film"}, Options{Client: client})
				began := time.Now()
				res := s.Fetch(t.Context(), 0, 1)
				if !errors.Is(res.Err, ErrTooSlow) || time.Since(began) > 45*time.Second {
					t.Fatalf("%+v after %v", res, time.Since(began))
				}
				time.Sleep(time.Minute) // the server notices that nobody listens
			})
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAStoreThatFailsIsNotTheServersFault(t *testing.T) {
	st, data := publish(t, file{"", 4 * pieceLen})
	st.werr = errors.New("no space left on device")
	s := New(st, []string{serve(t, data, nil)}, Options{Client: Client(nil)})
	res := s.Fetch(t.Context(), 0, 4)
	if !errors.Is(res.Err, ErrStore) || !errors.Is(res.Err, st.werr) || !s.RetryAt(time.Now()).IsZero() {
		t.Fatalf("%+v", res)
	}
}

func TestRedirectsAndASecondServer(t *testing.T) {
	st, data := publish(t, file{"", 4 * pieceLen})
	real := serve(t, data, nil)
	redirect := serve(t, data, func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, real, http.StatusFound)
		return true
	})
	gone := serve(t, data, func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(404); return true })
	s := New(st, []string{gone, redirect}, Options{Client: Client(nil)})
	if res := s.Fetch(t.Context(), 0, 4); res.Err == nil {
		t.Fatal("404 was taken")
	}
	if res := s.Fetch(t.Context(), 0, 4); res.Err != nil || !st.complete() {
		t.Fatalf("%+v", res)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"0": 0, "17": 17 * time.Second, "99999999999999999999999": maxAsked, "100000": maxAsked,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2020 03:05:05 GMT": 0,
	} {
		if got, ok := retryAfter(v, now); !ok || got != want {
			t.Errorf("%q: %v %v, want %v", v, got, ok, want)
		}
	}
	for _, v := range []string{"", "soon", "-5", "1.5"} {
		if _, ok := retryAfter(v, now); ok {
			t.Errorf("%q was taken", v)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{
		"bytes 0-1/2", "bytes 5-4/9", "bytes 0-0/*", "bytes */5", "bytes +1-2/3", "items 0-1/2",
		"bytes 0-9223372036854775807/*",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, to, total, err := parseContentRange(s)
		if err == nil && (from < 0 || to <= from || (total >= 0 && to > total)) {
			t.Fatalf("%q gave %d %d %d", s, from, to, total)
		}
		_, _ = retryAfter(s, time.Unix(0, 0))
	})
}
