package repo

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"boxd/internal/durable"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// GenerateKey makes an ed25519 key and writes it durably to dir/name.pem (PKCS #8, mode 0600). It does not replace a key.
func GenerateKey(fsys durable.FS, dir, name string) (ed25519.PrivateKey, error) {
	file := filepath.Join(dir, name+".pem")
	if _, err := fsys.Stat(file); err == nil {
		return nil, fmt.Errorf("key %s: %w", file, ErrExists)
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, err
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := durable.WriteFile(fsys, file, b, 0o600); err != nil {
		return nil, fmt.Errorf("key %s: %w", file, err)
	}
	return priv, nil
}

// ParseKey reads a private key as GenerateKey or openssl genpkey writes it.
func ParseKey(pemBytes []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil {
		return nil, errors.New("private key: not a PEM file")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	priv, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("private key: a %T, want ed25519", k)
	}
	return priv, nil
}

// MarshalPublicKey writes a public key as a PEM file (PKIX) that can be carried to another machine.
func MarshalPublicKey(k ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParsePublicKey reads what MarshalPublicKey or openssl pkey -pubout writes.
func ParsePublicKey(pemBytes []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil {
		return nil, errors.New("public key: not a PEM file")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	pub, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("public key: a %T, want ed25519", k)
	}
	return pub, nil
}

// keyring is the private keys that are on this machine, by TUF key id.
type keyring map[string]ed25519.PrivateKey

func loadKeyring(fsys durable.FS, dir string) (keyring, error) {
	entries, err := fsys.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return keyring{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keys in %s: %w", dir, err)
	}
	ring := keyring{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".pem") || strings.HasSuffix(e.Name(), ".pub.pem") {
			continue
		}
		b, err := durable.ReadFile(fsys, filepath.Join(dir, e.Name()), 16<<10)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", e.Name(), err)
		}
		priv, err := ParseKey(b)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", e.Name(), err)
		}
		if err := ring.add(priv); err != nil {
			return nil, fmt.Errorf("key %s: %w", e.Name(), err)
		}
	}
	return ring, nil
}

func (k keyring) add(priv ed25519.PrivateKey) error {
	_, id, err := tufKey(priv.Public().(ed25519.PublicKey))
	if err == nil {
		k[id] = priv
	}
	return err
}

func tufKey(pub ed25519.PublicKey) (*metadata.Key, string, error) {
	key, err := metadata.KeyFromPublicKey(pub)
	if err != nil {
		return nil, "", err
	}
	id, err := key.ID()
	return key, id, err
}

// sign signs m afresh with those of the keys ids that are here, and says whether they reach the threshold.
func sign[T metadata.Roles](k keyring, m *metadata.Metadata[T], ids []string, threshold int) (bool, error) {
	m.ClearSignatures()
	n := 0
	for _, id := range ids {
		priv, ok := k[id]
		if !ok {
			continue
		}
		if err := addSignature(m, priv); err != nil {
			return false, err
		}
		n++
	}
	return n > 0 && n >= threshold, nil
}

func addSignature[T metadata.Roles](m *metadata.Metadata[T], priv ed25519.PrivateKey) error {
	signer, err := signature.LoadED25519Signer(priv)
	if err != nil {
		return err
	}
	_, err = m.Sign(signer)
	return err
}
