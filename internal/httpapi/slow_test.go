package httpapi

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Whoever begins a body and does not go on is let go, whether the request is one that reads it or one that is refused.
func TestABodyThatDoesNotComeIsNotWaitedFor(t *testing.T) {
	s, err := New(Options{Box: newFakeBox(t, 10), Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	s.body = 50 * time.Millisecond
	srv := httptest.NewServer(s.hurry(s.guardLAN(s.lanRoutes())))
	defer srv.Close()
	for name, head := range map[string]string{
		"read":    "POST /pair HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n",
		"refused": "GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n",
	} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, head+"Content-Length: 100\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute)) // a connection has deadlines
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%s: the server still waits: %v", name, err)
		}
		_ = conn.Close() // it was only read
	}
}

// Work that takes longer than the body may is not ended by it.
func TestABodyThatCameDoesNotHurryTheWork(t *testing.T) {
	s, err := New(Options{Box: newFakeBox(t, 10), Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	s.body = 500 * time.Millisecond
	ended := make(chan error, 1)
	srv := httptest.NewServer(s.hurry(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var v struct{}
		readJSON(w, r, &v)
		select {
		case <-r.Context().Done():
		case <-time.After(2 * s.body):
		}
		ended <- r.Context().Err()
	})))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // it was only read
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the request was ended: %v", err)
	}
}
