package identity_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/health"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
)

// wire is a network without sockets, so that months can pass in a bubble.
type wire struct {
	conns chan net.Conn
	down  atomic.Bool
	dials atomic.Int64
}

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	w.dials.Add(1)
	if w.down.Load() {
		return nil, errors.New("no route to host")
	}
	near, far := net.Pipe()
	select {
	case w.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *wire) Accept() (net.Conn, error) {
	c, ok := <-w.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (w *wire) Close() error   { return nil }
func (w *wire) Addr() net.Addr { return &net.TCPAddr{} }

// life runs a box against an authority in a bubble; the clock begins in 2000, when the fleet was founded.
func life(t *testing.T, spec ca.TokenSpec, fn func(f *identitytest.Fleet, w *wire, box *identity.Identity, h *health.Set)) {
	synctest.Test(t, func(t *testing.T) {
		f := identitytest.New(t, func(o *ca.Options) { o.BoxLife = 9 * day })
		w := &wire{conns: make(chan net.Conn)}
		srv := &http.Server{Handler: f.CA.Handler(), TLSConfig: f.CA.ServerTLS("fleet.example")}
		served := make(chan struct{})
		go func() { defer close(served); srv.ServeTLS(w, "", "") }()
		opts := f.Options()
		opts.Health, opts.EnrollURL, opts.Token = health.New(nil), "https://fleet.example:8443", f.Token(spec)
		opts.DialContext, opts.State = w.dial, newStore()
		box, err := identity.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- box.Run(ctx) }()
		fn(f, w, box, opts.Health)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		close(w.conns)
		srv.Close()
		<-served
	})
}

func TestRunEnrolsAndRenewsForEver(t *testing.T) {
	life(t, ca.TokenSpec{Group: "g"}, func(f *identitytest.Fleet, w *wire, box *identity.Identity, h *health.Set) {
		time.Sleep(time.Minute)
		if !box.Enrolled() || len(h.List()) != 0 {
			t.Fatalf("after a minute: enrolled %v, %v", box.Enrolled(), h.List())
		}
		for range 75 * 24 {
			time.Sleep(time.Hour)
			if left := time.Until(box.Expires()); left < 2*day+20*time.Hour {
				t.Fatalf("%s: the certificate has %s left", time.Now(), left)
			}
		}
		if n := w.dials.Load(); n < 11 || n > 14 {
			t.Fatalf("%d requests in 75 days of certificates that live 9 days", n)
		}
		rec, err := f.CA.Box(t.Context(), box.BoxID())
		if err != nil || rec.Serial != box.Serial() {
			t.Fatalf("the ledger says %q, the box %q (%v)", rec.Serial, box.Serial(), err)
		}
	})
}

func TestRunThroughALongOutage(t *testing.T) {
	life(t, ca.TokenSpec{Group: "g"}, func(_ *identitytest.Fleet, w *wire, box *identity.Identity, h *health.Set) {
		time.Sleep(time.Minute)
		w.down.Store(true)
		time.Sleep(6*day + 6*time.Hour)
		if !h.Has("renewal-failed") || h.Has("certificate-expiring") {
			t.Fatalf("after 6 days: %v", h.List())
		}
		time.Sleep(2 * day)
		if !h.Has("certificate-expiring") {
			t.Fatalf("after 8 days: %v", h.List())
		}
		time.Sleep(3 * day)
		if !h.Has("certificate-expired") {
			t.Fatalf("after 11 days: %v", h.List())
		}
		// Full jitter, up to five minutes: a few hundred attempts a day at most.
		if n := w.dials.Load(); n > 6*600 {
			t.Fatalf("%d attempts", n)
		}
		w.down.Store(false)
		time.Sleep(6 * time.Minute)
		if time.Until(box.Expires()) < 8*day || len(h.List()) != 0 {
			t.Fatalf("after the outage: ends %s, %v", box.Expires(), h.List())
		}
	})
}

func TestRunRefused(t *testing.T) {
	life(t, ca.TokenSpec{Life: time.Minute, MaxUses: 1}, func(f *identitytest.Fleet, w *wire, box *identity.Identity, h *health.Set) {
		time.Sleep(30 * time.Second)
		if err := f.CA.RevokeBox(t.Context(), box.BoxID(), "stolen"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(8 * day)
		if !h.Has("renewal-refused") {
			t.Fatalf("a revoked box renewed: %v", h.List())
		}
		if n := w.dials.Load(); n > 2*24*3 {
			t.Fatalf("%d attempts after a clear no", n)
		}
	})
}

func TestRunWithoutToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, h := identitytest.New(t), health.New(nil)
		opts := f.Options()
		opts.Health, opts.EnrollURL = h, "https://fleet.example"
		box, err := identity.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := box.Run(ctx); err != nil || !h.Has("not-enrolled") {
			t.Fatalf("%v, %v", err, h.List())
		}
		if _, err := handshake(t, f.Box("box-a", "g").SwarmServer(), box.SwarmClient("", "x", identity.ALPNSwarm)); err == nil {
			t.Fatal("a box that is not enrolled was let in")
		}
	})
}
