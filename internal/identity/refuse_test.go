package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/health"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
	"boxd/internal/identity/pki"
)

// handshake runs both ends and returns what each says.
func handshake(t *testing.T, server, client *tls.Config) (atServer, atClient error) {
	t.Helper()
	a, b := pair(t)
	done := make(chan error, 1)
	go func() {
		err := tls.Server(a, server).HandshakeContext(t.Context())
		if err != nil {
			a.Close()
		}
		done <- err
	}()
	atClient = tls.Client(b, client).HandshakeContext(t.Context())
	if atClient != nil {
		b.Close()
	}
	return <-done, atClient
}

// pair is two ends of a TCP connection, closed after the test. A pipe would not do: a server writes its session tickets
// before it has finished.
func pair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		c.SetDeadline(time.Now().Add(time.Minute))
		t.Cleanup(func() { c.Close() })
	}
	return server, client
}

// shows is the client configuration of somebody who presents a chain and believes anybody.
func shows(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{identity.ALPNSwarm}, Certificates: certs,
	}
}

// isServer presents a chain to whoever dials, and asks for nothing.
func isServer(cert tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{identity.ALPNSwarm}, Certificates: []tls.Certificate{cert}}
}

func boxCert(t *testing.T, box *identity.Identity) tls.Certificate {
	t.Helper()
	cert, err := box.SwarmServer().GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return *cert
}

