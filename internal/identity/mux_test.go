package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
)

// rawDial opens a TCP connection from an address of the loopback network, so that one machine can be many.
func rawDial(t testing.TB, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	c, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGarbageIsCutOff(t *testing.T) {
	f := identitytest.New(t)
	a, b := f.Box("box-a", "g"), f.Box("box-b", "g")
	srv := serve(t, a)
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	// A handshake record that announces more than anybody needs, and comes in full.
	hello := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}, make([]byte, 60<<10)...)
	for name, send := range map[string][]byte{
		"nothing, then gone": nil, "http": []byte("GET / HTTP/1.1\r\nHost: box\r\n\r\n"), "noise": noise,
		"bittorrent": append([]byte{19}, "BitTorrent protocol"...), "a huge hello": hello, "ssh": []byte("SSH-2.0-scan\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, "127.0.0.1", srv.addr)
			defer c.Close()
			if _, err := c.Write(send); err != nil {
				t.Logf("write: %v", err)
			}
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Logf("close: %v", err)
			}
			c.SetReadDeadline(time.Now().Add(time.Minute))
			if n, err := io.Copy(io.Discard, c); err != nil && isTimeout(err) {
				t.Errorf("still open after %d bytes: %v", n, err)
			}
		})
	}
	if _, err := srv.echo(t, b, b.SwarmClient("box-a", "x.boxd", identity.ALPNSwarm)); err != nil {
		t.Fatal("afterwards:", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Scanners that open connections and say nothing, from one address and from many, neither grow the box nor shut the door.
func TestSlowHandshakesDoNotShutTheDoor(t *testing.T) {
	f := identitytest.New(t)
	a, b := f.Box("box-a", "g"), f.Box("box-b", "g")
	srv := serve(t, a)
	try := func(when string) {
		t.Helper()
		// A door that lets the oldest go needs a second at most; a box that dials tries again anyway.
		deadline := time.Now().Add(8 * time.Second)
		for {
			_, err := srv.echo(t, b, b.SwarmClient("box-a", "x.boxd", identity.ALPNSwarm))
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", when, err)
			}
			time.Sleep(50 * time.Millisecond) // the attacker's connections are real, so is the time
		}
	}
	try("before")
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var conns []net.Conn
	for host := range 40 { // 40 addresses, 20 connections each, half of a hello, refreshed as they are closed
		from := net.IPv4(127, 0, 1, byte(host+1)).String()
		for range 20 {
			c := rawDial(t, from, srv.addr)
			conns = append(conns, c)
			wg.Go(func() {
				for ctx.Err() == nil {
					if _, err := c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc}); err != nil {
						return
					}
					if _, err := c.Read(make([]byte, 16)); err != nil {
						return
					}
				}
			})
		}
	}
	try("under 800 silent connections")
	runtime.GC()
	runtime.ReadMemStats(&during)
	grown := int64(during.HeapAlloc+during.StackInuse) - int64(before.HeapAlloc+before.StackInuse)
	t.Logf("800 silent connections: %d KiB and %d goroutines more, both sides together", grown>>10, runtime.NumGoroutine()-goroutines)
	if grown > 16<<20 {
		t.Errorf("%d MiB more", grown>>20)
	}
	cancel()
	for _, c := range conns {
		c.Close()
	}
	wg.Wait()
	try("after")
}

func TestOneBoxCannotTakeAllConnections(t *testing.T) {
	f := identitytest.New(t)
	a, greedy, b := f.Box("box-a", "g"), f.Box("box-greedy", "g"), f.Box("box-b", "g")
	srv := serve(t, a)
	open := 0
	for range 80 {
		c, err := greedy.Dial(t.Context(), srv.addr, greedy.SwarmClient("", "x.boxd", identity.ALPNSwarm))
		if err != nil {
			continue
		}
		defer c.Close()
		if ping(c) == nil {
			open++
		}
	}
	if open != 64 {
		t.Errorf("one box has %d connections", open)
	}
	if _, err := srv.echo(t, b, b.SwarmClient("box-a", "x.boxd", identity.ALPNHome)); err != nil {
		t.Errorf("another box is shut out: %v", err)
	}
}

