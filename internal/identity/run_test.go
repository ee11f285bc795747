package identity_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/health"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
	"boxd/internal/identity/pki"
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
	lifeAt(t, spec, manager{}, fn)
}

// manager is the machine of the authority.
type manager struct {
	ahead  func() time.Duration // of the real time; nil: not at all
	noDate bool                 // it does not tell the time
	synced string               // path of the box's Options.TimeSyncPath
}

func lifeAt(
	t *testing.T, spec ca.TokenSpec, m manager,
	fn func(f *identitytest.Fleet, w *wire, box *identity.Identity, h *health.Set),
) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now
		if m.ahead != nil {
			now = func() time.Time { return time.Now().Add(m.ahead()) }
		}
		f := identitytest.New(t, func(o *ca.Options) { o.BoxLife, o.Now = 9*day, now })
		w := &wire{conns: make(chan net.Conn)}
		handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header()["Date"] = nil
			if !m.noDate {
				rw.Header().Set("Date", now().UTC().Format(http.TimeFormat))
			}
			f.CA.Handler().ServeHTTP(rw, r)
		})
		srv := &http.Server{Handler: handler, TLSConfig: f.CA.ServerTLS("fleet.example")}
		served := make(chan struct{})
		go func() { defer close(served); srv.ServeTLS(w, "", "") }()
		opts := f.Options()
		opts.Health, opts.EnrollURL, opts.Token = health.New(nil), "https://fleet.example:8443", f.Token(spec)
		opts.DialContext, opts.State, opts.TimeSyncPath = w.dial, newStore(), m.synced
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

// disagree lets signatures of so much later than the box's synchronised clock arrive for a time, and returns how many
// certificates that cost.
func disagree(w *wire, box *identity.Identity, ahead, total time.Duration) int64 {
	before := w.dials.Load()
	for end := time.Now().Add(total); time.Now().Before(end); {
		box.RaiseFloor(time.Now().Add(ahead))
		time.Sleep(10 * time.Minute)
	}
	return w.dials.Load() - before
}

func synchronised(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "synchronized")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The machine that signs the catalog is ahead; the authority bears the box's clock out.
func TestRunWithASignerThatIsAhead(t *testing.T) {
	m := manager{synced: synchronised(t)}
	lifeAt(t, ca.TokenSpec{Group: "g"}, m, func(_ *identitytest.Fleet, w *wire, box *identity.Identity, h *health.Set) {
		time.Sleep(5 * time.Minute)
		n := disagree(w, box, time.Hour, 12*time.Hour)
		now, trusted := box.Now()
		if off := time.Until(now).Abs(); n != 1 || !trusted || off > time.Minute || !h.Has("fleet-clock-ahead") || h.Has("clock-contradicted") {
			t.Errorf("12 hours later: %d certificates, trusted %v, off by %v, %v", n, trusted, off, h.List())
		}
		if n := disagree(w, box, time.Hour, 5*day); n > 6 {
			t.Errorf("%d certificates in 5 more days", n)
		}
	})
}

// The authority bears the signatures out: the box's synchronised clock is late, or all the fleet is ahead. The box goes by
// the fleet's time, and by its own again when that is mended.
func TestRunWithAClockThatIsLate(t *testing.T) {
	var ahead atomic.Int64
	ahead.Store(int64(50 * time.Minute))
	m := manager{synced: synchronised(t), ahead: func() time.Duration { return time.Duration(ahead.Load()) }}
	lifeAt(t, ca.TokenSpec{Group: "g"}, m, func(_ *identitytest.Fleet, w *wire, box *identity.Identity, h *health.Set) {
		time.Sleep(5 * time.Minute)
		n := disagree(w, box, 50*time.Minute, 12*time.Hour)
		now, trusted := box.Now()
		off := now.Sub(time.Now().Add(50 * time.Minute)).Abs()
		if n != 1 || !trusted || off > time.Minute || !h.Has("clock-contradicted") {
			t.Errorf("12 hours later: %d certificates, trusted %v, off by %v, %v", n, trusted, off, h.List())
		}
		ahead.Store(0)
		before := w.dials.Load()
		time.Sleep(14 * time.Hour)
		now, trusted = box.Now()
		n, off = w.dials.Load()-before, time.Until(now).Abs()
		if n != 1 || !trusted || off > time.Minute || len(h.List()) != 0 {
			t.Errorf("mended: %d certificates, trusted %v, off by %v, %v", n, trusted, off, h.List())
		}
	})
}

// An authority of which the certificates do not say who is right is asked less and less.
func TestRunWithAnAuthorityThatDoesNotTellTheTime(t *testing.T) {
	m := manager{synced: synchronised(t), noDate: true}
	lifeAt(t, ca.TokenSpec{Group: "g"}, m, func(_ *identitytest.Fleet, w *wire, box *identity.Identity, _ *health.Set) {
		time.Sleep(5 * time.Minute)
		first := disagree(w, box, 50*time.Minute, 50*time.Minute)
		rest := disagree(w, box, 50*time.Minute, 12*time.Hour)
		if _, trusted := box.Now(); trusted || first < 2 || first > 8 || rest > 30 {
			t.Errorf("%d certificates in 50 minutes, %d in 12 hours, trusted %v", first, rest, trusted)
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

// The token that admitted a box could admit others, and does not admit the same one again.
func TestTokenAdmitsABoxOnce(t *testing.T) {
	life(t, ca.TokenSpec{Group: "g", MaxUses: 9}, func(f *identitytest.Fleet, w *wire, box *identity.Identity, h *health.Set) {
		time.Sleep(time.Minute)
		serial := box.Serial()
		if err := f.CA.RevokeBox(t.Context(), box.BoxID(), "stolen"); err != nil {
			t.Fatal(err)
		}
		box.SetRevoked([]string{serial})
		time.Sleep(8 * day)
		if box.Serial() != serial || !h.Has("renewal-refused") || !h.Has("certificate-revoked") {
			t.Fatalf("let in again: %v, %v", box.Serial() != serial, h.List())
		}
	})
}

// A new certificate that is due at once is not asked for every minute.
func TestRenewalThatMendsNothing(t *testing.T) {
	life(t, ca.TokenSpec{Group: "g"}, func(_ *identitytest.Fleet, w *wire, box *identity.Identity, _ *health.Set) {
		time.Sleep(time.Minute)
		inter, err := x509.ParseCertificate(boxCert(t, box).Certificate[1])
		if err != nil {
			t.Fatal(err)
		}
		before := w.dials.Load()
		box.SetRevoked([]string{pki.Serial(inter)}) // and the authority goes on with it
		time.Sleep(day)
		if n := w.dials.Load() - before; n < 20 || n > 60 {
			t.Errorf("%d requests in a day", n)
		}
	})
}
