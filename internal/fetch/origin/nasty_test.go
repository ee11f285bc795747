package origin

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// nasty is a server on the wire: it reads requests and answers as it likes.
func nasty(t *testing.T, answer func(n int, r *http.Request, c net.Conn) (more bool)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	requests := make(chan int, 1)
	requests <- 0
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				in := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					n := <-requests + 1
					requests <- n
					if !answer(n, r, c) {
						return
					}
				}
			}()
		}
	}()
	return "http://" + ln.Addr().String() + "/film"
}

func asked(t *testing.T, r *http.Request) (from, to int) {
	t.Helper()
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
		t.Errorf("asked with %q", r.Header.Get("Range"))
	}
	return from, to + 1
}

func head(from, to, total, length int, more ...string) string {
	return fmt.Sprintf("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n%s\r\n", from, to-1, total,
		length, strings.Join(more, ""))
}

func TestServersThatAreRude(t *testing.T) {
	for name, c := range map[string]struct {
		want    error  // nil: any, or none
		says    string // in the error
		whole   bool   // it comes all the same, at the second try at the latest
		most    int64  // bytes that were taken, at most; 0: no matter
		answers func(data []byte) func(t *testing.T, n int, r *http.Request, c net.Conn) bool
	}{
		"compressed": {ErrEncoded, "gzip", false, 1, func(data []byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(t *testing.T, _ int, r *http.Request, c net.Conn) bool {
				from, to := asked(t, r)
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				_, _ = z.Write(data[from:to])
				_ = z.Close()
				_, _ = io.WriteString(c, head(from, to, len(data), b.Len(), "Content-Encoding: gzip\r\n"))
				_, _ = c.Write(b.Bytes())
				return true
			}
		}},
		"headers without end": {nil, "headers", false, 1, func([]byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(_ *testing.T, _ int, _ *http.Request, c net.Conn) bool {
				_, err := io.WriteString(c, "HTTP/1.1 206 Partial Content\r\n")
				for i := 0; err == nil && i < 1<<16; i++ {
					_, err = fmt.Fprintf(c, "X-%d: %s\r\n", i, strings.Repeat("x", 1000))
				}
				return false
			}
		}},
		"hints without end": {nil, "", false, 1, func([]byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(_ *testing.T, _ int, _ *http.Request, c net.Conn) bool {
				var err error
				for i := 0; err == nil && i < 1<<16; i++ {
					_, err = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
				}
				return false
			}
		}},
		"several parts at one time": {ErrWrongRange, "", false, 1, func(data []byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(_ *testing.T, _ int, _ *http.Request, c net.Conn) bool {
				_, _ = io.WriteString(c, "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x\r\n"+
					"Content-Length: 5\r\n\r\n--x\r\n")
				return true
			}
		}},
		"no such range": {ErrStatus, "416", false, 1, func(data []byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(_ *testing.T, _ int, _ *http.Request, c net.Conn) bool {
				_, _ = io.WriteString(c, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */7\r\nContent-Length: 0\r\n\r\n")
				return true
			}
		}},
		"more than was asked": {nil, "", true, 4 * pieceLen, func(data []byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(t *testing.T, _ int, r *http.Request, c net.Conn) bool {
				from, to := asked(t, r)
				_, _ = io.WriteString(c, head(from, to, len(data), to-from+1_000_000))
				_, _ = c.Write(data[from:to])
				_, _ = c.Write(make([]byte, 1_000_000))
				return true
			}
		}},
		"a whole file that is longer": {ErrRangeIgnored, "", false, 1, func(data []byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(_ *testing.T, _ int, _ *http.Request, c net.Conn) bool {
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(data)+1)
				_, _ = c.Write(data)
				return true
			}
		}},
		"less than it said": {nil, "", true, 4 * pieceLen, func(data []byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(t *testing.T, n int, r *http.Request, c net.Conn) bool {
				from, to := asked(t, r)
				_, _ = io.WriteString(c, head(from, to, len(data), to-from))
				if n == 1 {
					_, _ = c.Write(data[from : from+pieceLen+77])
					return false
				}
				_, _ = c.Write(data[from:to])
				return true
			}
		}},
		"a connection that is closed while nobody uses it": {nil, "", true, 4 * pieceLen, func(data []byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(t *testing.T, n int, r *http.Request, c net.Conn) bool {
				from, to := asked(t, r)
				_, _ = io.WriteString(c, head(from, to, len(data), to-from))
				_, _ = c.Write(data[from:to])
				return false
			}
		}},
		"not HTTP": {nil, "", false, 1, func([]byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(_ *testing.T, _ int, _ *http.Request, c net.Conn) bool {
				_, _ = c.Write(bytes.Repeat([]byte{0xff, 0}, 1<<16))
				return false
			}
		}},
		"bare feet and a negative length": {nil, "Content-Length", false, 1, func([]byte) func(*testing.T, int, *http.Request, net.Conn) bool {
			return func(_ *testing.T, _ int, _ *http.Request, c net.Conn) bool {
				_, _ = io.WriteString(c, "HTTP/1.1 206 Partial Content\r\nContent-Length: -5\r\n\r\n")
				return false
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			st, data := publish(t, file{"", 4 * pieceLen})
			answers := c.answers(data)
			u := nasty(t, func(n int, r *http.Request, c net.Conn) bool { return answers(t, n, r, c) })
			s := New(st, []string{u}, Options{Client: Client(nil)})
			var received int64
			var first Result
			for i, part := range [][2]int{{0, 2}, {2, 4}, {0, 4}} {
				res := s.Fetch(t.Context(), part[0], part[1])
				received += res.Received
				if i == 0 {
					first = res
				}
				if c.whole {
					s.cheer(0) // do not wait
				}
			}
			if st.complete() != c.whole || c.whole && !bytes.Equal(st.data, data) || c.most > 0 && received > c.most {
				t.Fatalf("whole: %v, %d bytes, %+v", st.complete(), received, first)
			}
			if !c.whole && (first.Err == nil || c.want != nil && !errors.Is(first.Err, c.want) || !strings.Contains(first.Err.Error(), c.says)) {
				t.Fatalf("%+v", first)
			}
		})
	}
}

// A server that sends other bytes and breaks off in each piece is found out, although no piece is its alone at one time.
func TestAServerThatLiesInHalves(t *testing.T) {
	st, data := publish(t, file{"", 4 * pieceLen})
	u := nasty(t, func(_ int, r *http.Request, c net.Conn) bool {
		from, to := asked(t, r)
		_, _ = io.WriteString(c, head(from, to, len(data), to-from))
		_, _ = c.Write(make([]byte, min(to-from, pieceLen/2)))
		return to-from <= pieceLen/2
	})
	s := New(st, []string{u}, Options{Client: Client(nil)})
	var received int64
	for range 20 {
		res := s.Fetch(t.Context(), 1, 2)
		received += res.Received
		if errors.Is(res.Err, ErrWrongBytes) {
			if received > 3*pieceLen {
				t.Errorf("%d bytes until it was found out", received)
			}
			return
		}
		s.mu.Lock()
		s.hosts[0].until = time.Time{} // do not wait
		s.mu.Unlock()
	}
	t.Fatalf("not found out after %d bytes", received)
}

// A server that asks to be left alone is not asked for another asset either; another server is.
func TestRetryAfterHoldsForAllAssets(t *testing.T) {
	one, data := publish(t, file{"", 4 * pieceLen})
	two, _ := publish(t, file{"", 4 * pieceLen})
	asked := 0
	busy := serve(t, data, func(w http.ResponseWriter, _ *http.Request) bool {
		asked++
		w.Header().Set("Retry-After", "300")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	servers := &Servers{}
	a := New(one, []string{busy}, Options{Client: Client(nil), Servers: servers})
	b := New(two, []string{busy + "?b", serve(t, data, nil)}, Options{Client: Client(nil), Servers: servers})
	c := New(two, []string{busy}, Options{Client: Client(nil), Servers: servers})
	now := time.Now()
	if res := a.Fetch(t.Context(), 0, 4); !errors.Is(res.Err, ErrStatus) {
		t.Fatalf("%+v", res)
	}
	if res := c.Fetch(t.Context(), 0, 4); !errors.Is(res.Err, ErrNotNow) || res.RetryAt.Sub(now) < 299*time.Second {
		t.Fatalf("%+v", res)
	}
	if res := b.Fetch(t.Context(), 0, 4); res.Err != nil || !two.complete() || asked != 1 {
		t.Fatalf("%+v, asked %d times", res, asked)
	}
}

func TestRedirectsThatLeadNowhere(t *testing.T) {
	st, data := publish(t, file{"", 4 * pieceLen})
	plain := serve(t, data, nil)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Proto != "HTTP/1.1" {
			t.Errorf("spoken to in %s", r.Proto)
		}
		http.Redirect(w, r, map[string]string{"/plain": plain, "/loop": "/loop", "/on": "/film"}[r.URL.Path], http.StatusFound)
	}))
	secure.EnableHTTP2 = true // and we do not speak it
	secure.StartTLS()
	defer secure.Close()
	pool := x509.NewCertPool()
	pool.AddCert(secure.Certificate())
	conf := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	for path, says := range map[string]string{"/plain": "away from https", "/loop": "more than 5 times"} {
		s := New(st, []string{secure.URL + path}, Options{Client: Client(conf)})
		if res := s.Fetch(t.Context(), 0, 4); !errors.Is(res.Err, ErrRedirect) || !strings.Contains(res.Err.Error(), says) || res.Received != 0 {
			t.Errorf("%s: %+v", path, res)
		}
	}
}

