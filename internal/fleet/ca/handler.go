package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"boxd/internal/identity/pki"
)

// Handler serves enrolment (RFC 7030) under /.well-known/est/: cacerts, simpleenroll with a token as the password of HTTP
// Basic (the user name is the hardware's serial number), simplereenroll with the old certificate. A refusal is text
// that begins with a code: "token-expired: …".
func (c *CA) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/est/cacerts", c.serveCACerts)
	mux.HandleFunc("POST /.well-known/est/simpleenroll", c.serveEnroll)
	mux.HandleFunc("POST /.well-known/est/simplereenroll", c.serveRenew)
	return mux
}

func (c *CA) serveCACerts(w http.ResponseWriter, _ *http.Request) {
	c.answer(w, []*x509.Certificate{c.root, c.boxes.cert, c.servers.cert}, nil)
}

func (c *CA) serveEnroll(w http.ResponseWriter, r *http.Request) {
	device, token, ok := r.BasicAuth()
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="enrolment"`)
		c.answer(w, nil, refuse(http.StatusUnauthorized, "token-missing", "enrolment needs a token"))
		return
	}
	csr, release, err := c.readCSR(w, r)
	if err != nil {
		c.answer(w, nil, err)
		return
	}
	defer release()
	certs, err := c.Enroll(r.Context(), token, device, csr)
	c.answer(w, certs, err)
}

func (c *CA) serveRenew(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		c.answer(w, nil, refuse(http.StatusForbidden, "certificate-missing", "renewal needs the old certificate"))
		return
	}
	csr, release, err := c.readCSR(w, r)
	if err != nil {
		c.answer(w, nil, err)
		return
	}
	defer release()
	certs, err := c.Renew(r.Context(), r.TLS.PeerCertificates, csr)
	c.answer(w, certs, err)
}

// readCSR takes a slot and the request. The caller gives the slot back when it is done.
func (c *CA) readCSR(w http.ResponseWriter, r *http.Request) (*x509.CertificateRequest, func(), error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != pki.TypeCSR {
		return nil, nil, refuse(http.StatusUnsupportedMediaType, "bad-request", "want a body of type %s", pki.TypeCSR)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, pki.MaxBody))
	if err != nil {
		return nil, nil, refuse(http.StatusBadRequest, "bad-request", "read the request: %v", err)
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return nil, nil, refuse(http.StatusServiceUnavailable, "busy", "too many boxes enrol at this moment")
	}
	release := func() { <-c.slots }
	csr, err := pki.ParseCSR(body)
	if err != nil {
		release()
		return nil, nil, refuse(http.StatusBadRequest, "bad-request", "%v", err)
	}
	return csr, release, nil
}

func (c *CA) answer(w http.ResponseWriter, certs []*x509.Certificate, err error) {
	var body []byte
	if err == nil {
		body, err = pki.EncodeCerts(certs)
	}
	var r *Refusal
	switch {
	case errors.As(err, &r):
		if r.Status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "2")
		}
		http.Error(w, r.Error(), r.Status)
	case err != nil:
		c.log.Error("certificate not issued", "error", err)
		w.Header().Set("Retry-After", "30")
		http.Error(w, "fault: the fleet manager has a fault, try again later", http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", pki.TypeCerts+"; smime-type=certs-only")
		w.Header().Set("Content-Transfer-Encoding", "base64")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body) // the box asks again when it does not arrive
	}
}
