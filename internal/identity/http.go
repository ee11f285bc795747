package identity

import (
	"net/http"
	"sync"
	"time"
)

// HTTPClient is for the fleet's own servers over FleetClient. It notes the Date of their answers as the fleet's time.
// timeout bounds a whole request, body included; zero leaves that to the request's context. Redirects are not followed.
func (i *Identity) HTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: i.Transport(&http.Transport{
			TLSHandshakeTimeout: handshakeTime, ForceAttemptHTTP2: true, DialContext: i.opts.DialContext,
			ResponseHeaderTimeout: requestTime, IdleConnTimeout: time.Minute, MaxIdleConns: 4, MaxConnsPerHost: 4,
			MaxResponseHeaderBytes: 16 << 10,
		}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Transport is for a client of the fleet's servers with settings of its own: base, over FleetClient. It shows the certificate that
// the box has now, notes the fleet's time, and has the certificate renewed when a server refuses it.
func (i *Identity) Transport(base *http.Transport) http.RoundTripper {
	base.TLSClientConfig = i.FleetClient()
	return &timed{i: i, next: base, serial: i.Serial()}
}

// RefusedHeader is set by a server of the fleet that answers 403 because of the certificate.
const RefusedHeader = "Boxd-Certificate"

// timed notes the fleet's time, and shows the certificate that the box has now: a connection that was made before
// enrolment or renewal carries none, or an old one, for as long as it lives.
type timed struct {
	i *Identity

	mu     sync.Mutex // guards what follows
	next   *http.Transport
	serial string // of the certificate when next was made
}

// transport returns the one whose connections show the certificate of now.
func (t *timed) transport() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if serial := t.i.Serial(); serial != t.serial {
		old := t.next
		t.next, t.serial = old.Clone(), serial
		old.CloseIdleConnections()
	}
	return t.next
}

func (t *timed) RoundTrip(req *http.Request) (*http.Response, error) {
	shown := t.i.Serial()
	resp, err := t.transport().RoundTrip(req)
	if err == nil && resp.TLS != nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil && resp.Header.Get("Age") == "" {
			t.i.SetFleetTime(date)
		}
		// Who is not enrolled yet is refused, too, and needs no other certificate; nor does who has got one meanwhile.
		if resp.StatusCode == http.StatusForbidden && resp.Header.Get(RefusedHeader) != "" &&
			shown != "" && shown == t.i.Serial() {
			t.i.noteRefused()
		}
	}
	return resp, err
}

// CloseIdleConnections lets http.Client.CloseIdleConnections through.
func (t *timed) CloseIdleConnections() { t.transport().CloseIdleConnections() }
