package identity_test

import (
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
	"boxd/internal/identity/pki"
)

// who answers with the name and the serial number of the box that asks.
func who(f *identitytest.Fleet) http.Handler {
	return f.CA.RequireBox(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := ca.PeerFrom(r.Context())
		io.WriteString(w, p.BoxID+" "+p.Serial)
	}))
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// A client that was made, and used, before enrolment and before a renewal shows the certificate of now.
func TestClientShowsTheCertificateOfNow(t *testing.T) {
	f := identitytest.New(t)
	url := f.Serve(who(f))
	opts := f.Options()
	opts.EnrollURL, opts.Token = url, f.Token(ca.TokenSpec{BoxID: "box-a"})
	box, err := identity.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*http.Client{
		"HTTPClient": box.HTTPClient(10 * time.Second),
		"Transport":  {Transport: box.Transport(&http.Transport{}), Timeout: time.Minute},
	} {
		defer c.CloseIdleConnections()
		if status, text := get(t, c, url+"/x"); !box.Enrolled() && status != 403 {
			t.Fatalf("%s, not enrolled: %d %s", name, status, text)
		}
		if err := box.Enroll(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if status, text := get(t, c, url+"/x"); status != 200 || text != "box-a "+box.Serial() {
				t.Fatalf("%s: %d %s, the certificate is %s", name, status, text, box.Serial())
			}
			if err := box.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestHTTPClientLearnsTheTime(t *testing.T) {
	f := identitytest.New(t)
	url := f.Serve(who(f))
	box := f.Box("box-a", "g", in1970(at(woken)))
	if _, trusted := box.Now(); trusted {
		t.Fatal("trusted before anything")
	}
	if status, text := get(t, box.HTTPClient(10*time.Second), url+"/x"); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if now, trusted := box.Now(); !trusted || time.Since(now).Abs() > time.Minute {
		t.Fatalf("after an answer it is %s, trusted %v", now, trusted)
	}
}

// Being refused before enrolment, which every box is at its first start, does not use up the one renewal that being refused
// is worth within an hour: a box that is revoked in its first hour gets to know it.
func TestRefusedBeforeEnrolment(t *testing.T) {
	f := identitytest.New(t)
	url := f.Serve(who(f))
	opts := f.Options()
	opts.EnrollURL, opts.Token = url, f.Token(ca.TokenSpec{BoxID: "box-a"})
	box, err := identity.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	c := box.HTTPClient(10 * time.Second)
	defer c.CloseIdleConnections()
	if status, text := get(t, c, url+"/x"); status != 403 {
		t.Fatalf("not enrolled: %d %s", status, text)
	}
	if err := box.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, text := get(t, c, url+"/x"); status != 200 || box.RenewalDue() {
		t.Fatalf("enrolled: %d %s, renewal due %v", status, text, box.RenewalDue())
	}
	if err := f.CA.RevokeBox(t.Context(), "box-a", "stolen"); err != nil {
		t.Fatal(err)
	}
	if status, text := get(t, c, url+"/x"); status != 403 || !box.RenewalDue() {
		t.Fatalf("revoked: %d %s, renewal due %v", status, text, box.RenewalDue())
	}
}

// The boxes' intermediate was stolen: it is revoked, a new one is made, and the boxes move over by themselves; what the
// thief makes with the old one gets him nothing.
func TestStolenIntermediate(t *testing.T) {
	store, err := ca.OpenStore(t.TempDir() + "/ledger.db")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f := identitytest.New(t, func(o *ca.Options) { o.Store = store })
	home := t.TempDir() + "/identity"
	box := f.Box("box-a", "g", func(o *identity.Options) { o.Dir = home })
	old := boxCert(t, box)
	inter, err := x509.ParseCertificate(old.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.RenewIntermediate(f.Dir, pki.Boxes, f.Dir+"/"+ca.RootKey, nil); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Open(t.Context(), ca.Options{Dir: f.Dir, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.RevokeSerial(t.Context(), pki.Serial(inter), "stolen"); err != nil {
		t.Fatal(err)
	}
	f.CA = authority
	url := f.Serve(who(f))
	opts := f.Options()
	opts.EnrollURL, opts.Dir = url, home // the same box again, with an address to renew at
	if box, err = identity.Open(opts); err != nil {
		t.Fatal(err)
	}
	c := box.HTTPClient(10 * time.Second)
	if box.RenewalDue() {
		t.Fatal("due before anything happened")
	}
	if status, text := get(t, c, url+"/x"); status != 403 || !strings.Contains(text, "revoked") {
		t.Fatalf("under a revoked intermediate: %d %s", status, text)
	}
	if !box.RenewalDue() {
		t.Fatal("a box that is refused does not ask for another certificate")
	}
	if err := box.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if box.RenewalDue() {
		t.Fatal("due again")
	}
	if status, text := get(t, c, url+"/x"); status != 200 {
		t.Fatalf("after the renewal: %d %s", status, text)
	}
	box.SetRevoked([]string{pki.Serial(inter)})
	if box.RenewalDue() {
		t.Fatal("the new certificate is under the old intermediate")
	}
}
