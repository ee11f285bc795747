// Package ca is the fleet's certificate authority: it admits boxes by token, assigns their names, renews and revokes their
// certificates, and makes the certificates of the fleet's own servers.
//
// Invariants:
//   - A box gets the name that the CA chose, whatever its request says; of the request only the key is used.
//   - A name that was given is not given again, except to the same key, or by a token with which an operator says so.
//   - Every certificate of a box is in the ledger before it leaves; a token's uses are counted in the same transaction.
//   - A revoked certificate, and one that was superseded, cannot be renewed; an expired one can, and nothing else.
//   - The root's key is not needed here: only Init and RenewIntermediate use it.
package ca

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"boxd/internal/durable"
	"boxd/internal/identity"
	"boxd/internal/identity/pki"
)

// Options say where the CA lives.
type Options struct {
	Dir     string // made by Init
	Store   Store
	FS      durable.FS       // nil: the operating system's
	Now     func() time.Time // nil: time.Now
	BoxLife time.Duration    // life of a box's certificate; zero: 90 days
	Log     *slog.Logger     // nil: silent. One line for every enrolment, renewal, refusal and revocation
}

const (
	defaultBoxLife = 90 * 24 * time.Hour
	minBoxLife     = time.Minute
	maxChains      = 512 // boxes that are recognised without checking their signatures again: those that were here just now
	// backdate is how much earlier than now a box's certificate begins, for clocks that are a little slow.
	backdate = time.Hour
	// keepRevoked is how long after its end a revoked certificate stays on the list, for boxes whose clock is at their floor.
	keepRevoked = 2 * 365 * 24 * time.Hour
)

// CA is a certificate authority. Its methods may be called from any goroutine.
type CA struct {
	opts    Options
	log     *slog.Logger
	root    *x509.Certificate
	fleet   string
	boxes   issuer
	servers issuer
	chains  *pki.Cache
	slots   chan struct{} // bounds the requests that are worked on

	mu      sync.Mutex // guards the fields below
	revoked map[string]bool
	changed chan struct{}
}

// issuer is one intermediate.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Open reads a CA that Init made, and its list of revocations.
func Open(ctx context.Context, opts Options) (*CA, error) {
	if opts.Dir == "" || opts.Store == nil {
		return nil, errors.New("certificate authority: want a directory and a store")
	}
	if opts.FS == nil {
		opts.FS = durable.OS()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.BoxLife == 0 {
		opts.BoxLife = defaultBoxLife
	}
	if opts.BoxLife < minBoxLife {
		return nil, fmt.Errorf("certificate authority: certificates that live %s are too short-lived", opts.BoxLife)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	root, err := readCert(opts.FS, filepath.Join(opts.Dir, RootCert))
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	fleet, err := pki.FleetOf(root)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	opts.Now = notBefore(root.NotBefore, opts.Now)
	c := &CA{
		opts: opts, log: opts.Log, root: root, fleet: fleet, slots: make(chan struct{}, 4*runtime.GOMAXPROCS(0)),
		revoked: map[string]bool{}, changed: make(chan struct{}), chains: pki.NewCache(maxChains),
	}
	for role, to := range map[pki.Role]*issuer{pki.Boxes: &c.boxes, pki.Servers: &c.servers} {
		if *to, err = c.readIssuer(role); err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
	}
	return c, c.Reload(ctx)
}

// notBefore is a clock that never shows a time at which there was no fleet: a machine without a battery wakes in 1970, and
// must still be able to talk to itself.
func notBefore(begin time.Time, now func() time.Time) func() time.Time {
	return func() time.Time {
		if t := now(); t.After(begin) {
			return t
		}
		return begin
	}
}

// Now is the time by which this authority judges.
func (c *CA) Now() time.Time { return c.opts.Now() }

func (c *CA) readIssuer(role pki.Role) (issuer, error) {
	name := filepath.Join(c.opts.Dir, string(role)+".pem")
	cert, err := readCert(c.opts.FS, name)
	if err != nil {
		return issuer{}, err
	}
	key, err := readKey(c.opts.FS, name, nil)
	if err != nil {
		return issuer{}, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return issuer{}, fmt.Errorf("%s: key and certificate do not belong together", name)
	}
	if err := cert.CheckSignatureFrom(c.root); err != nil {
		return issuer{}, fmt.Errorf("%s: not issued by this root: %w", name, err)
	}
	return issuer{cert, key}, nil
}

// Fleet is the fleet id in the root certificate.
func (c *CA) Fleet() string { return c.fleet }

// RootPEM is the file that goes into the firmware.
func (c *CA) RootPEM() []byte { return certPEM(c.root) }

// ClientCAsPEM is what another program's TLS server (a broker) needs to judge boxes: the root and the boxes' intermediate.
func (c *CA) ClientCAsPEM() []byte {
	return append(certPEM(c.root), certPEM(c.boxes.cert)...)
}

// Changed returns a channel that is closed when the revocations change.
func (c *CA) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Pool has the fleet's root only, for a client of the fleet's servers.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.root)
	return p
}

// ServerPEM is ServerCert as files: the certificate with its intermediate, and the key.
func (c *CA) ServerPEM(hosts []string, ttl time.Duration) (cert, key []byte, err error) {
	tc, err := c.ServerCert(hosts, ttl)
	if err != nil {
		return nil, nil, err
	}
	for _, der := range tc.Certificate {
		cert = append(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(tc.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// peer verifies what a client showed, up to the moment: whether it has expired or is revoked is for the caller.
func (c *CA) peer(certs []*x509.Certificate) (*x509.Certificate, pki.Peer, error) {
	chain, err := pki.BuildChain(c.root, certs, pki.Boxes)
	if err != nil {
		return nil, pki.Peer{}, err
	}
	p, err := pki.PeerOf(chain[0])
	return chain[0], p, err
}

// VerifyPeer says which box is at the other end of a connection: chain, time and revocations are checked.
func (c *CA) VerifyPeer(cs tls.ConnectionState) (pki.Peer, error) {
	chain, err := c.chains.BuildChain(c.root, cs.PeerCertificates, pki.Boxes)
	if err != nil {
		return pki.Peer{}, err
	}
	for _, cert := range chain {
		if c.IsRevoked(pki.Serial(cert)) {
			return pki.Peer{}, fmt.Errorf("%w: %q", pki.ErrRevoked, cert.Subject.CommonName)
		}
	}
	if err := pki.CheckTime(chain, c.opts.Now(), true); err != nil {
		return pki.Peer{}, err
	}
	return pki.PeerOf(chain[0])
}

type peerKey struct{}

// PeerFrom is the box that RequireBox admitted.
func PeerFrom(ctx context.Context) (pki.Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(pki.Peer)
	return p, ok
}

// RequireBox lets only boxes of the fleet through whose certificate is valid now.
func (c *CA) RequireBox(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var cs tls.ConnectionState
		if r.TLS != nil {
			cs = *r.TLS
		}
		p, err := c.VerifyPeer(cs)
		if err != nil {
			w.Header().Set(identity.RefusedHeader, "refused") // the box renews when it has one to renew
			http.Error(w, "certificate-refused: "+err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, p)))
	})
}
