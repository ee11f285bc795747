package ca_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/identity/identitytest"
	"boxd/internal/identity/pki"
)

// post sends one request to the enrolment service and returns status and body.
func post(t *testing.T, f *identitytest.Fleet, url, token, contentType string, body []byte, certs ...tls.Certificate) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if token != "" {
		req.SetBasicAuth("", token)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.CA.Pool(), Certificates: certs}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestServiceRefusesBadInput(t *testing.T) {
	f := identitytest.New(t)
	base := f.Serve(nil) + "/.well-known/est/"
	good := pki.EncodeCSR(csr(t, newKey(t)).Raw)
	token := f.Token(ca.TokenSpec{})
	for _, c := range []struct {
		name, op, token, kind string
		body                  []byte
		status                int
		text                  string
	}{
		{"no token", "simpleenroll", "", pki.TypeCSR, good, 401, "token-missing"},
		{"wrong token", "simpleenroll", "bt1-x", pki.TypeCSR, good, 401, "token-unknown"},
		{"wrong type", "simpleenroll", token, "text/plain", good, 415, "bad-request"},
		{"no body", "simpleenroll", token, pki.TypeCSR, nil, 400, "bad-request"},
		{"garbage", "simpleenroll", token, pki.TypeCSR, []byte("!!!!"), 400, "bad-request"},
		{"huge", "simpleenroll", token, pki.TypeCSR, bytes.Repeat([]byte("A"), 1<<20), 400, "bad-request"},
		{"renewal without a certificate", "simplereenroll", "", pki.TypeCSR, good, 403, "certificate-missing"},
		{"unknown operation", "serverkeygen", token, pki.TypeCSR, good, 404, ""},
	} {
		if status, text := post(t, f, base+c.op, c.token, c.kind, c.body); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %s", c.name, status, text)
		}
	}
	if status, text := post(t, f, base+"simpleenroll", token, pki.TypeCSR, good); status != 200 {
		t.Errorf("the good one: %d %s", status, text)
	}
}

