//go:build bench

package fetch

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
	"boxd/internal/fetch/engine"
	"boxd/internal/state"
)

// The test binary plays boxd's part in processes of their own, so that the system counts what they cost.
func TestMain(m *testing.M) {
	switch os.Getenv("ROLE") {
	case "":
		os.Exit(m.Run())
	case "seed":
		check(seed())
	case "leech":
		check(leech())
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// secure makes the connections mutual TLS with certificates of the moment: what they cost is the same as the fleet's.
func secure(o *engine.Options, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	o.Self = func() string { return name }
	o.PeerOf = func(cs tls.ConnectionState) (string, error) { return cs.PeerCertificates[0].Subject.CommonName, nil }
	o.ClientTLS = func(_, sni string) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ServerName: sni, InsecureSkipVerify: true} //nolint:gosec // a bench
	}
	if o.Listener != nil {
		o.Listener = handshaking{tls.NewListener(o.Listener, &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert,
		})}
	}
	return nil
}

type handshaking struct{ net.Listener }

func (l handshaking) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*tls.Conn).Handshake()
	}
	return c, err
}

// fileStore is a complete asset in a plain file, for seeding.
type fileStore struct {
	*os.File
	info    *asset.Info
	torrent []byte
}

func (s fileStore) Info() *asset.Info                               { return s.info }
func (s fileStore) Torrent() ([]byte, error)                        { return s.torrent, nil }
func (s fileStore) ReadVerifiedAt(p []byte, off int64) (int, error) { return s.ReadAt(p, off) }
func (s fileStore) HashPiece(i int) ([20]byte, error)               { return s.info.PieceHash(i), nil }
func (s fileStore) MarkVerified(int) error                          { return nil }
func (s fileStore) MarkMissing(int) error                           { return nil }
func (s fileStore) Have(int) bool                                   { return true }

// seed serves the asset to peers until it is killed.
func seed() error {
	torrent, err := os.ReadFile(os.Getenv("TORRENT"))
	if err != nil {
		return err
	}
	info, err := asset.ParseTorrent(torrent)
	if err != nil {
		return err
	}
	f, err := os.Open(os.Getenv("FILE"))
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	opts := engine.Options{Listener: ln, IsLAN: func(netip.Addr) bool { return true }}
	if os.Getenv("TLS") != "" {
		if err := secure(&opts, "box-seed"); err != nil {
			return err
		}
	}
	e := engine.New(opts)
	go func() {
		<-e.Ready()
		check(e.Load(fileStore{f, info, torrent}, engine.Policy{Complete: true, WANUp: true}, nil))
	}()
	return e.Run(context.Background())
}

type paper struct{ snap *catalog.Snapshot }

func (p paper) Snapshot() *catalog.Snapshot { return p.snap }
func (p paper) Changed() <-chan struct{}    { return nil }

type nobody struct{}

func (nobody) BoxID() string          { return "box-leech" }
func (nobody) Group() string          { return "north" }
func (nobody) Now() (time.Time, bool) { return time.Now(), true }

// leech fetches the asset with the real cache, from the peer PEER or from the origin, and ends when it is durable.
func leech() error {
	torrent, err := os.ReadFile(os.Getenv("TORRENT"))
	if err != nil {
		return err
	}
	info, err := asset.ParseTorrent(torrent)
	if err != nil {
		return err
	}
	dir := os.Getenv("DIR")
	db, err := state.Open(filepath.Join(dir, "state.db"), state.Options{})
	if err != nil {
		return err
	}
	c, err := cache.Open(cache.Options{Dir: filepath.Join(dir, "cache"), StateDir: dir, State: db, ScrubPeriod: -1})
	if err != nil {
		return err
	}
	opts := engine.Options{}
	if os.Getenv("TLS") != "" {
		if err := secure(&opts, "box-leech"); err != nil {
			return err
		}
	}
	camp := catalog.Campaign{V: 1, ID: "c", Group: "north", Assets: []catalog.AssetRef{{ID: info.ID}}}
	f, err := fetch.New(fetch.Options{
		Cache: fetch.FromCache(c), State: db, Identity: nobody{}, Probe: fetch.Probe{Off: true},
		Catalog: paper{&catalog.Snapshot{
			Version: 1, Expires: time.Now().Add(time.Hour), Campaigns: []catalog.Campaign{camp},
			Assets: map[asset.ID]*catalog.Asset{info.ID: {Info: info, Torrent: torrent, Name: "film"}},
		}},
		NewSwarm: fetch.NewEngine(opts, fetch.EngineOptions{}),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- c.Run(ctx) }()
	go func() { done <- f.Run(ctx) }()
	if r := os.Getenv("RATE"); r != "" {
		var n int64
		_, _ = fmt.Sscan(r, &n)
		f.Swarm().Down().SetRate(n)
	}
	peer, _ := netip.ParseAddrPort(os.Getenv("PEER"))
	for ready := false; !ready; {
		changed := f.Changed()
		if peer.IsValid() {
			f.Swarm().AddPeers(info.ID, engine.Peer{Addr: peer})
		}
		for _, a := range f.Status().Assets {
			ready = ready || a.State == fetch.Ready
		}
		if !ready {
			select {
			case <-changed:
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			return err
		}
	}
	return c.Close()
}
