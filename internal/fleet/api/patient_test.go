package api

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A reader that stops does not keep its answer for ever, one that goes on is waited for, and the next request on the same
// connection has a time of its own.
func TestAReaderThatStopsIsLetGo(t *testing.T) {
	ended := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := patient{w, http.NewResponseController(w), 100 * time.Millisecond}
		if r.URL.Path == "/short" {
			_, _ = p.Write([]byte("short"))
			return
		}
		for block := make([]byte, 1<<16); ; {
			if _, err := p.Write(block); err != nil {
				ended <- err
				return
			}
		}
	}))
	defer srv.Close()
	for range 2 {
		resp, err := http.Get(srv.URL + "/short")
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(resp.Body); err != nil || string(data) != "short" {
			t.Fatalf("%q, %v", data, err)
		}
		_ = resp.Body.Close()
	}
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /long HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended without an error")
		}
	case <-time.After(time.Minute):
		t.Error("the answer waits for ever")
	}
}
