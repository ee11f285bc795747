package identity_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"boxd/internal/durable"
	"boxd/internal/fleet/ca"
	"boxd/internal/health"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
)

// memDisk is a disk that has nothing on it but the firmware's root certificate.
func memDisk(t *testing.T, f *identitytest.Fleet) *durable.Mem {
	t.Helper()
	m := durable.NewMem(0)
	root, err := os.ReadFile(f.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/etc", "/var"} {
		if err := m.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(m, "/etc/ca.pem", root, 0o644); err != nil {
		t.Fatal(err)
	}
	return m
}

// The power goes at every single operation of a first start, an enrolment and a renewal, with a token that is good for
// one box only: afterwards the box is the same box, or becomes it, and its certificate works.
func TestPowerLossAnywhere(t *testing.T) {
	f := identitytest.New(t)
	url := f.Serve(nil)
	peer := f.Box("box-peer", "g")
	token := ""
	live := func(m *durable.Mem) (*identity.Identity, error) {
		box, err := identity.Open(identity.Options{
			Dir: "/var/identity", FS: m, CAFile: "/etc/ca.pem", EnrollURL: url, Token: token, TimeSyncPath: f.CAFile,
		})
		if err != nil {
			return nil, err
		}
		if err := box.Enroll(t.Context()); err != nil {
			return box, err
		}
		return box, box.Renew(t.Context())
	}
	for cut := 0; ; cut++ {
		token = f.Token(ca.TokenSpec{Group: "g"})
		m := memDisk(t, f)
		n, done := 0, true
		m.SetFault(func(op durable.Op) error {
			if op.Mutates() {
				if n == cut {
					done = false
					return durable.ErrCrashed
				}
				n++
			}
			if !done {
				return durable.ErrCrashed
			}
			return nil
		})
		first, _ := live(m)
		id := ""
		if first != nil {
			id = first.BoxID()
		}
		m = m.Crash(rand.New(rand.NewPCG(uint64(cut), 1)))
		box, err := live(m)
		if err != nil {
			t.Fatalf("cut at operation %d: %v", cut, err)
		}
		if id != "" && box.BoxID() != id {
			t.Fatalf("cut at operation %d: was %s, is %s", cut, id, box.BoxID())
		}
		if s, c := meet(t, peer, box); s != nil || c != nil {
			t.Fatalf("cut at operation %d: %v, %v", cut, s, c)
		}
		if done {
			if cut < 10 {
				t.Fatalf("only %d operations seen", cut)
			}
			t.Logf("%d cuts survived", cut)
			return
		}
	}
}

func TestFullDisk(t *testing.T) {
	f := identitytest.New(t)
	url := f.Serve(nil)
	m := memDisk(t, f)
	box, err := identity.Open(identity.Options{
		Dir: "/var/identity", FS: m, CAFile: "/etc/ca.pem", EnrollURL: url, Token: f.Token(ca.TokenSpec{}), TimeSyncPath: f.CAFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	full := func(op durable.Op) error {
		if op.Kind == durable.OpAllocate || op.Kind == durable.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	}
	m.SetFault(full)
	if err := box.Enroll(t.Context()); !errors.Is(err, syscall.ENOSPC) || box.Enrolled() {
		t.Fatalf("enrolled on a full disk: %v", err)
	}
	m.SetFault(nil)
	if err := box.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	serial := box.Serial()
	m.SetFault(full)
	for range 3 {
		if err := box.Renew(t.Context()); !errors.Is(err, syscall.ENOSPC) || box.Serial() != serial {
			t.Fatalf("renewed on a full disk: %v", err)
		}
	}
	m.SetFault(nil)
	if err := box.Renew(t.Context()); err != nil {
		t.Fatalf("three lost certificates later: %v", err)
	}
}

func TestDamagedIdentityIsSetAside(t *testing.T) {
	f, other := identitytest.New(t), identitytest.Named(t, "other")
	good := f.IdentityPEM("box-a", "g")
	for name, c := range map[string]struct {
		file []byte
		code string
	}{
		"empty":         {nil, "identity-damaged"},
		"cut":           {good[:len(good)/2], "identity-damaged"},
		"garbage":       {[]byte("garbage"), "identity-damaged"},
		"other fleet's": {other.IdentityPEM("box-a", "g"), "certificate-other-fleet"},
	} {
		t.Run(name, func(t *testing.T) {
			m, warnings := memDisk(t, f), health.New(nil)
			opts := identity.Options{Dir: "/var/identity", FS: m, CAFile: "/etc/ca.pem", Health: warnings}
			if err := m.MkdirAll(opts.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := durable.WriteFile(m, "/var/identity/identity.pem", c.file, 0o600); err != nil {
				t.Fatal(err)
			}
			box, err := identity.Open(opts)
			if err != nil || box.Enrolled() || !warnings.Has(c.code) {
				t.Fatalf("%v, enrolled %v, warnings %v", err, box != nil && box.Enrolled(), warnings.List())
			}
			kept, err := durable.ReadFile(m, "/var/identity/identity.pem.bad", 1<<20)
			if err != nil || fmt.Sprintf("%x", kept) != fmt.Sprintf("%x", c.file) {
				t.Fatalf("not kept: %v", err)
			}
		})
	}
}

func TestBadRoots(t *testing.T) {
	f := identitytest.New(t)
	leaf := f.IdentityPEM("box-a", "g")
	for name, file := range map[string][]byte{"empty": nil, "garbage": []byte("x"), "a key and a leaf": leaf} {
		t.Run(name, func(t *testing.T) {
			m := memDisk(t, f)
			if err := durable.WriteFile(m, "/etc/ca.pem", file, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := identity.Open(identity.Options{Dir: "/var/identity", FS: m, CAFile: "/etc/ca.pem"}); err == nil {
				t.Fatal("opened")
			}
		})
	}
	_, err := identity.Open(identity.Options{EnrollURL: "http://fleet"})
	if err == nil {
		t.Fatal("opened without anything")
	}
}
