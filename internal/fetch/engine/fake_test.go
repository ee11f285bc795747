package engine

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // BEP 3
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"boxd/internal/asset"
)

// memStore keeps an asset in memory, with the rules of the cache.
type memStore struct {
	info    *asset.Info
	torrent []byte

	mu       sync.Mutex
	data     []byte
	have     []bool
	count    int
	markErr  error
	changed  chan struct{}
	rewrites int
}

func content(n int) []byte {
	b := make([]byte, n)
	r := mrand.NewChaCha8([32]byte{7})
	_, _ = r.Read(b)
	return b
}

func makeTorrent(t testing.TB, name string, data []byte, piece int) []byte {
	t.Helper()
	var hashes []byte
	for off := 0; off < len(data); off += piece {
		h := sha1.Sum(data[off:min(off+piece, len(data))]) //nolint:gosec // BEP 3
		hashes = append(hashes, h[:]...)
	}
	b, err := bencode.Marshal(map[string]any{"info": map[string]any{
		"name": name, "piece length": piece, "length": len(data), "pieces": string(hashes), "private": 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newStore(t testing.TB, torrent, data []byte) *memStore {
	t.Helper()
	info, err := asset.ParseTorrent(torrent)
	if err != nil {
		t.Fatal(err)
	}
	s := &memStore{
		info: info, torrent: torrent, data: make([]byte, info.Length), have: make([]bool, info.NumPieces()),
		changed: make(chan struct{}),
	}
	if data != nil {
		copy(s.data, data)
		for i := range s.have {
			s.have[i] = true
		}
		s.count = len(s.have)
	}
	return s
}

func (s *memStore) Info() *asset.Info        { return s.info }
func (s *memStore) Torrent() ([]byte, error) { return s.torrent, nil }

func (s *memStore) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, e := s.info.PiecesOf(off, int64(len(p)))
	for i := b; i < e; i++ {
		if s.have[i] {
			s.rewrites++
			return 0, errors.New("piece is verified")
		}
	}
	return copy(s.data[off:], p), nil
}

func (s *memStore) ReadVerifiedAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, e := s.info.PiecesOf(off, int64(len(p)))
	for i := b; i < e; i++ {
		if !s.have[i] {
			return 0, errors.New("not verified")
		}
	}
	return copy(p, s.data[off:]), nil
}

func (s *memStore) HashPiece(i int) ([20]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	off, n := s.info.PieceSpan(i)
	return sha1.Sum(s.data[off : off+n]), nil //nolint:gosec // BEP 3
}

func (s *memStore) MarkVerified(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.markErr != nil {
		return s.markErr
	}
	if !s.have[i] {
		s.have[i] = true
		s.count++
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *memStore) MarkMissing(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have[i] {
		s.count--
	}
	s.have[i] = false
	return nil
}

func (s *memStore) Have(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have[i]
}

// wait returns when n pieces are verified.
func (s *memStore) wait(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		s.mu.Lock()
		got, changed := s.count, s.changed
		s.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%d of %d pieces after 2 min", got, n)
		}
	}
}

func (s *memStore) equal(b []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Equal(s.data, b)
}

// fleet is a certificate authority for tests.
type fleet struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test fleet"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	f := &fleet{key: key, cert: cert, pool: x509.NewCertPool()}
	f.pool.AddCert(cert)
	return f
}

func (f *fleet) issue(t testing.TB, box string) tls.Certificate {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: box},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, f.cert, &key.PublicKey, f.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (f *fleet) check(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: f.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

// box is one engine with its listener.
type box struct {
	*Engine
	addr netip.AddrPort
}

// handshaking finishes the handshake before Accept returns, as the identity's mux does.
type handshaking struct{ net.Listener }

func (l handshaking) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c.(*tls.Conn).Handshake() == nil {
			return c, nil
		}
		_ = c.Close()
	}
}

func (f *fleet) box(t testing.TB, name string, change func(*Options)) *box {
	t.Helper()
	cert := f.issue(t, name)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: f.check,
	}
	opts := Options{
		ClientTLS: func(_, sni string) *tls.Config {
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ServerName: sni,
				InsecureSkipVerify: true, VerifyConnection: f.check, //nolint:gosec // VerifyConnection checks the chain
			}
		},
		PeerOf: func(cs tls.ConnectionState) (string, error) {
			return cs.PeerCertificates[0].Subject.CommonName, nil
		},
		Listener: handshaking{tls.NewListener(l, server)},
		Self:     func() string { return name },
		IsLAN:    func(netip.Addr) bool { return false },
	}
	if change != nil {
		change(&opts)
	}
	b := &box{Engine: New(opts), addr: netip.MustParseAddrPort(l.Addr().String())}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-b.Ready()
	return b
}

func all(p Priority, n int) []Priority {
	list := make([]Priority, n)
	for i := range list {
		list[i] = p
	}
	return list
}

// tick is a moment later.
func tick(t testing.TB) <-chan time.Time {
	select {
	case <-t.Context().Done():
		t.Fatal("the test is over")
	default:
	}
	return time.After(10 * time.Millisecond)
}
