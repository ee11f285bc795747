package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"time"

	"boxd/internal/durable"
	"boxd/internal/identity/pki"
)

// The files of a CA directory. root.key may be moved away: it is needed only to make new intermediates.
const (
	RootCert = "root.pem"
	RootKey  = "root.key"
)

const (
	rootLife  = 25 * 365 * 24 * time.Hour
	interLife = 20 * 365 * 24 * time.Hour
	maxFile   = 64 << 10
)

// ErrExists is returned by Init for a directory that has a CA.
var ErrExists = errors.New("there is a certificate authority already")

// InitOptions say what fleet is founded.
type InitOptions struct {
	Fleet string     // fleet id, see pki.ValidLabel
	FS    durable.FS // nil: the operating system's
	Now   time.Time  // zero: time.Now
	// Passphrase, when there is one, encrypts root.key (PKCS#8, PBES2), so that a copy of the directory is not enough.
	Passphrase []byte
}

// Init makes a root and its two intermediates in a directory that has none. It is done when root.pem is there: after a
// power cut before that, Init starts over.
func Init(dir string, opts InitOptions) error {
	if !pki.ValidLabel(opts.Fleet) {
		return fmt.Errorf("fleet id %q: want 1 to %d of a-z, 0-9 and -", opts.Fleet, pki.MaxLabel)
	}
	if opts.FS == nil {
		opts.FS = durable.OS()
	}
	if opts.Now.IsZero() {
		opts.Now = time.Now()
	}
	switch _, err := opts.FS.Stat(filepath.Join(dir, RootCert)); {
	case err == nil:
		return fmt.Errorf("%s: %w", dir, ErrExists)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := opts.FS.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	root, err := makeRoot(key, opts)
	if err != nil {
		return err
	}
	for _, role := range []pki.Role{pki.Boxes, pki.Servers} {
		if err := makeIntermediate(opts.FS, dir, root, key, role); err != nil {
			return err
		}
	}
	if err := writeKey(opts.FS, filepath.Join(dir, RootKey), key, opts.Passphrase); err != nil {
		return err
	}
	return writeCerts(opts.FS, filepath.Join(dir, RootCert), root)
}

func makeRoot(key *ecdsa.PrivateKey, opts InitOptions) (*x509.Certificate, error) {
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: opts.Fleet + " root", Organization: []string{opts.Fleet}},
		NotBefore: opts.Now.Add(-time.Hour), NotAfter: opts.Now.Add(rootLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLen: 1,
	}
	return sign(t, t, &key.PublicKey, key)
}

// sign gives a certificate a random serial number and the signature of its parent.
func sign(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, always 16 bytes
	t.SerialNumber = new(big.Int).SetBytes(serial)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %q: %w", t.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func writeCerts(fsys durable.FS, name string, certs ...*x509.Certificate) error {
	var data []byte
	for _, c := range certs {
		data = append(data, certPEM(c)...)
	}
	return durable.WriteFile(fsys, name, data, 0o644)
}

func readCert(fsys durable.FS, name string) (*x509.Certificate, error) {
	data, err := durable.ReadFile(fsys, name, maxFile)
	if err != nil {
		return nil, err
	}
	cert, err := parseCert(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return cert, nil
}

// parseCert reads the first certificate of a PEM file.
func parseCert(data []byte) (*x509.Certificate, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("no certificate in it")
		}
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
}
