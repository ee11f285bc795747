package ca_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/keyfile"
	"boxd/internal/identity/identitytest"
	"boxd/internal/identity/pki"
)

const day = 24 * time.Hour

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// csr is a request that asks for all it should not get.
func csr(t testing.TB, key *ecdsa.PrivateKey) *x509.CertificateRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "box-president", Organization: []string{"other"}, OrganizationalUnit: []string{"vip"}},
		DNSNames: []string{"fleet.example"}, EmailAddresses: []string{"a@b.example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := pki.ParseCSR(pki.EncodeCSR(der))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func code(err error) string {
	var r *ca.Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return fmt.Sprint(err)
}

func TestRequestIsIgnored(t *testing.T) {
	f := identitytest.New(t)
	certs, err := f.CA.Enroll(t.Context(), f.Token(ca.TokenSpec{Group: "north"}), "", csr(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	leaf := certs[0]
	if leaf.Subject.CommonName == "box-president" || leaf.Subject.Organization[0] != "test" ||
		!slices.Equal(leaf.Subject.OrganizationalUnit, []string{"north"}) || len(leaf.DNSNames)+len(leaf.EmailAddresses) > 0 {
		t.Fatalf("issued %v with names %v", leaf.Subject, leaf.DNSNames)
	}
	if !pki.ValidLabel(leaf.Subject.CommonName) || leaf.IsCA {
		t.Fatalf("issued %v, CA %v", leaf.Subject, leaf.IsCA)
	}
}

func TestTokenBounds(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	f := identitytest.New(t, func(o *ca.Options) { o.Now = func() time.Time { return now } })
	enrol := func(token, device string) (string, error) {
		certs, err := f.CA.Enroll(t.Context(), token, device, csr(t, newKey(t)))
		if err != nil {
			return "", err
		}
		return certs[0].Subject.CommonName, nil
	}
	want := func(what, token, device, wantCode string) {
		t.Helper()
		if _, err := enrol(token, device); code(err) != wantCode {
			t.Errorf("%s: %v, want %s", what, err, wantCode)
		}
	}
	two := f.Token(ca.TokenSpec{MaxUses: 2, Life: time.Hour})
	want("first", two, "", "<nil>")
	want("second", two, "", "<nil>")
	want("third of two", two, "", "token-used-up")

	short := f.Token(ca.TokenSpec{MaxUses: 5, Life: time.Hour})
	now = now.Add(time.Hour + time.Second)
	want("after its time", short, "", "token-expired")

	gone, rec, err := f.CA.CreateToken(t.Context(), ca.TokenSpec{MaxUses: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.CA.RevokeToken(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	want("a revoked one", gone, "", "token-revoked")
	if err := f.CA.RevokeToken(t.Context(), "aaaaaaaa"); !errors.Is(err, ca.ErrNoToken) {
		t.Errorf("revoke an unknown one: %v", err)
	}

	list := f.Token(ca.TokenSpec{Devices: map[string]string{"SN-1": "", "SN-2": "box-lobby"}})
	want("not on the list", list, "SN-3", "device-not-listed")
	want("no serial number", list, "", "device-not-listed")
	if id, err := enrol(list, "SN-2"); err != nil || id != "box-lobby" {
		t.Errorf("SN-2 became %q, %v", id, err)
	}
	want("the same device again", list, "SN-2", "device-enrolled")
	want("the other device", list, "SN-1", "<nil>")
	other := f.Token(ca.TokenSpec{Devices: map[string]string{"SN-1": ""}})
	want("the device under another token", other, "SN-1", "device-enrolled")

	want("a name that is taken", f.Token(ca.TokenSpec{BoxID: "box-lobby"}), "", "id-taken")
	lobby, err := f.CA.Box(t.Context(), "box-lobby")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := enrol(f.Token(ca.TokenSpec{BoxID: "box-lobby", Replace: true}), ""); err != nil || id != "box-lobby" {
		t.Errorf("with the operator's leave: %q, %v", id, err)
	}
	if !f.CA.IsRevoked(lobby.Serial) {
		t.Error("the replaced box is still believed")
	}

	good := f.Token(ca.TokenSpec{})
	for _, bad := range []string{"", "bt1-", good[:len(good)-1], good + "a", "bt2" + good[3:], good[:13] + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		want("a wrong token", bad, "", "token-unknown")
	}
	want("the right one", good, "", "<nil>")

	for name, spec := range map[string]ca.TokenSpec{
		"a bad group": {Group: "No Rth"}, "no life": {Life: time.Second}, "for ever": {Life: 50 * 365 * day},
		"too many": {MaxUses: 1 << 30}, "a bad name": {BoxID: "a/b"}, "a name for many": {BoxID: "box-a", MaxUses: 2},
		"one name twice": {Devices: map[string]string{"1": "box-a", "2": "box-a"}}, "a colon": {Devices: map[string]string{"a:b": ""}},
	} {
		if _, _, err := f.CA.CreateToken(t.Context(), spec); err == nil {
			t.Errorf("a token with %s was made", name)
		}
	}
}

func TestTokenCountIsExactUnderLoad(t *testing.T) {
	f := identitytest.New(t)
	token := f.Token(ca.TokenSpec{MaxUses: 10})
	var mu sync.Mutex
	ids, refused := map[string]bool{}, 0
	var wg sync.WaitGroup
	for range 40 {
		req := csr(t, newKey(t))
		wg.Go(func() {
			certs, err := f.CA.Enroll(context.Background(), token, "", req)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ids[certs[0].Subject.CommonName] = true
			} else if code(err) == "token-used-up" {
				refused++
			}
		})
	}
	wg.Wait()
	if len(ids) != 10 || refused != 30 {
		t.Fatalf("%d boxes, %d refused", len(ids), refused)
	}
}

func TestSameKeyIsSameBox(t *testing.T) {
	f := identitytest.New(t)
	token, key := f.Token(ca.TokenSpec{}), newKey(t)
	first, err := f.CA.Enroll(t.Context(), token, "", csr(t, key))
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.CA.Enroll(t.Context(), token, "", csr(t, key))
	if err != nil || again[0].Subject.CommonName != first[0].Subject.CommonName {
		t.Fatalf("asked again: %v", err)
	}
	if _, err := f.CA.Enroll(t.Context(), f.Token(ca.TokenSpec{}), "", csr(t, key)); code(err) != "key-known" {
		t.Fatalf("with another token: %v", err)
	}
	if _, err := f.CA.Renew(t.Context(), again, csr(t, newKey(t))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CA.Enroll(t.Context(), token, "", csr(t, key)); code(err) != "key-spent" {
		t.Fatalf("after a renewal: %v", err)
	}
}

func TestRenewal(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	f := identitytest.New(t, func(o *ca.Options) { o.Now = func() time.Time { return now } })
	key := newKey(t)
	first, err := f.CA.Enroll(t.Context(), f.Token(ca.TokenSpec{Group: "north"}), "", csr(t, key))
	if err != nil {
		t.Fatal(err)
	}
	id := first[0].Subject.CommonName
	now = now.Add(400 * day) // long expired: may renew, and do nothing else
	if _, err := f.CA.VerifyPeer(state(first)); !errors.Is(err, pki.ErrExpired) {
		t.Fatalf("an expired box was let in: %v", err)
	}
	if err := f.CA.SetGroup(t.Context(), id, "south"); err != nil {
		t.Fatal(err)
	}
	lost, err := f.CA.Renew(t.Context(), first, csr(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.CA.Renew(t.Context(), first, csr(t, newKey(t))) // the answer was lost in a power cut
	if err != nil {
		t.Fatal(err)
	}
	if p, err := f.CA.VerifyPeer(state(second)); err != nil || p.BoxID != id || p.Group != "south" {
		t.Fatalf("renewed as %+v, %v", p, err)
	}
	if _, err := f.CA.Renew(t.Context(), lost, csr(t, newKey(t))); code(err) != "certificate-superseded" {
		t.Fatalf("the lost one renewed: %v", err)
	}
	if _, err := f.CA.Renew(t.Context(), second, csr(t, newKey(t))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CA.Renew(t.Context(), first, csr(t, newKey(t))); code(err) != "certificate-superseded" {
		t.Fatalf("a copy of the box renewed: %v", err)
	}
	if _, err := f.CA.Renew(t.Context(), second, csr(t, key)); code(err) != "key-spent" {
		t.Fatalf("with an old key: %v", err)
	}
	if err := f.CA.RevokeBox(t.Context(), id, "stolen"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CA.Renew(t.Context(), second, csr(t, newKey(t))); code(err) != "certificate-revoked" {
		t.Fatalf("a revoked box renewed: %v", err)
	}
	if _, err := f.CA.VerifyPeer(state(second)); !errors.Is(err, pki.ErrRevoked) {
		t.Fatalf("a revoked box was let in: %v", err)
	}
	server, err := f.CA.ServerCert([]string{"x.example"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	inter, err := x509.ParseCertificate(server.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.CA.Renew(t.Context(), []*x509.Certificate{server.Leaf, inter}, csr(t, newKey(t))); code(err) != "certificate-refused" {
		t.Fatalf("a server became a box: %v", err)
	}
	if _, err := identitytest.Named(t, "other").CA.Renew(t.Context(), second, csr(t, newKey(t))); code(err) != "certificate-refused" {
		t.Fatalf("another fleet renewed it: %v", err)
	}
}

// state is a TLS connection on which these certificates were shown.
func state(certs []*x509.Certificate) (cs tls.ConnectionState) {
	cs.PeerCertificates = certs
	return cs
}

func TestRevocationsAreShared(t *testing.T) {
	f := identitytest.New(t)
	store, err := ca.OpenStore(filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	one, err := ca.Open(t.Context(), ca.Options{Dir: f.Dir, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	two, err := ca.Open(t.Context(), ca.Options{Dir: f.Dir, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	changed := two.Changed()
	if err := one.RevokeSerial(t.Context(), "00ABCDEF", "lost"); err != nil {
		t.Fatal(err)
	}
	if two.IsRevoked("abcdef") {
		t.Fatal("the second manager knew before it looked")
	}
	if err := two.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	if !two.IsRevoked("abcdef") || !slices.Equal(two.RevokedSerials(), []string{"abcdef"}) {
		t.Fatalf("the second manager has %v", two.RevokedSerials())
	}
	for _, bad := range []string{"", "xyz", "-1", "0", string(bytes.Repeat([]byte("f"), 50))} {
		if err := one.RevokeSerial(t.Context(), bad, ""); err == nil {
			t.Errorf("serial number %q was taken", bad)
		}
	}
	if err := one.RevokeBox(t.Context(), "box-nobody", ""); !errors.Is(err, ca.ErrNoBox) {
		t.Errorf("an unknown box: %v", err)
	}
}

func TestOfflineRoot(t *testing.T) {
	dir, safe := t.TempDir(), filepath.Join(t.TempDir(), "root.key")
	pass := []byte("correct horse")
	if err := ca.Init(dir, ca.InitOptions{Fleet: "test", Passphrase: pass}); err != nil {
		t.Fatal(err)
	}
	if err := ca.Init(dir, ca.InitOptions{Fleet: "test"}); !errors.Is(err, ca.ErrExists) {
		t.Fatalf("founded twice: %v", err)
	}
	if err := os.Rename(filepath.Join(dir, ca.RootKey), safe); err != nil {
		t.Fatal(err)
	}
	store, err := ca.OpenStore(filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	open := func() *ca.CA {
		c, err := ca.Open(t.Context(), ca.Options{Dir: dir, Store: store})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open()
	token, _, err := c.CreateToken(t.Context(), ca.TokenSpec{MaxUses: 2})
	if err != nil {
		t.Fatal(err)
	}
	old, err := c.Enroll(t.Context(), token, "", csr(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][]byte{nil, []byte("wrong")} {
		if err := ca.RenewIntermediate(dir, pki.Boxes, safe, wrong); !errors.Is(err, ca.ErrPassphrase) {
			t.Fatalf("with passphrase %q: %v", wrong, err)
		}
	}
	if err := ca.RenewIntermediate(dir, pki.Boxes, filepath.Join(dir, "servers.pem"), nil); err == nil {
		t.Fatal("a key that is not the root's was taken")
	}
	if err := ca.RenewIntermediate(dir, pki.Boxes, safe, pass); err != nil {
		t.Fatal(err)
	}
	c = open()
	fresh, err := c.Enroll(t.Context(), token, "", csr(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(old[1].Raw, fresh[1].Raw) {
		t.Fatal("the intermediate is the old one")
	}
	for _, certs := range [][]*x509.Certificate{old, fresh} {
		if _, err := c.VerifyPeer(state(certs)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []any{rsaKey, p384} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ParseCSR(pki.EncodeCSR(der)); err == nil {
			t.Errorf("a %T was taken", key)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-10] ^= 1
	if _, err := pki.ParseCSR(pki.EncodeCSR(der)); err == nil {
		t.Error("a request that is not signed with its key was taken")
	}
}

// Whoever has the boxes' intermediate can make a certificate with the name and number of a real one, but not renew it.
func TestForgedCertificateDoesNotRenew(t *testing.T) {
	f := identitytest.New(t)
	real, err := f.CA.Enroll(t.Context(), f.Token(ca.TokenSpec{}), "", csr(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(f.Dir, "boxes.pem"))
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := keyfile.Decode(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	thief := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, real[0], real[1], &thief.PublicKey, stolen)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := f.CA.VerifyPeer(state([]*x509.Certificate{forged, real[1]})); err != nil || p.Serial != pki.Serial(real[0]) {
		t.Fatalf("the forgery is not good enough for this test: %+v, %v", p, err)
	}
	if _, err := f.CA.Renew(t.Context(), []*x509.Certificate{forged, real[1]}, csr(t, newKey(t))); code(err) != "certificate-refused" {
		t.Fatalf("renewed: %v", err)
	}
	if _, err := f.CA.Renew(t.Context(), real, csr(t, newKey(t))); err != nil {
		t.Fatalf("the real one: %v", err)
	}
}
