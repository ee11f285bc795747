package lan

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/health"
)

// testCA is a throw-away fleet.
type testCA struct {
	fleet string
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	pool  *x509.CertPool
}

// Inside a synctest bubble it is the year 2000.
var (
	validFrom = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	validTo   = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newCA(t testing.TB, fleet string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fleet, Organization: []string{fleet}},
		NotBefore: validFrom, NotAfter: validTo, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{fleet: fleet, cert: cert, key: key, pool: x509.NewCertPool()}
	ca.pool.AddCert(cert)
	return ca
}

// testIdentity is a box's identity under a testCA.
type testIdentity struct {
	ca      *testCA
	cert    tls.Certificate
	changed chan struct{}

	mu sync.Mutex
	id string
}

func (ca *testCA) box(t testing.TB, id string) *testIdentity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: id, Organization: []string{ca.fleet}},
		NotBefore: validFrom, NotAfter: validTo,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &testIdentity{
		ca: ca, id: id, changed: make(chan struct{}),
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}
}

func (i *testIdentity) BoxID() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.id
}

func (i *testIdentity) Fleet() string            { return i.ca.fleet }
func (i *testIdentity) Changed() <-chan struct{} { return i.changed }

func (i *testIdentity) config(alpn string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{i.cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn},
		ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true, SessionTicketsDisabled: true, //nolint:gosec // VerifyConnection does
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: i.ca.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: time.Now(),
			})
			return err
		},
	}
}

func (i *testIdentity) SwarmClient(_, sni, alpn string) *tls.Config {
	cfg := i.config(alpn)
	cfg.ServerName = sni
	return cfg
}

func (i *testIdentity) Client(ctx context.Context, raw net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	c := tls.Client(raw, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

func testPeerOf(cs tls.ConnectionState) (id, fleet string, err error) {
	if len(cs.PeerCertificates) == 0 {
		return "", "", errors.New("no certificate")
	}
	s := cs.PeerCertificates[0].Subject
	return s.CommonName, s.Organization[0], nil
}

// handshaken is a listener whose connections have done their TLS handshake, as the ALPN mux gives them.
func handshaken(l net.Listener, cfg *tls.Config) net.Listener {
	h := &handshakes{Listener: l, conns: make(chan net.Conn), closed: make(chan struct{})}
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				c := tls.Server(raw, cfg)
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				if c.HandshakeContext(ctx) != nil {
					_ = raw.Close()
					return
				}
				select {
				case h.conns <- c:
				case <-h.closed:
					_ = raw.Close()
				}
			}()
		}
	}()
	return h
}

type handshakes struct {
	net.Listener
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (h *handshakes) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handshakes) Close() error {
	h.once.Do(func() { close(h.closed) })
	return h.Listener.Close()
}

// simNet is a home network in memory that can be cut.
type simNet struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*simListener
	cut       func(a, b netip.Addr) bool
	relays    int // goroutines that carry bytes
}

func newSimNet() *simNet { return &simNet{listeners: map[netip.AddrPort]*simListener{}} }

func (n *simNet) setCut(cut func(a, b netip.Addr) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

func (n *simNet) isCut(a, b netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut != nil && n.cut(a, b)
}

type simListener struct {
	net    *simNet
	at     netip.AddrPort
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (n *simNet) listen(at netip.AddrPort) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &simListener{net: n, at: at, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[at] = l
	return l
}

func (l *simListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

func (l *simListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *simListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		if l.net.listeners[l.at] == l {
			delete(l.net.listeners, l.at)
		}
	})
	return nil
}

type simConn struct {
	net.Conn
	remote net.Addr
}

func (c simConn) RemoteAddr() net.Addr { return c.remote }

func (n *simNet) dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	if n.isCut(from, to.Addr()) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	n.mu.Lock()
	l := n.listeners[to]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%s: refused", to)
	}
	a, aIn := net.Pipe()
	b, bIn := net.Pipe()
	go n.relay(aIn, bIn, from, to.Addr())
	go n.relay(bIn, aIn, to.Addr(), from)
	far := simConn{b, net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 40000))}
	select {
	case l.conns <- far:
		return simConn{a, net.TCPAddrFromAddrPort(to)}, nil
	case <-l.closed:
		_, _ = a.Close(), b.Close()
		return nil, fmt.Errorf("%s: refused", to)
	case <-ctx.Done():
		_, _ = a.Close(), b.Close()
		return nil, ctx.Err()
	}
}

// relay carries bytes one way. What is sent into a cut is lost, and so is the news that an end closed.
func (n *simNet) relay(from, to net.Conn, a, b netip.Addr) {
	n.mu.Lock()
	n.relays++
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.relays--
		n.mu.Unlock()
	}()
	buf := make([]byte, 32<<10)
	for {
		k, err := from.Read(buf)
		if n.isCut(a, b) {
			if err != nil {
				return
			}
			continue
		}
		if err == nil {
			_, err = to.Write(buf[:k])
		}
		if err != nil {
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

// simBox is a LAN in a simNet.
type simBox struct {
	*LAN
	ip     netip.Addr
	cancel context.CancelFunc
	done   chan struct{}
	health *health.Set
}

const simPort = 6880

func simIP(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 1, byte(10 + n)}) }

// simNICs is one interface on 192.168.1.0/24.
func simNICs(ip netip.Addr) func() ([]nic, error) {
	return func() ([]nic, error) {
		return []nic{{Interface: net.Interface{Name: "eth0"}, addrs: []netip.Prefix{netip.PrefixFrom(ip, 24)}}}, nil
	}
}

// start runs box number n, which is given the addresses of all boxes up to count as static neighbours.
func (n *simNet) start(t testing.TB, ident *testIdentity, number, count int) *simBox {
	t.Helper()
	opt := Options{Identity: ident, PeerOf: testPeerOf, Port: simPort}
	for i := range count {
		opt.Static = append(opt.Static, netip.AddrPortFrom(simIP(i), simPort).String())
	}
	return n.run(t, number, opt, func(l net.Listener) net.Listener { return handshaken(l, ident.config(ALPN)) })
}

// run runs box number n with these options, listening at its port as secure makes it.
func (n *simNet) run(t testing.TB, number int, opt Options, secure func(net.Listener) net.Listener) *simBox {
	t.Helper()
	b := &simBox{ip: simIP(number), done: make(chan struct{}), health: health.New(nil)}
	opt.Listener = secure(n.listen(netip.AddrPortFrom(b.ip, uint16(opt.Port))))
	opt.Health, opt.nics = b.health, simNICs(b.ip)
	opt.watch = func(ctx context.Context, _ chan<- struct{}) { <-ctx.Done() }
	opt.dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) { return n.dial(ctx, b.ip, to) }
	var err error
	if b.LAN, err = New(opt); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() {
		defer close(b.done)
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return b
}

// stop ends a box in order: its neighbours hear goodbye.
func (b *simBox) stop() {
	b.cancel()
	<-b.done
}

func (b *simBox) neighbours() (ids []string) {
	for _, n := range b.Neighbours() {
		ids = append(ids, n.ID)
	}
	return ids
}

func testID(n int) asset.ID {
	var id asset.ID
	for i := range id {
		id[i] = byte(n * (i + 7) * 37)
	}
	id[19] = byte(n)
	return id
}

func wants(ids ...asset.ID) Self {
	s := Self{WAN: true}
	for _, id := range ids {
		s.Wants = append(s.Wants, Want{ID: id, InFlight: true})
	}
	return s
}