// The line breaks in the middle of TLS records: what came is kept, and the next request goes on there.
func TestAResetInTheMiddleOfTLS(t *testing.T) {
	st, data := publish(t, file{"", 4 * pieceLen})
	var ranges []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) > 1 {
			http.ServeContent(w, r, "film", time.Time{}, bytes.NewReader(data))
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, len(data)))
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data[:2*pieceLen])
		_ = http.NewResponseController(w).Flush()
		nc, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		raw := nc.(*tls.Conn).NetConn()
		_, _ = raw.Write([]byte{23, 3, 3, 0x40, 0, 1, 2, 3}) // the head of a record, and no more
		_ = raw.(*net.TCPConn).CloseWrite()
		_ = raw.Close()
	}))
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	s := New(st, []string{srv.URL}, Options{Client: Client(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})})
	res := s.Fetch(t.Context(), 0, 4)
	if res.Err == nil || res.Received > 2*pieceLen {
		t.Fatalf("%+v", res)
	}
	s.cheer(0) // do not wait
	again := s.Fetch(t.Context(), 0, 4)
	if again.Err != nil || !st.complete() || res.Received+again.Received != int64(len(data)) {
		t.Fatalf("%+v, %+v, asked %v", res, again, ranges)
	}
}

// A server that sends its headers one byte at a time is given up as one that sends bodies so.
func TestSlowHeadersAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done() // as the transport does while the headers are not whole
			return nil, r.Context().Err()
		})}
		st, _ := publish(t, file{"", pieceLen})
		s := New(st, []string{"http://origin.test/film"}, Options{Client: client})
		began := time.Now()
		if res := s.Fetch(t.Context(), 0, 1); !errors.Is(res.Err, ErrTooSlow) || time.Since(began) > 20*time.Second {
			t.Fatalf("%+v after %v", res, time.Since(began))
		}
	})
}

