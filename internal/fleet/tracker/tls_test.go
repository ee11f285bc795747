package tracker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"

	"github.com/anacrolix/torrent/bencode"
)

// authority signs client certificates for tests.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	n    int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key: key, cert: cert, n: 1}
}

func (a *authority) client(t testing.TB, cn string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: cn}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve starts the tracker over TLS and returns clients with certificates of the given names; "" has none.
func (a *authority) serve(t testing.TB, tr *Tracker, names ...string) (base string, clients []*http.Client) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	srv := httptest.NewUnstartedServer(tr)
	srv.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, MinVersion: tls.VersionTLS13}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	for _, cn := range names {
		cfg := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		if cn != "" {
			cfg.Certificates = []tls.Certificate{a.client(t, cn)}
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
		t.Cleanup(c.CloseIdleConnections)
		clients = append(clients, c)
	}
	return srv.URL, clients
}

func announce(c *http.Client, base, query string) (map[string]any, int, error) {
	resp, err := c.Get(base + "/announce?info_hash=" + url.QueryEscape(string(film[:])) + "&peer_id=-BX0001-abcdefghijkl&" + query)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode, err
	}
	var m map[string]any
	return m, resp.StatusCode, bencode.Unmarshal(b, &m)
}

// The name that counts is the certificate's: two boxes with one peer_id and port are two, one box with two addresses is one.
func TestIdentityIsTheCertificate(t *testing.T) {
	a := newAuthority(t)
	tr := New(Options{Allowed: func(box string, _ asset.ID) bool { return box != "box-x" }})
	base, c := a.serve(t, tr, "box-a", "box-b", "", "box-x")
	for _, q := range []string{"port=1000&left=5", "port=1001&left=5"} {
		if m, _, err := announce(c[0], base, q); err != nil || m["incomplete"] != int64(1) {
			t.Fatalf("%v, %v", m, err)
		}
	}
	m, _, err := announce(c[1], base, "port=1000&left=5&ip=8.8.8.8")
	if err != nil || m["incomplete"] != int64(2) || m["peers"] != string([]byte{127, 0, 0, 1, 1001 >> 8, 1001 & 0xff}) {
		t.Fatalf("%v, %v", m, err)
	}
	if _, code, err := announce(c[2], base, "port=1000&left=5"); err != nil || code != http.StatusForbidden {
		t.Errorf("without a certificate: %d, %v", code, err)
	}
	if m, _, err := announce(c[3], base, "port=1000&left=5"); err != nil || m["failure reason"] == nil {
		t.Errorf("a box that is not targeted: %v, %v", m, err)
	}
	if complete, incomplete := tr.Swarm(film); complete != 0 || incomplete != 2 {
		t.Errorf("%d and %d", complete, incomplete)
	}
}

func TestConcurrentAnnounces(t *testing.T) {
	tr, _ := testTracker(Options{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				box := fmt.Sprintf("box-%d", (g*31+i)%200)
				m := Announce{ID: film, Box: box, Want: 50, Complete: i%7 == 0, Stopped: i%11 == 0}
				if _, err := tr.Announce(m); err != nil {
					t.Error(err)
				}
				if i%50 == 0 {
					tr.Expire()
				}
			}
		})
	}
	wg.Wait()
	complete, incomplete := tr.Swarm(film)
	shares := map[int]bool{}
	for i := range 200 {
		a, err := tr.Announce(Announce{ID: film, Box: fmt.Sprintf("box-%d", i)})
		if err != nil || a.ShareIndex < 0 || a.ShareIndex >= a.ShareOf || shares[a.ShareIndex] {
			t.Fatalf("box %d: share %d of %d, %v", i, a.ShareIndex, a.ShareOf, err)
		}
		shares[a.ShareIndex] = true
	}
	if complete+incomplete > 200 {
		t.Errorf("%d and %d of 200 boxes", complete, incomplete)
	}
}

// BenchmarkAnnounceTLS announces over kept TLS connections, as a box that has several assets does.
func BenchmarkAnnounceTLS(b *testing.B) {
	a := newAuthority(b)
	base, c := a.serve(b, New(Options{}), "box-a")
	for b.Loop() {
		if _, _, err := announce(c[0], base, "port=1000&left=5"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAnnounceHandshake connects anew each time, as boxes that announce every half an hour do.
func BenchmarkAnnounceHandshake(b *testing.B) {
	a := newAuthority(b)
	base, c := a.serve(b, New(Options{}), "box-a")
	for b.Loop() {
		if _, _, err := announce(c[0], base, "port=1000&left=5"); err != nil {
			b.Fatal(err)
		}
		c[0].CloseIdleConnections()
	}
}
