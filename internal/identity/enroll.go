package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"boxd/internal/durable"
	"boxd/internal/identity/pki"
)

const (
	estPath     = "/.well-known/est/"
	requestTime = 30 * time.Second
	// maxBackdate is how much earlier than the present a new certificate may begin.
	maxBackdate = 2 * time.Hour
)

// ErrRefused is wrapped by errors of Enroll and Renew when the fleet manager understood and said no.
var ErrRefused = errors.New("the fleet manager refuses")

// Refusal is what the fleet manager answered instead of a certificate.
type Refusal struct {
	Status     int           // HTTP status
	Code       string        // such as "token-expired"; empty when the server gave none
	Text       string        // for people
	RetryAfter time.Duration // zero when the server gave none
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%v (%d %s): %s", ErrRefused, r.Status, http.StatusText(r.Status), r.Text)
}

// Unwrap makes errors.Is(err, ErrRefused) true for answers that asking again will not change.
func (r *Refusal) Unwrap() error {
	if r.Status == http.StatusTooManyRequests || r.Status >= 500 {
		return nil
	}
	return ErrRefused
}

// enrollBase checks Options.EnrollURL.
func enrollBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("fleet manager's address: %w", err)
	}
	if u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("fleet manager's address %q: want https://host:port", s)
	}
	return u, nil
}

// Enroll asks for the first certificate with the token. Asking again with the same key gives the same box id, so a
// power cut between the answer and the disk costs nothing.
func (i *Identity) Enroll(ctx context.Context) error {
	i.issue.Lock()
	defer i.issue.Unlock()
	if i.Enrolled() {
		return nil
	}
	if i.opts.Token == "" || i.opts.EnrollURL == "" {
		return fmt.Errorf("enrol: %w, and has no token or no address to ask", ErrNotEnrolled)
	}
	i.mu.Lock()
	key := i.key
	i.mu.Unlock()
	certs, date, err := i.request(ctx, "simpleenroll", key, nil)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	if err := i.install(key, certs, date, false, digest(i.opts.Token)); err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	i.log.Info("enrolled", "box", i.BoxID(), "fleet", i.fleet, "group", i.Group(), "expires", i.Expires())
	return nil
}

