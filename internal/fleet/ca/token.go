package ca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"boxd/internal/identity/pki"
)

// A token as boxes carry it is "bt1-<id>-<secret>": 8 and 32 characters of base32, 160 bits of secret.
const (
	tokenPrefix  = "bt1-"
	tokenIDLen   = 8
	secretLen    = 32
	maxDevices   = 100_000
	maxDeviceLen = 64
	maxTokenUses = 10_000_000
	maxTokenLife = 5 * 365 * 24 * time.Hour
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ErrNoToken is returned for a token id that the ledger does not have.
var ErrNoToken = errors.New("no such token")

// TokenSpec is what an operator asks for.
type TokenSpec struct {
	Group   string
	MaxUses int           // zero: 1, or the number of Devices
	Life    time.Duration // zero: 24 hours
	Devices map[string]string
	BoxID   string
	Replace bool
}

func (s *TokenSpec) fill() error {
	if s.MaxUses == 0 {
		s.MaxUses = max(1, len(s.Devices))
	}
	if s.Life == 0 {
		s.Life = 24 * time.Hour
	}
	var errs []error
	if s.Group != "" && !pki.ValidLabel(s.Group) {
		errs = append(errs, fmt.Errorf("group %.60q: want 1 to %d of a-z, 0-9 and -", s.Group, pki.MaxLabel))
	}
	if s.MaxUses < 1 || s.MaxUses > maxTokenUses {
		errs = append(errs, fmt.Errorf("number of uses %d: want 1 to %d", s.MaxUses, maxTokenUses))
	}
	if s.Life < time.Minute || s.Life > maxTokenLife {
		errs = append(errs, fmt.Errorf("life %s: want a minute to five years", s.Life))
	}
	if s.BoxID != "" && (!pki.ValidLabel(s.BoxID) || s.MaxUses != 1 || len(s.Devices) > 0) {
		errs = append(errs, fmt.Errorf("box id %.60q: want a valid name, one use and no list of devices", s.BoxID))
	}
	if len(s.Devices) > maxDevices {
		errs = append(errs, fmt.Errorf("%d devices: at most %d", len(s.Devices), maxDevices))
	}
	ids := map[string]bool{}
	for device, id := range s.Devices {
		switch {
		case device == "" || len(device) > maxDeviceLen || strings.ContainsRune(device, ':'):
			errs = append(errs, fmt.Errorf("device %.70q: want 1 to %d characters and no colon", device, maxDeviceLen))
		case id != "" && (!pki.ValidLabel(id) || ids[id]):
			errs = append(errs, fmt.Errorf("device %q: box id %.60q is not valid or there twice", device, id))
		}
		ids[id] = true
	}
	return errors.Join(errs...)
}

// CreateToken makes a token and returns it as boxes carry it. The secret cannot be had again.
func (c *CA) CreateToken(ctx context.Context, spec TokenSpec) (string, Token, error) {
	if err := spec.fill(); err != nil {
		return "", Token{}, fmt.Errorf("create token: %w", err)
	}
	raw := make([]byte, 25)
	if _, err := rand.Read(raw); err != nil {
		return "", Token{}, fmt.Errorf("create token: %w", err)
	}
	text := base32Lower.EncodeToString(raw)
	id, secret := text[:tokenIDLen], text[tokenIDLen:]
	now := c.opts.Now().UTC()
	t := Token{
		ID: id, Hash: hashSecret(secret), Group: spec.Group, MaxUses: spec.MaxUses, Created: now,
		Expires: now.Add(spec.Life), Devices: spec.Devices, BoxID: spec.BoxID, Replace: spec.Replace,
	}
	err := c.opts.Store.Update(ctx, func(tx Tx) error { return putJSON(tx, TableTokens, id, t) })
	if err != nil {
		return "", Token{}, fmt.Errorf("create token: %w", err)
	}
	c.log.Info("token created", "token", id, "group", t.Group, "max_uses", t.MaxUses, "expires", t.Expires)
	return tokenPrefix + id + "-" + secret, t, nil
}

// Tokens lists all tokens.
func (c *CA) Tokens(ctx context.Context) ([]Token, error) {
	var list []Token
	err := c.opts.Store.View(ctx, func(tx Tx) error {
		list = list[:0]
		return eachJSON(tx, TableTokens, func(t Token) error {
			list = append(list, t)
			return nil
		})
	})
	return list, err
}

// RevokeToken makes a token worthless. Boxes that it admitted stay.
func (c *CA) RevokeToken(ctx context.Context, id string) error {
	err := c.opts.Store.Update(ctx, func(tx Tx) error {
		t, ok, err := getJSON[Token](tx, TableTokens, id)
		if err != nil {
			return err
		}
		if !ok {
			return ErrNoToken
		}
		t.Revoked = c.opts.Now().UTC()
		return putJSON(tx, TableTokens, id, t)
	})
	if err != nil {
		return fmt.Errorf("revoke token %.20q: %w", id, err)
	}
	c.log.Info("token revoked", "token", id)
	return nil
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// parseToken splits a token as a box carries it.
func parseToken(s string) (id, secret string, ok bool) {
	s, ok = strings.CutPrefix(s, tokenPrefix)
	if !ok || len(s) != tokenIDLen+1+secretLen || s[tokenIDLen] != '-' {
		return "", "", false
	}
	id, secret = s[:tokenIDLen], s[tokenIDLen+1:]
	for _, part := range []string{id, secret} {
		if _, err := base32Lower.DecodeString(part); err != nil {
			return "", "", false
		}
	}
	return id, secret, true
}

func (t Token) matches(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(t.Hash), []byte(hashSecret(secret))) == 1
}
