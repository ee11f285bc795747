package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"boxd/internal/durable"
	"boxd/internal/fleet/keyfile"
	"boxd/internal/identity/pki"
)

// A new intermediate with the root's key offline takes three steps, and no private key travels: the fleet manager makes
// key and request (RequestIntermediate), whoever holds the root key signs it (SignIntermediate), the fleet manager takes
// the certificate (InstallIntermediate) and is restarted. Certificates that the old intermediate issued stay
// valid, since each is shown together with its issuer.

const nextSuffix = ".next.key"

// RequestIntermediate makes the next key of a role in a CA directory and returns the request to sign, in PEM form.
func RequestIntermediate(dir string, role pki.Role) ([]byte, error) {
	if role != pki.Boxes && role != pki.Servers {
		return nil, fmt.Errorf("no intermediate is called %q", role)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	if err := writeKey(durable.OS(), filepath.Join(dir, string(role)+nextSuffix), key, nil); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: string(role)},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("request the intermediate for %s: %w", role, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// SignIntermediate runs where the root's key is. It returns the certificate in PEM form; of the request only the key is used.
func SignIntermediate(rootPEM, rootKeyPEM, passphrase, request []byte, role pki.Role) ([]byte, error) {
	root, err := parseCert(rootPEM)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	key, err := parseKey(rootKeyPEM, passphrase)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	if !key.PublicKey.Equal(root.PublicKey) {
		return nil, errors.New("the key is not the key of this root certificate")
	}
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("the request is not a certificate request in PEM form")
	}
	csr, err := pki.ParseCSR(pki.EncodeCSR(block.Bytes))
	if err != nil {
		return nil, err
	}
	if csr.Subject.CommonName != string(role) {
		return nil, fmt.Errorf("the request is for %.40q, not for %s", csr.Subject.CommonName, role)
	}
	cert, err := signIntermediate(root, key, csr.PublicKey, role)
	if err != nil {
		return nil, err
	}
	return certPEM(cert), nil
}

// InstallIntermediate takes a signed certificate and the key that waits for it into use, at the next Open.
func InstallIntermediate(dir string, role pki.Role, certificate []byte) error {
	fsys := durable.OS()
	root, err := readCert(fsys, filepath.Join(dir, RootCert))
	if err != nil {
		return err
	}
	cert, err := parseCert(certificate)
	if err != nil {
		return err
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("the certificate was not issued by this root: %w", err)
	}
	if ou := cert.Subject.OrganizationalUnit; len(ou) != 1 || ou[0] != string(role) {
		return fmt.Errorf("the certificate is for %v, not for %s", ou, role)
	}
	next := filepath.Join(dir, string(role)+nextSuffix)
	key, err := readKey(fsys, next, nil)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return errors.New("the certificate is not for the key that waits for one")
	}
	if err := writeIntermediate(fsys, dir, role, key, cert); err != nil {
		return err
	}
	return durable.RemoveFile(fsys, next)
}

// Intermediate is the certificate of a role that is installed in a CA directory.
func Intermediate(dir string, role pki.Role) (*x509.Certificate, error) {
	return readCert(durable.OS(), filepath.Join(dir, string(role)+".pem"))
}

// RenewIntermediate does all three steps where the root's key file can be read.
func RenewIntermediate(dir string, role pki.Role, rootKeyFile string, passphrase []byte) error {
	fsys := durable.OS()
	root, err := durable.ReadFile(fsys, filepath.Join(dir, RootCert), maxFile)
	if err != nil {
		return err
	}
	rootKey, err := durable.ReadFile(fsys, rootKeyFile, maxFile)
	if err != nil {
		return err
	}
	request, err := RequestIntermediate(dir, role)
	if err != nil {
		return err
	}
	cert, err := SignIntermediate(root, rootKey, passphrase, request, role)
	if err != nil {
		return fmt.Errorf("%s: %w", rootKeyFile, err)
	}
	return InstallIntermediate(dir, role, cert)
}

// makeIntermediate is for Init, which has all keys at hand.
func makeIntermediate(fsys durable.FS, dir string, root *x509.Certificate, rootKey crypto.Signer, role pki.Role) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	cert, err := signIntermediate(root, rootKey, &key.PublicKey, role)
	if err != nil {
		return err
	}
	return writeIntermediate(fsys, dir, role, key, cert)
}

// signIntermediate makes the certificate. It begins when the root begins: a box whose clock stands at its floor must be able
// to believe it.
func signIntermediate(root *x509.Certificate, rootKey crypto.Signer, pub crypto.PublicKey, role pki.Role) (*x509.Certificate, error) {
	t := &x509.Certificate{
		Subject: pkix.Name{
			CommonName:   root.Subject.Organization[0] + " " + string(role),
			Organization: root.Subject.Organization, OrganizationalUnit: []string{string(role)},
		},
		NotBefore: root.NotBefore, NotAfter: root.NotBefore.Add(interLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	switch role {
	case pki.Boxes:
		// Boxes are servers to each other, and never to anybody who asks for a host by name or address: no host name can be
		// issued under this intermediate that a standard TLS client would take.
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		t.PermittedDNSDomainsCritical = true
		t.PermittedDNSDomains = []string{"boxd.invalid"}
		t.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	case pki.Servers:
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	default:
		return nil, fmt.Errorf("no intermediate is called %q", role)
	}
	return sign(t, root, pub, rootKey)
}

// writeIntermediate has key and certificate in one file, so that they always match.
func writeIntermediate(fsys durable.FS, dir string, role pki.Role, key *ecdsa.PrivateKey, cert *x509.Certificate) error {
	block, err := keyfile.Encode(key, nil)
	if err != nil {
		return err
	}
	return durable.WriteFile(fsys, filepath.Join(dir, string(role)+".pem"), append(block, certPEM(cert)...), 0o600)
}
