// Package identitytest makes whole fleets for tests: a certificate authority and as many enrolled boxes as wanted, in a
// few lines. Nothing but tests may import it.
//
// Invariants: the certificates are those that the real authority issues; nothing listens on a port until Serve is called.
package identitytest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/identity"
	"boxd/internal/identity/pki"
)

// Fleet is a certificate authority in a temporary directory.
type Fleet struct {
	CA     *ca.CA
	Dir    string // of the authority
	CAFile string // the root certificate, as the firmware has it
	tb     testing.TB
}

// New founds a fleet called "test". change, when given, may set options of the authority.
func New(tb testing.TB, change ...func(*ca.Options)) *Fleet {
	tb.Helper()
	return Named(tb, "test", change...)
}

// Named founds a fleet with this id.
func Named(tb testing.TB, fleet string, change ...func(*ca.Options)) *Fleet {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "ca")
	opts := ca.Options{Dir: dir}
	for _, c := range change {
		c(&opts)
	}
	init := ca.InitOptions{Fleet: fleet}
	if opts.Now != nil {
		init.Now = opts.Now()
	}
	must(tb, ca.Init(dir, init))
	if opts.Store == nil {
		store, err := ca.OpenStore(filepath.Join(dir, "ledger.db"))
		must(tb, err)
		tb.Cleanup(func() { must(tb, store.Close()) })
		opts.Store = store
	}
	authority, err := ca.Open(context.Background(), opts)
	must(tb, err)
	return &Fleet{CA: authority, Dir: dir, CAFile: filepath.Join(dir, ca.RootCert), tb: tb}
}

// Token makes an enrolment token for a group.
func (f *Fleet) Token(spec ca.TokenSpec) string {
	f.tb.Helper()
	token, _, err := f.CA.CreateToken(context.Background(), spec)
	must(f.tb, err)
	return token
}

// Box is an enrolled box with this id; change, when given, may set options before it is opened. No network is used.
func (f *Fleet) Box(id, group string, change ...func(*identity.Options)) *identity.Identity {
	f.tb.Helper()
	opts := f.Options()
	for _, c := range change {
		c(&opts)
	}
	must(f.tb, os.MkdirAll(opts.Dir, 0o700))
	must(f.tb, os.WriteFile(filepath.Join(opts.Dir, "identity.pem"), f.IdentityPEM(id, group), 0o600))
	box, err := identity.Open(opts)
	must(f.tb, err)
	return box
}

// Options are those of a box that is not enrolled, in a directory of its own, with a synchronised clock.
func (f *Fleet) Options() identity.Options {
	return identity.Options{Dir: filepath.Join(f.tb.TempDir(), "identity"), CAFile: f.CAFile, TimeSyncPath: f.CAFile}
}

// IdentityPEM enrols a box without its help and returns what its identity.pem would hold.
func (f *Fleet) IdentityPEM(id, group string) []byte {
	f.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(f.tb, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(f.tb, err)
	csr, err := pki.ParseCSR(pki.EncodeCSR(der))
	must(f.tb, err)
	token := f.Token(ca.TokenSpec{Group: group, BoxID: id})
	certs, err := f.CA.Enroll(context.Background(), token, "", csr)
	must(f.tb, err)
	return PEM(f.tb, key, certs)
}

// PEM writes a key and its chain as identity.pem has them.
func PEM(tb testing.TB, key *ecdsa.PrivateKey, certs []*x509.Certificate) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(tb, err)
	var b bytes.Buffer
	must(tb, pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for _, c := range certs {
		must(tb, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

// Serve runs the authority's enrolment service, and whatever else next serves, on a loopback port until the test ends, and
// returns its address, https://127.0.0.1:port.
func (f *Fleet) Serve(next http.Handler) string {
	f.tb.Helper()
	mux := http.NewServeMux()
	mux.Handle("/.well-known/est/", f.CA.Handler())
	if next != nil {
		mux.Handle("/", next)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(f.tb, err)
	srv := &http.Server{Handler: mux, TLSConfig: f.CA.ServerTLS("127.0.0.1", "localhost"), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ServeTLS(l, "", "") // ends with ErrServerClosed when the test does
	}()
	f.tb.Cleanup(func() {
		must(f.tb, srv.Close())
		<-done
	})
	return "https://" + l.Addr().String()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