// An expired certificate renews over the wire, and gets nothing else.
func TestExpiredBoxMayOnlyRenew(t *testing.T) {
	now := time.Now()
	f := identitytest.New(t, func(o *ca.Options) { o.Now = func() time.Time { return now } })
	box := f.Box("box-a", "g")
	now = now.Add(100 * 24 * time.Hour)
	url := f.Serve(f.CA.RequireBox(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := ca.PeerFrom(r.Context())
		io.WriteString(w, "hello "+p.BoxID)
	})))
	cert, err := box.SwarmServer().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, text := post(t, f, url+"/origin/x", "", "", nil, *cert); status != 403 || !strings.Contains(text, "expired") {
		t.Errorf("an expired box: %d %s", status, text)
	}
	if status, text := post(t, f, url+"/origin/x", "", "", nil); status != 403 {
		t.Errorf("nobody: %d %s", status, text)
	}
	key := newKey(t)
	status, text := post(t, f, url+"/.well-known/est/simplereenroll", "", pki.TypeCSR, pki.EncodeCSR(csr(t, key).Raw), *cert)
	if status != 200 {
		t.Fatalf("renewal: %d %s", status, text)
	}
	certs, err := pki.ParseCerts([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	fresh := tls.Certificate{Certificate: [][]byte{certs[0].Raw, certs[1].Raw}, PrivateKey: key}
	if status, text := post(t, f, url+"/origin/x", "", "", nil, fresh); status != 200 || text != "hello box-a" {
		t.Errorf("with the new certificate: %d %s", status, text)
	}
	if err := f.CA.RevokeBox(t.Context(), "box-a", "stolen"); err != nil {
		t.Fatal(err)
	}
	if status, text := post(t, f, url+"/origin/x", "", "", nil, fresh); status != 403 || !strings.Contains(text, "revoked") {
		t.Errorf("revoked: %d %s", status, text)
	}
}

func TestBrokerPort(t *testing.T) {
	f, other := identitytest.New(t), identitytest.Named(t, "other")
	cfg := f.CA.BrokerTLS("127.0.0.1")
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	try := func(client *tls.Config) error {
		c, err := tls.Dial("tcp", l.Addr().String(), client)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}
	a := f.Box("box-a", "g")
	if err := try(a.FleetClient()); err != nil {
		t.Error(err)
	}
	if err := try(other.Box("box-a", "g").FleetClient()); err == nil {
		t.Error("a box of another fleet believed this broker")
	}
	cert, err := other.Box("box-b", "g").SwarmServer().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := try(&tls.Config{RootCAs: f.CA.Pool(), Certificates: []tls.Certificate{*cert}}); err == nil {
		t.Error("a box of another fleet was let in")
	}
	if err := try(&tls.Config{RootCAs: f.CA.Pool()}); err == nil {
		t.Error("nobody was let in")
	}
	if err := f.CA.RevokeBox(t.Context(), "box-a", "stolen"); err != nil {
		t.Fatal(err)
	}
	if err := try(a.FleetClient()); err == nil {
		t.Error("a revoked box was let in")
	}
}

// Debian's openssl takes part in every exchange, so that the formats are the standard's and not only ours.
func TestOpensslAgrees(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	f := identitytest.New(t)
	url := f.Serve(nil)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	openssl := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "openssl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file("box.key"),
		"-out", file("box.csr"), "-outform", "DER", "-subj", "/CN=whatever")
	der, err := os.ReadFile(file("box.csr"))
	if err != nil {
		t.Fatal(err)
	}
	status, body := post(t, f, url+"/.well-known/est/simpleenroll", f.Token(ca.TokenSpec{Group: "g"}), pki.TypeCSR, pki.EncodeCSR(der))
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	wrapped := "-----BEGIN PKCS7-----\n" + body + "-----END PKCS7-----\n"
	if err := os.WriteFile(file("answer.p7"), []byte(wrapped), 0o600); err != nil {
		t.Fatal(err)
	}
	chain := openssl("pkcs7", "-in", file("answer.p7"), "-print_certs")
	if strings.Count(chain, "BEGIN CERTIFICATE") != 2 {
		t.Fatalf("openssl reads:\n%s", chain)
	}
	if err := os.WriteFile(file("chain.pem"), []byte(chain), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, purpose := range []string{"sslclient", "sslserver"} {
		openssl("verify", "-purpose", purpose, "-CAfile", f.CAFile, "-untrusted", file("chain.pem"), file("chain.pem"))
	}
	cert, key, err := f.CA.ServerPEM([]string{"fleet.example", "192.0.2.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("server.pem"), append(cert, key...), 0o600); err != nil {
		t.Fatal(err)
	}
	openssl("verify", "-purpose", "sslserver", "-verify_hostname", "fleet.example", "-CAfile", f.CAFile,
		"-untrusted", file("server.pem"), file("server.pem"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, bad := range [][]string{
		{"-purpose", "sslclient", "-untrusted", file("server.pem"), file("server.pem")},   // a server is no client
		{"-verify_hostname", "box-a", "-untrusted", file("chain.pem"), file("chain.pem")}, // a box is no host
		{"-verify_ip", "192.0.2.1", "-untrusted", file("chain.pem"), file("chain.pem")},   //
		{"-purpose", "sslserver", "-verify_hostname", "other.example", "-untrusted", file("server.pem"), file("server.pem")},
	} {
		args := append([]string{"verify", "-CAfile", f.CAFile}, bad...)
		if out, err := exec.CommandContext(ctx, "openssl", args...).CombinedOutput(); err == nil {
			t.Errorf("openssl %v agreed:\n%s", args, out)
		}
	}
	home := t.TempDir()
	if err := ca.Init(home, ca.InitOptions{Fleet: "second", Passphrase: []byte("a b c")}); err != nil {
		t.Fatal(err)
	}
	plain := openssl("pkey", "-in", filepath.Join(home, ca.RootKey), "-passin", "pass:a b c")
	block, _ := pem.Decode([]byte(plain))
	if block == nil {
		t.Fatalf("openssl reads the root key as:\n%s", plain)
	}
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		t.Fatal(err)
	}
	openssl("pkcs8", "-topk8", "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "10000", "-passout", "pass:x",
		"-passin", "pass:a b c", "-in", filepath.Join(home, ca.RootKey), "-out", file("moved.key"))
	if err := ca.RenewIntermediate(home, pki.Servers, file("moved.key"), []byte("x")); err != nil {
		t.Errorf("a root key that openssl encrypted: %v", err)
	}
}
