package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"

	"boxd/internal/durable"
	"boxd/internal/fleet/keyfile"
)

// ErrPassphrase is returned for an encrypted key when the passphrase is missing or wrong.
var ErrPassphrase = keyfile.ErrPassphrase

func writeKey(fsys durable.FS, name string, key *ecdsa.PrivateKey, passphrase []byte) error {
	data, err := keyfile.Encode(key, passphrase)
	if err != nil {
		return err
	}
	return durable.WriteFile(fsys, name, data, 0o600)
}

// readKey reads the first private key of a PEM file.
func readKey(fsys durable.FS, name string, passphrase []byte) (*ecdsa.PrivateKey, error) {
	data, err := durable.ReadFile(fsys, name, maxFile)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(data, passphrase)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	return key, nil
}

func parseKey(data, passphrase []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := keyfile.Decode(data, passphrase)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("want a P-256 key")
	}
	return key, nil
}
