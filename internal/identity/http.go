package identity

import (
	"net/http"
	"time"
)

// HTTPClient is for the fleet's own servers over FleetClient. It notes the Date of their answers as the fleet's time.
// timeout bounds a whole request, body included; zero leaves that to the request's context. Redirects are not followed.
func (i *Identity) HTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &timed{i, &http.Transport{
			TLSClientConfig: i.FleetClient(), TLSHandshakeTimeout: handshakeTime, ForceAttemptHTTP2: true,
			DialContext:           i.opts.DialContext,
			ResponseHeaderTimeout: requestTime, IdleConnTimeout: time.Minute, MaxIdleConns: 4, MaxConnsPerHost: 4,
			MaxResponseHeaderBytes: 16 << 10,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type timed struct {
	i    *Identity
	next *http.Transport
}

func (t *timed) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err == nil && resp.TLS != nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil && resp.Header.Get("Age") == "" {
			t.i.SetFleetTime(date)
		}
	}
	return resp, err
}

// CloseIdleConnections lets http.Client.CloseIdleConnections through.
func (t *timed) CloseIdleConnections() { t.next.CloseIdleConnections() }