// TestRefusalsAreCounted: whoever is not let in gets nothing and leaves a count.
func TestRefusalsAreCounted(t *testing.T) {
	now := time.Now().Add(-400 * 24 * time.Hour)
	f := identitytest.New(t, func(o *ca.Options) { o.Now = func() time.Time { return now } })
	expired := f.Box("box-expired", "g")
	now = time.Now()
	me, friend, revoked := f.Box("box-me", "g"), f.Box("box-friend", "g"), f.Box("box-revoked", "g")
	me.SetRevoked([]string{revoked.Serial()})
	srv := serve(t, me)
	knock := func(certs ...tls.Certificate) {
		t.Helper()
		conn, err := net.Dial("tcp", srv.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		cfg := shows(certs...)
		cfg.NextProtos = []string{identity.ALPNSwarm}
		if got, err := io.ReadAll(tls.Client(conn, cfg)); len(got) > 0 || err == nil {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	}
	knock()
	knock(boxCert(t, expired))
	knock(boxCert(t, revoked))
	knock(boxCert(t, identitytest.Named(t, "other").Box("box-friend", "g")))
	if _, err := srv.echo(t, friend, friend.SwarmClient("box-me", "x.boxd", identity.ALPNHome)); err != nil {
		t.Errorf("a friend: %v", err)
	}
	want := identity.Refusals{NoCertificate: 1, OtherFleet: 1, Expired: 1, Revoked: 1}
	for end := time.Now().Add(time.Minute); srv.mux.Refusals() != want; {
		if time.Now().After(end) {
			t.Fatalf("counted %+v, want %+v", srv.mux.Refusals(), want)
		}
		<-time.After(time.Millisecond) // a client may hear of it before the server has counted
	}
}

func TestMuxEndsCleanly(t *testing.T) {
	f := identitytest.New(t)
	a, b := f.Box("box-a", "g"), f.Box("box-b", "g")
	before := runtime.NumGoroutine()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := a.NewMux(l)
	swarm, home := m.Listener(identity.ALPNSwarm), m.Listener(identity.ALPNHome)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	dial := func(alpn string) *tls.Conn {
		c, err := b.Dial(t.Context(), l.Addr().String(), b.SwarmClient("box-a", "x.boxd", alpn))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	taken := dial(identity.ALPNSwarm)
	got, err := swarm.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := identity.PeerOf(got.(*tls.Conn).ConnectionState()); err != nil || p.BoxID != "box-b" {
		t.Fatalf("%+v, %v", p, err)
	}
	if sni := got.(*tls.Conn).ConnectionState().ServerName; sni != "x.boxd" {
		t.Fatalf("server name %q", sni)
	}
	waiting := dial(identity.ALPNHome)
	silent := rawDial(t, "127.0.0.1", l.Addr().String())
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for name, sub := range map[string]net.Listener{"swarm": swarm, "home": home} {
		if _, err := sub.Accept(); err == nil {
			t.Errorf("%s still accepts", name)
		}
	}
	if _, err := io.ReadAll(waiting); isTimeout(err) {
		t.Error("a connection that nobody took stays open")
	}
	if _, err := io.ReadAll(silent); isTimeout(err) {
		t.Error("a silent connection stays open")
	}
	go io.Copy(got, got)
	if err := ping(taken); err != nil {
		t.Errorf("a connection that was taken was closed: %v", err)
	}
	for _, c := range []net.Conn{taken, got, waiting, silent} {
		c.Close()
	}
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond) // goroutines of closed connections end in their own time
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}

func TestProtocolNobodyListensFor(t *testing.T) {
	f := identitytest.New(t)
	a, b := f.Box("box-a", "g"), f.Box("box-b", "g")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := a.NewMux(l)
	home := m.Listener(identity.ALPNHome)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for range 2 {
		c, err := b.Dial(t.Context(), l.Addr().String(), b.SwarmClient("box-a", "x.boxd", identity.ALPNSwarm))
		if err == nil {
			err = ping(c)
			c.Close()
		}
		if err == nil {
			t.Error("somebody answered")
		}
	}
	home.Close()
	c, err := b.Dial(t.Context(), l.Addr().String(), b.SwarmClient("box-a", "x.boxd", identity.ALPNHome))
	if err == nil {
		err = ping(c)
		c.Close()
	}
	if err == nil {
		t.Error("a listener that was closed answered")
	}
}