// What one asset is told does not hold for the others when it is about that asset alone, or comes from another server.
func TestRetryAfterOfOneAssetAlone(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		redirect bool
	}{
		"missing": {http.StatusNotFound, false}, "forbidden": {http.StatusForbidden, false},
		"range": {http.StatusRequestedRangeNotSatisfiable, false}, "elsewhere": {http.StatusServiceUnavailable, true},
	} {
		t.Run(name, func(t *testing.T) {
			one, data := publish(t, file{"", 4 * pieceLen})
			two, _ := publish(t, file{"", 4 * pieceLen})
			no := func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(c.status)
				return true
			}
			elsewhere := serve(t, data, no)
			front := serve(t, data, func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.URL.RawQuery != "a":
					return false
				case c.redirect:
					http.Redirect(w, r, elsewhere, http.StatusFound)
					return true
				}
				return no(w, r)
			})
			servers, now := &Servers{}, time.Now()
			a := New(one, []string{front + "?a"}, Options{Client: Client(nil), Servers: servers})
			b := New(two, []string{front + "?b"}, Options{Client: Client(nil), Servers: servers})
			if res := a.Fetch(t.Context(), 0, 4); !errors.Is(res.Err, ErrStatus) || res.RetryAt.Sub(now) < time.Hour {
				t.Fatalf("%+v", res)
			}
			if res := b.Fetch(t.Context(), 0, 4); res.Err != nil || !two.complete() {
				t.Fatalf("%+v", res)
			}
		})
	}
}

func TestServersAreLeftAloneUntilTheLaterMoment(t *testing.T) {
	var s Servers
	now := time.Now()
	for _, c := range []struct{ told, left time.Duration }{
		{5 * time.Minute, 5 * time.Minute}, {time.Second, 5 * time.Minute}, {24 * time.Hour, maxLeave}, {0, maxLeave},
	} {
		s.leave("http://a.test/x", now.Add(c.told), now)
		if got := s.until("http://a.test/y").Sub(now); got != c.left {
			t.Errorf("told %v, left alone for %v, want %v", c.told, got, c.left)
		}
	}
	if !s.until("https://a.test/x").IsZero() || !s.until("http://b.test/x").IsZero() {
		t.Error("another server is left alone")
	}
}

// A moment is judged by the clock of the server that names it, whatever ours shows.
func TestRetryAfterByTheServersClock(t *testing.T) {
	for _, year := range []int{1971, 2090} {
		date := time.Date(year, 1, 2, 3, 4, 5, 0, time.UTC)
		resp := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{
			"Date": {date.Format(http.TimeFormat)}, "Retry-After": {date.Add(2 * time.Minute).Format(http.TimeFormat)},
		}}
		var asked *askedError
		if err := statusError(resp); !errors.As(err, &asked) || asked.wait != 2*time.Minute || !asked.busy {
			t.Errorf("%d: %v", year, err)
		}
	}
}

// A server that says "retry at once" of what is not there is not asked each second for ever.
func TestRetryAfterOfNothing(t *testing.T) {
	t.Parallel()
	for _, wait := range []string{"0", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)} {
		err := statusError(&http.Response{StatusCode: 404, Status: "404 Not Found", Header: http.Header{"Retry-After": {wait}}})
		if gone := (*goneError)(nil); !errors.As(err, &gone) {
			t.Errorf("Retry-After %s: %v", wait, err)
		}
	}
}
