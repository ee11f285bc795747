package identity_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/health"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
)

// A box whose certificate was revoked is let in again by a new token, by that alone, and under its old name.
func TestRevokedBoxEnrolsAgain(t *testing.T) {
	t.Parallel()
	f := identitytest.New(t)
	url := f.Serve(nil)
	many := f.Token(ca.TokenSpec{Group: "north", MaxUses: 9})
	opts := f.Options()
	opts.EnrollURL, opts.Token, opts.Health = url, many, health.New(nil)
	open := func(token string) *identity.Identity {
		t.Helper()
		opts.Token = token
		box, err := identity.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	box := open(many)
	if err := box.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, serial := box.BoxID(), box.Serial()
	if err := f.CA.RevokeBox(t.Context(), id, "by mistake"); err != nil {
		t.Fatal(err)
	}
	revoked := func(token string) *identity.Identity {
		box := open(token)
		box.SetRevoked([]string{serial})
		return box
	}

	// A used one is refused, the next is taken.
	spent := f.Token(ca.TokenSpec{Group: "north"})
	f.Box("box-x", "north")
	other := f.Options()
	other.EnrollURL, other.Token = url, spent
	o, err := identity.Open(other)
	if err == nil {
		err = o.Enroll(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	run(t, revoked(spent), func(*identity.Identity) bool { return opts.Health.Has("renewal-refused") })
	token := f.Token(ca.TokenSpec{Group: "north", BoxID: id, Replace: true})
	run(t, revoked(token), func(box *identity.Identity) bool { return box.Serial() != serial })
	again := open(token)
	if again.BoxID() != id || again.Group() != "north" || again.Serial() == serial {
		t.Fatalf("enrolled again as %q %q with %q", again.BoxID(), again.Group(), again.Serial())
	}
	if err := again.Renew(t.Context()); err != nil {
		t.Fatal("the certificate is not renewed:", err)
	}
	if left, err := filepath.Glob(filepath.Join(opts.Dir, "key*")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}

// A refused renewal is enough, without the catalog's list of revocations.
func TestRefusedRenewalEnrolsAgain(t *testing.T) {
	t.Parallel()
	f := identitytest.New(t)
	opts := f.Options()
	opts.EnrollURL, opts.Token = f.Serve(nil), f.Token(ca.TokenSpec{Group: "north"})
	box, err := identity.Open(opts)
	if err == nil {
		err = box.Enroll(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	id, serial := box.BoxID(), box.Serial()
	if err := f.CA.RevokeBox(t.Context(), id, "by mistake"); err != nil {
		t.Fatal(err)
	}
	opts.Token = f.Token(ca.TokenSpec{Group: "north", BoxID: id, Replace: true})
	if box, err = identity.Open(opts); err != nil {
		t.Fatal(err)
	}
	if err := box.Renew(t.Context()); err == nil {
		t.Fatal("a revoked certificate was renewed")
	}
	run(t, box, func(box *identity.Identity) bool { return box.Serial() != serial })
	if box.BoxID() != id {
		t.Errorf("enrolled again as %q", box.BoxID())
	}
}

// run runs a box until something is so.
func run(t *testing.T, box *identity.Identity, until func(*identity.Identity) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- box.Run(ctx) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !until(box) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it never came so far")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
