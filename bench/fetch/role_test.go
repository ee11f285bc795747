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
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

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
		if os.Getenv("IN_NAMESPACE") == "" {
			os.Exit(inNamespace())
		}
		os.Exit(m.Run())
	case "seed":
		check(profiled(seed))
	case "leech":
		check(profiled(func(context.Context) error { return leech() }))
	case "drain":
		check(drain())
	}
}

// profiled runs until SIGTERM and writes a CPU profile to the file that PROFILE names.
func profiled(run func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if name := os.Getenv("PROFILE"); name != "" {
		f, err := os.Create(name + "." + os.Getenv("ROLE") + os.Getenv("TLS"))
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return run(ctx)
}

// host is the address of everybody in the namespace: stock clients refuse peers of loopback.
const host = "192.0.2.1"

// inNamespace runs this program once more, in a network namespace of its own.
func inNamespace() int {
	script := "ip link set lo up && ip addr add " + host + "/32 dev lo && exec \"$0\" \"$@\""
	cmd := exec.Command("unshare", append([]string{"-n", "sh", "-c", script}, os.Args...)...)
	cmd.Env = append(os.Environ(), "IN_NAMESPACE=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
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

// seed serves the asset to peers until it is told to end: on SEEDS ports from PORT on, each a box of its own.
func seed(ctx context.Context) error {
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
	g, ctx := errgroup.WithContext(ctx)
	for i := range max(number("SEEDS"), 1) {
		ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, number("PORT")+i))
		if err != nil {
			return err
		}
		if rate := number("RATE"); rate > 0 {
			ln = line{ln, float64(rate)}
		}
		opts := engine.Options{Listener: ln, IsLAN: func(netip.Addr) bool { return true }}
		opts.Listener = engine.Wires(opts.Listener)
		opts.Block = number("BLOCK")
		if os.Getenv("TLS") != "" {
			if err := secure(&opts, fmt.Sprintf("box-seed%d", i)); err != nil {
				return err
			}
		}
		e := engine.New(opts)
		g.Go(func() error {
			<-e.Ready()
			return e.Load(fileStore{f, info, torrent}, engine.Policy{Complete: true, WANUp: true}, nil)
		})
		g.Go(func() error { return e.Run(ctx) })
	}
	return g.Wait()
}

func number(env string) int {
	n, _ := strconv.Atoi(os.Getenv(env))
	return n
}

// line sends as an access line delivers: a few packets at a time, so many bytes a second.
type line struct {
	net.Listener
	rate float64
}

func (l line) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lineConn{Conn: c, rate: l.rate}, nil
}

type lineConn struct {
	net.Conn
	rate float64
	due  time.Time
}

func (c *lineConn) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		part := min(3*1448, len(p)-n)
		if now := time.Now(); c.due.Before(now.Add(-5 * time.Millisecond)) {
			c.due = now
		}
		time.Sleep(time.Until(c.due))
		c.due = c.due.Add(time.Duration(float64(part) / c.rate * float64(time.Second)))
		var w int
		w, err = c.Conn.Write(p[n : n+part])
		n += w
	}
	return n, err
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
	opts := engine.Options{Block: number("BLOCK")}
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
		NewSwarm: fetch.NewEngine(opts, fetch.EngineOptions{Change: func(o *engine.Options) {
			o.IsLAN = func(netip.Addr) bool { return true }
		}}),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- c.Run(ctx) }()
	go func() { done <- f.Run(ctx) }()
	var peers []engine.Peer
	for i := range max(number("SEEDS"), 1) {
		if port := number("PORT"); port > 0 {
			addr := netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port+i))
			peers = append(peers, engine.Peer{Addr: addr})
		}
	}
	for ready := false; !ready; {
		changed := f.Changed()
		f.Swarm().AddPeers(info.ID, peers...)
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