func selfSigned(t *testing.T, name pkix.Name) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: name, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestWhoIsRefused(t *testing.T) {
	f, other := identitytest.New(t), identitytest.Named(t, "other")
	me, friend := f.Box("box-me", "g"), f.Box("box-friend", "g")
	revoked := f.Box("box-revoked", "g")
	me.SetRevoked([]string{revoked.Serial()})
	fleetServer, err := f.CA.ServerCert([]string{"box-me", "127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	bare := boxCert(t, friend)
	bare.Certificate = bare.Certificate[:1]
	mixed := boxCert(t, friend) // a box's certificate beside the servers' intermediate
	mixed.Certificate = [][]byte{mixed.Certificate[0], fleetServer.Certificate[1]}
	long := boxCert(t, friend)
	for range 5 {
		long.Certificate = append(long.Certificate, long.Certificate[1])
	}
	for _, c := range []struct {
		name string
		cert tls.Certificate
		want error
	}{
		{"a friend", boxCert(t, friend), nil},
		{"another fleet's box", boxCert(t, other.Box("box-friend", "g")), identity.ErrOtherFleet},
		{"a revoked box", boxCert(t, revoked), identity.ErrRevoked},
		{"a server of the fleet", fleetServer, identity.ErrWrongRole},
		{"without the intermediate", bare, identity.ErrOtherFleet},
		{"with the other intermediate", mixed, identity.ErrOtherFleet},
		{"with too long a chain", long, identity.ErrMalformed},
		{
			"self-signed under our name", selfSigned(t, pkix.Name{CommonName: "box-friend", Organization: []string{"test"}}),
			identity.ErrOtherFleet,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			atServer, _ := handshake(t, me.SwarmServer(), shows(c.cert))
			if !errors.Is(atServer, c.want) {
				t.Errorf("as one who dials: %v, want %v", atServer, c.want)
			}
			_, atClient := handshake(t, isServer(c.cert), me.SwarmClient("", "x.boxd", identity.ALPNSwarm))
			if !errors.Is(atClient, c.want) {
				t.Errorf("as one who is dialled: %v, want %v", atClient, c.want)
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		if atServer, _ := handshake(t, me.SwarmServer(), shows()); atServer == nil {
			t.Error("a client without a certificate was let in")
		}
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		old := shows(boxCert(t, friend))
		old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if atServer, _ := handshake(t, me.SwarmServer(), old); atServer == nil {
			t.Error("TLS 1.2 was taken")
		}
	})
	t.Run("another protocol", func(t *testing.T) {
		cfg := isServer(boxCert(t, friend))
		cfg.NextProtos = nil
		if _, err := handshake(t, cfg, me.SwarmClient("", "x.boxd", identity.ALPNHome)); err == nil {
			t.Error("a server that did not agree on the protocol was taken")
		}
	})
}

func TestBoxIsNoFleetServer(t *testing.T) {
	f := identitytest.New(t)
	me, evil := f.Box("box-me", "g"), f.Box("box-evil", "g")
	revokedServer, err := f.CA.ServerCert([]string{"fleet.example"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cfg := me.FleetClient()
	cfg.ServerName = "box-evil"
	if _, err := handshake(t, isServer(boxCert(t, evil)), cfg); err == nil {
		t.Error("a box passed for a server of the fleet")
	}
	cfg = me.FleetClient()
	cfg.ServerName = "fleet.example"
	if _, err := handshake(t, isServer(revokedServer), cfg); err != nil {
		t.Errorf("a server of the fleet was refused: %v", err)
	}
	me.SetRevoked([]string{revokedServer.Leaf.SerialNumber.Text(16)})
	if _, err := handshake(t, isServer(revokedServer), cfg); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("a revoked server: %v", err)
	}
	cfg = me.FleetClient()
	cfg.ServerName = "other.example"
	if _, err := handshake(t, isServer(revokedServer), cfg); err == nil {
		t.Error("a server passed under another's name")
	}
	// Without our own rule, by nothing but the standard library's: the name constraints hold.
	leaf, err := x509.ParseCertificate(boxCert(t, evil).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.VerifyHostname("box-evil"); err == nil {
		t.Error("a box's certificate names a host")
	}
}

func TestRevokedIntermediate(t *testing.T) {
	f := identitytest.New(t)
	me, friend := f.Box("box-me", "g"), f.Box("box-friend", "g")
	inter, err := x509.ParseCertificate(boxCert(t, friend).Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	me.SetRevoked([]string{pki.Serial(inter)})
	if err, _ := handshake(t, me.SwarmServer(), shows(boxCert(t, friend))); !errors.Is(err, identity.ErrRevoked) {
		t.Fatalf("under a revoked intermediate: %v", err)
	}
}

func TestRevocationClosesLiveConnections(t *testing.T) {
	f := identitytest.New(t)
	warnings := health.New(nil)
	a := f.Box("box-a", "g", func(o *identity.Options) { o.Health = warnings })
	b, c := f.Box("box-b", "g"), f.Box("box-c", "g")
	srv := serve(t, a)
	dial := func(from *identity.Identity) *tls.Conn {
		conn, err := from.Dial(t.Context(), srv.addr, from.SwarmClient("box-a", "x.boxd", identity.ALPNSwarm))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := ping(conn); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	fromB, fromC := dial(b), dial(c)
	a.SetRevoked([]string{b.Serial(), "not a number"}) // as one that was dialled
	if _, err := io.ReadAll(fromB); err != nil && errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("the revoked box's connection is still open")
	}
	if err := ping(fromB); err == nil {
		t.Fatal("the revoked box can still talk")
	}
	if err := ping(fromC); err != nil {
		t.Fatal("another box's connection was closed too:", err)
	}
	if _, err := srv.echo(t, b, b.SwarmClient("box-a", "x.boxd", identity.ALPNSwarm)); err == nil {
		t.Fatal("the revoked box could come back")
	}
	c.SetRevoked([]string{a.Serial()}) // as the one that dialled
	if err := ping(fromC); err == nil {
		t.Fatal("a connection to a revoked box is still open")
	}
	a.SetRevoked([]string{a.Serial()})
	if !warnings.Has("certificate-revoked") {
		t.Fatal("a box that is revoked itself does not say so")
	}
	a.SetRevoked(nil)
	if warnings.Has("certificate-revoked") {
		t.Fatal("the warning stays")
	}
}

func TestResumption(t *testing.T) {
	f := identitytest.New(t)
	a, b, c := f.Box("box-a", "g"), f.Box("box-b", "g"), f.Box("box-c", "g")
	srv, third := serve(t, a), serve(t, c)
	try := func(s *served, want bool) {
		t.Helper()
		cs, err := s.echo(t, b, b.SwarmClient(s.BoxID(), "x.boxd", identity.ALPNSwarm))
		if err != nil || cs.DidResume != want {
			t.Fatalf("%s: resumed %v, %v; want %v", s.BoxID(), cs.DidResume, err, want)
		}
	}
	try(srv, false)
	try(third, false) // under the same server name, and does not push the first one out
	try(srv, true)
	try(third, true)
	b.SetRevoked([]string{a.Serial()})
	if _, err := srv.echo(t, b, b.SwarmClient("box-a", "x.boxd", identity.ALPNSwarm)); !errors.Is(err, identity.ErrRevoked) {
		t.Fatalf("a session with a revoked box was resumed: %v", err)
	}
	b.SetRevoked(nil)
	a.SetRevoked([]string{b.Serial()})
	if _, err := srv.echo(t, b, b.SwarmClient("box-a", "x.boxd", identity.ALPNSwarm)); err == nil {
		t.Fatal("a revoked box resumed its session")
	}
}

// A session with a server of the fleet is resumed once, and not with another certificate of this box.
func TestResumptionWithServers(t *testing.T) {
	f := identitytest.New(t)
	opts := f.Options()
	opts.EnrollURL, opts.Token = f.Serve(nil), f.Token(ca.TokenSpec{Group: "north", MaxUses: 1})
	me, err := identity.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := me.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	cert, err := f.CA.ServerCert([]string{"fleet.example"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	server := isServer(cert)
	connect := func() bool {
		t.Helper()
		cfg := me.FleetClient()
		cfg.ServerName = "fleet.example"
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := tls.Server(far, server).Write([]byte{1}) // the ticket goes before it
			done <- err
		}()
		c := tls.Client(near, cfg)
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return c.ConnectionState().DidResume
	}
	if connect() || !connect() || !connect() {
		t.Error("want a full handshake, and then two resumed ones")
	}
	cfg := me.FleetClient()
	cs, ok := cfg.ClientSessionCache.Get("fleet.example")
	if _, again := cfg.ClientSessionCache.Get("fleet.example"); !ok || again {
		t.Errorf("the session is there %t, and a second time %t", ok, again)
	}
	if err := me.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.ClientSessionCache.Put("fleet.example", cs) // comes late
	if connect() {
		t.Error("a session was resumed under another certificate")
	}
}