// Renew asks for a new certificate for a new key, showing the old certificate, which may have expired. Old key and
// certificate stay in use until the new ones are on disk.
func (i *Identity) Renew(ctx context.Context) error {
	i.issue.Lock()
	defer i.issue.Unlock()
	old := i.credential()
	if old == nil {
		return fmt.Errorf("renew: %w", ErrNotEnrolled)
	}
	if i.opts.EnrollURL == "" {
		return errors.New("renew: no address to ask is configured")
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	certs, date, err := i.request(ctx, "simplereenroll", key, old)
	if err != nil {
		i.mu.Lock()
		i.denied = errors.Is(err, ErrRefused)
		i.refused = i.refused && !i.denied // an answer is an answer
		i.mu.Unlock()
		return fmt.Errorf("renew: %w", err)
	}
	if err := i.install(key, certs, date, true, old.token); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	i.log.Info("certificate renewed", "box", i.BoxID(), "serial", i.Serial(), "expires", i.Expires())
	return nil
}

// admittedAnew says that the certificate was taken from the box, and that it has been given another token since: the operator
// lets it in again. The token that once admitted it does not count: many boxes may have the same.
func (i *Identity) admittedAnew() bool {
	i.mu.Lock()
	c, denied := i.cred, i.denied
	i.mu.Unlock()
	return c != nil && i.opts.Token != "" && digest(i.opts.Token) != c.token && (denied || i.Revoked(c.peer.Serial))
}

// EnrollAgain asks with a new token and a new key in place of a certificate that was revoked or superseded. The old one stays
// until the new one is on disk.
func (i *Identity) EnrollAgain(ctx context.Context) error {
	i.issue.Lock()
	defer i.issue.Unlock()
	key, err := i.keyAgain()
	if err != nil {
		return fmt.Errorf("enrol again: %w", err)
	}
	certs, date, err := i.request(ctx, "simpleenroll", key, nil)
	if errors.Is(err, ErrRefused) {
		i.mu.Lock()
		i.denied = false // next it asks for a renewal: the operator may have mended that
		i.mu.Unlock()
		if err := durable.RemoveFile(i.opts.FS, i.path(againFile)); err != nil {
			i.log.Warn("key not removed", "error", err)
		}
	}
	if err != nil {
		return fmt.Errorf("enrol again: %w", err)
	}
	if err := i.install(key, certs, date, false, digest(i.opts.Token)); err != nil {
		return fmt.Errorf("enrol again: %w", err)
	}
	i.log.Info("enrolled again", "box", i.BoxID(), "fleet", i.fleet, "group", i.Group(), "expires", i.Expires())
	return nil
}

// digest names a token without telling it.
func digest(token string) string {
	if token == "" {
		return "none"
	}
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// request posts a certificate request and returns the certificates and the server's own time, if it told.
func (i *Identity) request(ctx context.Context, op string, key *ecdsa.PrivateKey, old *credential) (
	[]*x509.Certificate, time.Time, error,
) {
	base, err := enrollBase(i.opts.EnrollURL)
	if err != nil {
		return nil, time.Time{}, err
	}
	template := x509.CertificateRequest{Subject: pkix.Name{Organization: []string{i.fleet}}}
	if old != nil {
		template.RawSubject = old.leaf.RawSubject // RFC 7030, section 4.2.2; ours ignores it
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("make the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		base.JoinPath(estPath, op).String(), bytes.NewReader(pki.EncodeCSR(der)))
	if err != nil {
		return nil, time.Time{}, err
	}
	req.Header.Set("Content-Type", pki.TypeCSR)
	req.Header.Set("Content-Transfer-Encoding", "base64")
	if old == nil {
		req.SetBasicAuth(i.opts.DeviceSerial, i.opts.Token)
	}
	client := i.oneShot(i.enrollClient(base.Hostname(), old != nil))
	resp, err := client.Do(req)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, pki.MaxBody+1))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, time.Time{}, refusal(resp, body)
	}
	certs, err := pki.ParseCerts(body)
	date, _ := http.ParseTime(resp.Header.Get("Date"))
	return certs, date, err
}

// oneShot is an HTTP client for a single request: no proxy, no redirect, nothing kept.
func (i *Identity) oneShot(cfg *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: cfg, DisableKeepAlives: true, TLSHandshakeTimeout: handshakeTime,
			DialContext:            i.opts.DialContext,
			MaxResponseHeaderBytes: 16 << 10, ResponseHeaderTimeout: requestTime,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// refusal reads an answer that is not 200. Our fleet manager's text begins with a code: "token-expired: …".
func refusal(resp *http.Response, body []byte) *Refusal {
	const maxText = 300
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, string(body[:min(len(body), maxText)]))
	r := &Refusal{Status: resp.StatusCode, Text: strings.TrimSpace(strings.ToValidUTF8(text, "?"))}
	if code, rest, ok := strings.Cut(r.Text, ": "); ok && pki.ValidLabel(code) {
		r.Code, r.Text = code, rest
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		r.RetryAfter = min(time.Duration(n)*time.Second, time.Hour)
	}
	return r
}

// install takes an issued certificate into use, once it is on disk. A fresh key proves that the certificate was made
// just now, which makes its begin the fleet's own word on what time it is. date is what the server said; it is taken for
// the present when the certificate bears it out.
func (i *Identity) install(key *ecdsa.PrivateKey, certs []*x509.Certificate, date time.Time, fresh bool, token string) error {
	cred, err := newCredential(i.root, key, certs)
	if err != nil {
		return fmt.Errorf("the certificate that came: %w", err)
	}
	cred.token = token
	if now, ok := i.clock.own(); ok {
		// Two clocks disagree. The box keeps what it has until one of them is mended.
		if err := pki.CheckTime([]*x509.Certificate{cred.leaf}, now, true); err != nil {
			return fmt.Errorf("the certificate that came does not fit this box's synchronised clock: %w", err)
		}
	}
	if err := i.saveIdentity(cred); err != nil {
		return err
	}
	i.mu.Lock()
	i.cred, i.key, i.refused, i.denied = cred, nil, false, false
	i.mu.Unlock()
	i.resume.forget()
	d := date.Sub(cred.leaf.NotBefore)
	borneOut := d >= 0 && (d < maxBackdate || !fresh)
	switch {
	case !fresh:
		i.clock.raise(cred.leaf.NotBefore)
	case borneOut:
		i.clock.settle(cred.leaf.NotBefore, date)
	default:
		i.clock.settle(cred.leaf.NotBefore, time.Time{})
	}
	if borneOut {
		i.clock.setFleet(date)
	}
	i.opts.Health.Clear("identity-damaged")
	i.opts.Health.Clear("certificate-other-fleet")
	i.checkHealth()
	i.wake()
	return nil
}
