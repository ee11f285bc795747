package fetch_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fetch"
)

// oneDown is an operator's two servers, of which the first is down, or busy for two minutes.
type oneDown struct {
	*memOrigin
	busy  bool
	first atomic.Int64 // requests
}

func (o *oneDown) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != "first.test" {
		return o.memOrigin.RoundTrip(r)
	}
	o.first.Add(1)
	if !o.busy {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{
		Status: "503 Service Unavailable", StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"120"}},
		Body: http.NoBody, Request: r, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// While one of an operator's servers is down, the other is asked at once.
func TestTheOtherServer(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newDay(t, "2026-06-05 12:00")
			a := d.publish("film", dayLine*20)
			d.campaign("noon", catalog.Campaign{NotBefore: d.now().Add(-time.Minute), Deadline: d.now().Add(time.Minute)}, a)
			o := &oneDown{memOrigin: d.origin, busy: busy}
			d.startWith(fetch.Options{
				Origin: &http.Client{Transport: o}, OriginURLs: []string{"http://first.test/", "http://second.test/"},
			})
			defer d.stop()
			d.wait(45 * time.Second)
			if s := d.asset(a); s.Verified != s.Length {
				t.Errorf("busy %v: %d of %d bytes, the first server was asked %d times: %s", busy, s.Verified, s.Length, o.first.Load(), s.OriginErr)
			}
			if o.first.Load() == 0 {
				t.Error("the first server was never asked: this shows nothing")
			}
		})
	}
}
