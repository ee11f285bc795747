package origin

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// Back-off with full jitter: between nothing and the cap, which doubles.
const (
	firstWait = time.Second
	maxWait   = 5 * time.Minute
	goneWait  = 15 * time.Minute // what is forbidden or gone seldom comes back soon
	badWait   = time.Minute      // after a piece with a wrong hash; an hour after the third in a row
	maxAsked  = 24 * time.Hour   // the longest Retry-After that is believed
)

// askedError is a status that came with Retry-After.
type askedError struct {
	status string
	wait   time.Duration
	busy   bool   // the server has too much to do, whatever it is asked for
	host   string // who answered: after a redirect another than was asked
}

func (e *askedError) Error() string {
	return fmt.Sprintf("unexpected status %s, retry after %v", e.status, e.wait)
}
func (e *askedError) Unwrap() error { return ErrStatus }

// goneError is a status that will not change by itself.
type goneError struct{ status string }

func (e *goneError) Error() string { return "unexpected status " + e.status }
func (e *goneError) Unwrap() error { return ErrStatus }

func statusError(resp *http.Response) error {
	now := time.Now()
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now = date // the server's clock, by which it names a moment; ours may be in 1970
	}
	if wait, ok := retryAfter(resp.Header.Get("Retry-After"), now); ok && wait >= firstWait { // "at once" is no reason to ask for ever
		asked := &askedError{status: resp.Status, wait: wait}
		asked.busy = resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable
		if resp.Request != nil {
			asked.host = resp.Request.URL.Host
		}
		return asked
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone,
		http.StatusUnavailableForLegalReasons, http.StatusRequestedRangeNotSatisfiable:
		return &goneError{resp.Status}
	}
	return fmt.Errorf("%w %s", ErrStatus, resp.Status)
}

// retryAfter reads RFC 9110, section 10.2.3: seconds or a date.
func retryAfter(v string, now time.Time) (time.Duration, bool) {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0, false
	}
	if n, err := digits(v); err == nil {
		if n > int64(maxAsked/time.Second) {
			return maxAsked, true
		}
		return time.Duration(n) * time.Second, true
	}
	if strings.Trim(v, "0123456789") == "" { // more digits than fit
		return maxAsked, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), maxAsked), true
}

// backoff is how long to leave a server alone after fails faults before this one, bad of all being wrong bytes.
func backoff(err error, fails, bad int) time.Duration {
	var asked *askedError
	if errors.As(err, &asked) {
		return asked.wait + rand.N(time.Second+asked.wait/8) //nolint:gosec // spreads the fleet
	}
	limit := min(firstWait<<min(fails, 20), maxWait)
	var gone *goneError
	switch {
	case errors.Is(err, ErrWrongBytes) && bad >= 3:
		limit = time.Hour
	case errors.Is(err, ErrWrongBytes):
		limit = max(limit, badWait)
	case errors.As(err, &gone), errors.Is(err, ErrRangeIgnored), errors.Is(err, ErrWrongRange), errors.Is(err, ErrEncoded):
		limit = max(limit, goneWait)
	default:
		return rand.N(limit) //nolint:gosec // spreads the fleet
	}
	return limit/2 + rand.N(limit/2) //nolint:gosec // spreads the fleet
}

// Client returns an HTTP client for origins. It speaks HTTP/1.1, whose receive window is the connection's own, so that
// reading slowly slows the sender.
func Client(conf *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: conf, DisableCompression: true,
			MaxConnsPerHost: 4, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 20 * time.Second, MaxResponseHeaderBytes: 64 << 10,
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		},
		CheckRedirect: checkRedirect,
	}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return fmt.Errorf("%w: more than 5 times", ErrRedirect)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("%w: away from https", ErrRedirect)
	}
	return nil
}
