// Package ops signs what changes a box: desired state and commands, by the fleet's operations role, for one box or one
// group, until a moment. Brokers, caches and a stolen manager without the key can only pass it on or withhold it.
//
// An envelope is JSON: {"v":1,"signed":{…},"signatures":[{"key":"<id>","sig":"<base64>"}]}. The signature (Ed25519) is over
// "boxd operations v1" and a zero byte, then the bytes of "signed" without insignificant white space.
//
// Invariants: Verify returns a message only if one of the known keys signed exactly these bytes, for this fleet and for
// this box or a group it is in, and the message has not expired. Nothing is looked at before the signature is good.
package ops

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxEnvelope is how large an envelope may be, in bytes.
const MaxEnvelope = 48 << 10

// GroupPrefix marks a group in Message.To: "group:<name>".
const GroupPrefix = "group:"

const (
	version       = 1
	context       = "boxd operations v1\x00"
	maxSignatures = 8
	maxKind       = 40
	maxID         = 64
)

// What can be wrong with an envelope; the errors of Verify wrap one of these.
var (
	ErrMalformed = errors.New("the envelope is malformed")
	ErrVersion   = errors.New("the envelope is of a newer version")
	ErrSignature = errors.New("no operations key signed this")
	ErrNotForMe  = errors.New("the message is for somebody else")
	ErrExpired   = errors.New("the message has expired")
)

// Message is what was signed.
type Message struct {
	Fleet   string          `json:"fleet"`
	To      string          `json:"to"`   // a box id, or "group:<name>"
	Kind    string          `json:"kind"` // such as "desired" or "cmd"
	ID      string          `json:"id"`   // unique; the receiver's key to do a thing once
	Issued  time.Time       `json:"issued"`
	Expires time.Time       `json:"expires"`
	Payload json.RawMessage `json:"payload"`
}

// Box is who reads a message.
type Box struct {
	Fleet  string
	ID     string
	Groups []string
}

type envelope struct {
	V          int             `json:"v"`
	Signed     json.RawMessage `json:"signed"`
	Signatures []signature     `json:"signatures"`
}

type signature struct {
	Key string `json:"key"`
	Sig []byte `json:"sig"`
}

// KeyID names a public key: the first 16 hexadecimal digits of its SHA-256.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// Sign makes an envelope with a new id, issued now, for a box id or "group:<name>" of a fleet.
func Sign(key ed25519.PrivateKey, fleet, kind, to string, expires time.Time, payload json.RawMessage) ([]byte, error) {
	raw := make([]byte, 12)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("sign %s for %s: %w", kind, to, err)
	}
	return SignMessage(key, Message{
		Fleet: fleet, To: to, Kind: kind, ID: base64.RawURLEncoding.EncodeToString(raw),
		Issued: time.Now().UTC().Truncate(time.Second), Expires: expires.UTC().Truncate(time.Second), Payload: payload,
	})
}

// SignMessage makes an envelope of a message that is filled in already.
func SignMessage(key ed25519.PrivateKey, m Message) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("sign %s for %s: the key is not an Ed25519 key", m.Kind, m.To)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("sign %s for %s: %w", m.Kind, m.To, err)
	}
	signed, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("sign %s for %s: %w", m.Kind, m.To, err)
	}
	sig := ed25519.Sign(key, append([]byte(context), signed...))
	data, err := json.Marshal(envelope{V: version, Signed: signed, Signatures: []signature{
		{Key: KeyID(key.Public().(ed25519.PublicKey)), Sig: sig},
	}})
	if err != nil {
		return nil, fmt.Errorf("sign %s for %s: %w", m.Kind, m.To, err)
	}
	if len(data) > MaxEnvelope {
		return nil, fmt.Errorf("sign %s for %s: %w: %d bytes, at most %d", m.Kind, m.To, ErrMalformed, len(data), MaxEnvelope)
	}
	return data, nil
}

// Verify reads an envelope that came over an untrusted path. now may be a time floor: it is used only to see whether the
// message has expired.
func Verify(keys []ed25519.PublicKey, data []byte, self Box, now time.Time) (Message, error) {
	e, err := parse(data)
	if err != nil {
		return Message{}, err
	}
	var signed bytes.Buffer
	if err := json.Compact(&signed, e.Signed); err != nil {
		return Message{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if !signedBy(keys, append([]byte(context), signed.Bytes()...), e.Signatures) {
		return Message{}, ErrSignature
	}
	var m Message
	if err := strict(signed.Bytes(), &m); err != nil {
		return Message{}, err
	}
	if err := m.check(); err != nil {
		return Message{}, err
	}
	if !self.is(m.Fleet, m.To) {
		return Message{}, fmt.Errorf("%w: for %s of fleet %s", ErrNotForMe, m.To, m.Fleet)
	}
	if now.After(m.Expires) {
		return Message{}, fmt.Errorf("%w at %s", ErrExpired, m.Expires.Format(time.RFC3339))
	}
	return m, nil
}

func parse(data []byte) (envelope, error) {
	var e envelope
	if len(data) > MaxEnvelope {
		return e, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(data), MaxEnvelope)
	}
	var v struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return e, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if v.V > version {
		return e, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v.V, version)
	}
	if err := strict(data, &e); err != nil {
		return e, err
	}
	if e.V != version || len(e.Signed) == 0 || len(e.Signatures) == 0 || len(e.Signatures) > maxSignatures {
		return e, fmt.Errorf("%w: version %d with %d signatures", ErrMalformed, e.V, len(e.Signatures))
	}
	return e, nil
}

// signedBy reports whether a key that is known by its id made one of the signatures.
func signedBy(keys []ed25519.PublicKey, msg []byte, sigs []signature) bool {
	for _, key := range keys {
		if len(key) != ed25519.PublicKeySize {
			continue
		}
		id := KeyID(key)
		for _, s := range sigs {
			if s.Key == id && ed25519.Verify(key, msg, s.Sig) {
				return true
			}
		}
	}
	return false
}

func (b Box) is(fleet, to string) bool {
	if fleet != b.Fleet || fleet == "" {
		return false
	}
	if group, ok := strings.CutPrefix(to, GroupPrefix); ok {
		return slices.Contains(b.Groups, group)
	}
	return to == b.ID && to != ""
}

func (m Message) check() error {
	name, _ := strings.CutPrefix(m.To, GroupPrefix)
	switch {
	case !validName(m.Fleet):
		return fmt.Errorf("%w: fleet %.60q", ErrMalformed, m.Fleet)
	case !validName(name):
		return fmt.Errorf("%w: receiver %.60q", ErrMalformed, m.To)
	case m.Kind == "" || len(m.Kind) > maxKind || m.ID == "" || len(m.ID) > maxID:
		return fmt.Errorf("%w: kind %.60q, id %.80q", ErrMalformed, m.Kind, m.ID)
	case m.Issued.IsZero() || !m.Expires.After(m.Issued):
		return fmt.Errorf("%w: issued %s, expires %s", ErrMalformed, m.Issued, m.Expires)
	case len(m.Payload) == 0:
		return fmt.Errorf("%w: no payload", ErrMalformed)
	}
	return nil
}

// validName is the form of box ids, groups and fleets: 1 to 40 of a-z, 0-9 and "-".
func validName(s string) bool {
	return len(s) >= 1 && len(s) <= 40 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// strict refuses fields that are not known: one that is overlooked might be a restriction.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if d.More() {
		return fmt.Errorf("%w: there is more after it", ErrMalformed)
	}
	return nil
}
