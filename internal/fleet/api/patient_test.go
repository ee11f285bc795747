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

// deadlines is an answer that counts how often its reader was given more time.
type deadlines struct {
	httptest.ResponseRecorder
	given int
}

func (d *deadlines) SetWriteDeadline(time.Time) error { d.given++; return nil }

// A large answer in one piece has as much time as the same in many.
func TestALargeAnswerIsGivenTimeByItsSize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, stallStep, stallStep + 1, 10 * stallStep} {
		w := &deadlines{ResponseRecorder: *httptest.NewRecorder()}
		p := patient{w, http.NewResponseController(w), time.Minute}
		n, err := p.Write(make([]byte, size))
		if want := max(1, (size+stallStep-1)/stallStep); err != nil || n != size || w.Body.Len() != size || w.given != want {
			t.Errorf("%d bytes: %d written, %v, time given %d times, want %d", size, n, err, w.given, want)
		}
	}
}
