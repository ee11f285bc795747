package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"

	"boxd/internal/identity/pki"
)

// family is a root, two intermediates and a leaf of each, as small as they come.
type family struct {
	root, boxes, servers, box, server *x509.Certificate
	key                               *ecdsa.PrivateKey
}

func newFamily(tb testing.TB) family {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	serial := int64(0)
	sign := func(name pkix.Name, parent *x509.Certificate, isCA bool, usage ...x509.ExtKeyUsage) *x509.Certificate {
		serial++
		t := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: name, NotBefore: begin, NotAfter: begin.Add(1000 * time.Hour),
			IsCA: isCA, BasicConstraintsValid: true, ExtKeyUsage: usage, KeyUsage: x509.KeyUsageDigitalSignature,
		}
		if isCA {
			t.KeyUsage = x509.KeyUsageCertSign
		}
		if parent == nil {
			parent = t
		}
		der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, key)
		if err != nil {
			tb.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			tb.Fatal(err)
		}
		return c
	}
	o := []string{"test"}
	f := family{key: key, root: sign(pkix.Name{CommonName: "root", Organization: o}, nil, true)}
	client, server := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	f.boxes = sign(pkix.Name{CommonName: "b", Organization: o, OrganizationalUnit: []string{"boxes"}}, f.root, true)
	f.servers = sign(pkix.Name{CommonName: "s", Organization: o, OrganizationalUnit: []string{"servers"}}, f.root, true)
	f.box = sign(pkix.Name{CommonName: "box-a", Organization: o}, f.boxes, false, client, server)
	f.server = sign(pkix.Name{CommonName: "host", Organization: o}, f.servers, false, server)
	return f
}

func TestCertsThereAndBack(t *testing.T) {
	f := newFamily(t)
	body, err := pki.EncodeCerts([]*x509.Certificate{f.box, f.boxes})
	if err != nil {
		t.Fatal(err)
	}
	back, err := pki.ParseCerts(body)
	if err != nil || len(back) != 2 || !back[0].Equal(f.box) || !back[1].Equal(f.boxes) {
		t.Fatalf("%v, %v", back, err)
	}
}

func TestChainRoles(t *testing.T) {
	f := newFamily(t)
	list := func(c ...*x509.Certificate) []*x509.Certificate { return c }
	for _, c := range []struct {
		name  string
		certs []*x509.Certificate
		role  pki.Role
		want  error
	}{
		{"box", list(f.box, f.boxes), pki.Boxes, nil},
		{"server", list(f.server, f.servers), pki.Servers, nil},
		{"box for a server", list(f.box, f.boxes), pki.Servers, pki.ErrWrongRole},
		{"server for a box", list(f.server, f.servers), pki.Boxes, pki.ErrWrongRole},
		{"root alone", list(f.root), pki.Boxes, pki.ErrWrongRole},
		{"intermediate as leaf", list(f.boxes), pki.Boxes, pki.ErrWrongRole},
		{"nothing", nil, pki.Boxes, pki.ErrNoCertificate},
		{"both intermediates", list(f.box, f.servers, f.boxes), pki.Boxes, nil},
	} {
		cold := pki.NewCache(4)
		for how, build := range map[string]func(*x509.Certificate, []*x509.Certificate, pki.Role) ([]*x509.Certificate, error){
			"function": pki.BuildChain, "cold cache": cold.BuildChain, "same again": cold.BuildChain, "warm cache": warm(t, f).BuildChain,
		} {
			chain, err := build(f.root, c.certs, c.role)
			if !errors.Is(err, c.want) || (c.want == nil && len(chain) != 3) {
				t.Errorf("%s, %s: %v, %d certificates; want %v", c.name, how, err, len(chain), c.want)
			}
		}
	}
	// With its issuer known, a leaf is still checked: by signature, by role, and never the issuer itself.
	c := warm(t, f)
	for name, certs := range map[string][]*x509.Certificate{
		"the issuer as a leaf": list(f.boxes, f.boxes), "another's leaf": list(newFamily(t).box, f.boxes), "a server's leaf": list(f.server, f.boxes),
		"the root as a leaf": list(f.root, f.boxes),
	} {
		if chain, err := c.BuildChain(f.root, certs, pki.Boxes); err == nil {
			t.Errorf("%s: %v", name, chain)
		}
	}
}

// warm knows both issuers, and no leaf that is asked for.
func warm(t testing.TB, f family) *pki.Cache {
	t.Helper()
	c := pki.NewCache(1) // room for one chain: what comes next puts it out
	for _, x := range []struct {
		certs []*x509.Certificate
		role  pki.Role
	}{{[]*x509.Certificate{f.box, f.boxes}, pki.Boxes}, {[]*x509.Certificate{f.server, f.servers}, pki.Servers}} {
		if _, err := c.BuildChain(f.root, x.certs, x.role); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func FuzzParseCSR(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pki.EncodeCSR(der))
	f.Add([]byte("MIIB"))
	f.Add([]byte(" \r\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		csr, err := pki.ParseCSR(body)
		if err != nil {
			return
		}
		if k, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() || csr.CheckSignature() != nil {
			t.Fatal("a bad request was taken")
		}
	})
}

func FuzzParseCerts(f *testing.F) {
	fam := newFamily(f)
	body, err := pki.EncodeCerts([]*x509.Certificate{fam.box, fam.boxes})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte("MAsGCSqGSIb3DQEHAg=="))
	f.Fuzz(func(t *testing.T, body []byte) {
		certs, err := pki.ParseCerts(body)
		if err != nil {
			return
		}
		again, err := pki.EncodeCerts(certs)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := pki.ParseCerts(again); err != nil && len(again) <= pki.MaxBody || err == nil && len(back) != len(certs) {
			t.Fatalf("read once, not twice: %v", err)
		}
	})
}

// FuzzChain changes a certificate that a peer shows: it is refused, or it is the one that was issued.
func FuzzChain(f *testing.F) {
	fam := newFamily(f)
	known := warm(f, fam)
	f.Add(0, byte(1), false)
	f.Add(40, byte(0x80), true)
	f.Fuzz(func(t *testing.T, at int, flip byte, inter bool) {
		leaf, issuer := fam.box.Raw, fam.boxes.Raw
		target := &leaf
		if inter {
			target = &issuer
		}
		changed := append([]byte(nil), *target...)
		changed[uint(at)%uint(len(changed))] ^= flip
		*target = changed
		var certs []*x509.Certificate
		for _, der := range [][]byte{leaf, issuer} {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return
			}
			certs = append(certs, c)
		}
		chain, err := pki.BuildChain(fam.root, certs, pki.Boxes)
		if err == nil && flip != 0 && !chain[0].Equal(fam.box) && string(chain[0].RawTBSCertificate) != string(fam.box.RawTBSCertificate) {
			t.Fatalf("byte %d of a certificate could be changed", at)
		}
		if _, again := known.BuildChain(fam.root, certs, pki.Boxes); (err == nil) != (again == nil) {
			t.Fatalf("byte %d: %v, and with its issuer known %v", at, err, again)
		}
	})
}

func FuzzSerial(f *testing.F) {
	f.Add("00abc")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := pki.ParseSerial(s)
		if err != nil {
			return
		}
		if again, err := pki.ParseSerial(n); err != nil || again != n {
			t.Fatalf("%q became %q, then %q", s, n, again)
		}
	})
}
