package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"boxd/internal/durable"
	"boxd/internal/health"
)

// load reads identity.pem, or else key.pem, or else makes a key. A file that is damaged or of another fleet is set
// aside, never deleted, and the box starts over with a new key: it is named in the health codes.
func (i *Identity) load() error {
	fsys := i.opts.FS
	if err := fsys.MkdirAll(i.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("identity directory: %w", err)
	}
	if err := fsys.SyncDir(filepath.Dir(i.opts.Dir)); err != nil {
		return fmt.Errorf("identity directory: %w", err)
	}
	switch data, err := durable.ReadFile(fsys, i.path(identityFile), maxFile); {
	case err == nil:
		cred, err := i.parseIdentity(data)
		if err == nil {
			if cred.token == "" { // of an older program, or made elsewhere
				cred.token = digest(i.opts.Token)
			}
			i.cred = cred
			return nil
		}
		i.setAside(err)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read identity: %w", err)
	}
	switch data, err := durable.ReadFile(fsys, i.path(keyFile), maxFile); {
	case err == nil:
		if key, _, err := parseKey(data); err == nil {
			i.key = key
			return nil
		}
		i.log.Warn("key file is damaged, a new key is made")
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read key: %w", err)
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	if err := i.saveKey(keyFile, key); err != nil {
		return err
	}
	i.key = key
	return nil
}

func (i *Identity) parseIdentity(data []byte) (*credential, error) {
	key, rest, err := parseKey(data)
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(rest)
	if err != nil {
		return nil, err
	}
	cred, err := newCredential(i.root, key, certs)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		cred.token = block.Headers[tokenHeader]
	}
	return cred, nil
}

func (i *Identity) setAside(why error) {
	i.log.Warn("identity set aside", "file", i.path(identityFile), "error", why)
	w := health.Warning{Code: "identity-damaged", Severity: health.Critical}
	if errors.Is(why, ErrOtherFleet) {
		w = health.Warning{Code: "certificate-other-fleet", Severity: health.Critical}
	}
	w.Text = "The box's certificate cannot be used and was set aside: " + why.Error()
	w.Action = "Enrol the box again with a new token."
	i.opts.Health.Raise(w)
	if err := i.opts.FS.Rename(i.path(identityFile), i.path(identityFile+".bad")); err != nil {
		i.log.Warn("identity not set aside", "error", err)
		return
	}
	if err := i.opts.FS.SyncDir(i.opts.Dir); err != nil {
		i.log.Warn("identity directory not synced", "error", err)
	}
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

func (i *Identity) saveKey(name string, key *ecdsa.PrivateKey) error {
	block, err := keyPEM(key, "")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(i.opts.FS, i.path(name), block, 0o600); err != nil {
		return fmt.Errorf("save key: %w", err)
	}
	return nil
}

// keyAgain is the key for enrolling once more: it is on disk before it is shown to anybody, so that a power cut does not
// waste the token.
func (i *Identity) keyAgain() (*ecdsa.PrivateKey, error) {
	data, err := durable.ReadFile(i.opts.FS, i.path(againFile), maxFile)
	if err == nil {
		if key, _, err := parseKey(data); err == nil {
			return key, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	return key, i.saveKey(againFile, key)
}

// saveIdentity replaces key and certificate as one, then forgets the key of enrolment.
func (i *Identity) saveIdentity(c *credential) error {
	data, err := keyPEM(c.key, c.token)
	if err != nil {
		return err
	}
	for _, der := range c.tls.Certificate {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := durable.WriteFile(i.opts.FS, i.path(identityFile), data, 0o600); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	for _, name := range []string{keyFile, againFile} {
		if err := durable.RemoveFile(i.opts.FS, i.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			i.log.Warn("spent key file not removed", "file", name, "error", err)
		}
	}
	return nil
}

// tokenHeader is the PEM header of the key in identity.pem that names the token which admitted the box, by its digest.
const tokenHeader = "Token-SHA-256"

func keyPEM(key *ecdsa.PrivateKey, token string) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	block := &pem.Block{Type: "PRIVATE KEY", Bytes: der}
	if token != "" {
		block.Headers = map[string]string{tokenHeader: token}
	}
	return pem.EncodeToMemory(block), nil
}

// parseKey reads the first PEM block, which is a P-256 key, and returns what follows.
func parseKey(data []byte) (*ecdsa.PrivateKey, []byte, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, nil, errors.New("the file does not begin with a private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("private key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, nil, errors.New("private key: want a P-256 key")
	}
	return key, rest, nil
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("unexpected %q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		certs = append(certs, c)
	}
}
