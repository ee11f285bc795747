package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
)

// served is a box that listens, with both protocols echoed.
type served struct {
	*identity.Identity
	addr string
	mux  *identity.Mux
}

func serve(t *testing.T, box *identity.Identity) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := box.NewMux(l)
	s := &served{Identity: box, addr: l.Addr().String(), mux: m}
	for _, alpn := range []string{identity.ALPNSwarm, identity.ALPNHome} {
		sub := m.Listener(alpn)
		go func() {
			for {
				c, err := sub.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c) }()
			}
		}()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("mux: %v", err)
		}
	})
	return s
}

// echo sends a few bytes over a new connection; a TLS 1.3 server's refusal reaches the client only when it reads.
func (s *served) echo(t *testing.T, from *identity.Identity, cfg *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	c, err := from.Dial(t.Context(), s.addr, cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	return c.ConnectionState(), ping(c)
}

func ping(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	buf := make([]byte, 4)
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if string(buf) != "ping" {
		return errors.New("wrong echo")
	}
	return nil
}

func TestEnrolRenewAndMeet(t *testing.T) {
	f := identitytest.New(t)
	url := f.Serve(nil)
	token := f.Token(ca.TokenSpec{Group: "north", MaxUses: 2})
	open := func() *identity.Identity {
		opts := f.Options()
		opts.EnrollURL, opts.Token = url, token
		box, err := identity.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		if box.Enrolled() || box.BoxID() != "" || box.Fleet() != "test" {
			t.Fatalf("before enrolment: %v %q %q", box.Enrolled(), box.BoxID(), box.Fleet())
		}
		if err := box.Enroll(t.Context()); err != nil {
			t.Fatal(err)
		}
		return box
	}
	a, b := open(), open()
	if a.BoxID() == b.BoxID() || a.Group() != "north" {
		t.Fatalf("ids %q %q, group %q", a.BoxID(), b.BoxID(), a.Group())
	}
	srv := serve(t, a)
	cs, err := srv.echo(t, b, b.SwarmClient(a.BoxID(), "00.boxd", identity.ALPNSwarm))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := identity.PeerOf(cs); err != nil || p.BoxID != a.BoxID() || p.Serial != a.Serial() {
		t.Fatalf("peer %+v, %v", p, err)
	}
	old := a.Serial()
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.Serial() == old {
		t.Fatal("renewal changed nothing")
	}
	if _, err := srv.echo(t, b, b.SwarmClient(a.BoxID(), "00.boxd", identity.ALPNHome)); err != nil {
		t.Fatal("after renewal:", err)
	}
	if _, err := srv.echo(t, b, b.SwarmClient(b.BoxID(), "00.boxd", identity.ALPNSwarm)); !errors.Is(err, identity.ErrOtherBox) {
		t.Fatalf("another box answered, got %v", err)
	}
}

func TestReopenKeepsIdentity(t *testing.T) {
	f := identitytest.New(t)
	opts := f.Options()
	box := f.Box("box-a", "g", func(o *identity.Options) { o.Dir = opts.Dir })
	again, err := identity.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if again.BoxID() != "box-a" || again.Serial() != box.Serial() || again.Group() != "g" {
		t.Fatalf("reopened as %q %q", again.BoxID(), again.Serial())
	}
}
