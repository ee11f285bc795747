// Package pki is the vocabulary of the fleet's certificates that the box and the fleet manager share: the two kinds of
// certificates, their names, how a chain is verified, and the message forms of enrolment (RFC 7030).
//
// A fleet has one root. Under it stand two intermediates that are never mixed: "boxes" issues certificates that name
// a box (CN = box id, O = fleet, OU = group; no alternative names), "servers" issues certificates for host names.
//
// Invariants: a chain that BuildChain returned is leaf, intermediate, root, every signature of it was checked, and
// the intermediate is the one of the role that was asked for, so a box can never pass for a server of the fleet nor a
// server for a box. Nothing here reads a clock: the moment to judge by is always passed in.
package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Role says which of the fleet's two intermediates issued a certificate.
type Role string

// The roles; the value is the organisational unit in the intermediate's own name, which the root signed.
const (
	Boxes   Role = "boxes"
	Servers Role = "servers"
)

// What can be wrong with a certificate; the errors of this package wrap one of these.
var (
	ErrNoCertificate = errors.New("no certificate was presented")
	ErrOtherFleet    = errors.New("the certificate is not of this fleet")
	ErrWrongRole     = errors.New("the certificate is of the wrong kind")
	ErrExpired       = errors.New("the certificate has expired")
	ErrNotYetValid   = errors.New("the certificate is not valid yet")
	ErrRevoked       = errors.New("the certificate is revoked")
	ErrMalformed     = errors.New("the certificate is malformed")
)

// Skew is how far two clocks of a fleet may differ before a certificate counts as "not valid yet".
const Skew = 10 * time.Minute

// Bounds of what a peer may send.
const (
	MaxChain     = 4        // certificates in one handshake or one file
	MaxBody      = 16 << 10 // bytes of an enrolment request or answer
	MaxLabel     = 40       // characters of a box id, a group or a fleet id
	maxSerialLen = 20       // bytes, RFC 5280 section 4.1.2.2
)

// Peer is who a verified certificate says the other side is.
type Peer struct {
	BoxID  string // common name
	Fleet  string // organisation
	Group  string // organisational unit; empty when there is none
	Serial string // lower-case hexadecimal, see Serial
}

// PeerOf reads the names of a box certificate and refuses names that the fleet's CA would not give. It verifies nothing else.
func PeerOf(leaf *x509.Certificate) (Peer, error) {
	p := Peer{BoxID: leaf.Subject.CommonName, Serial: Serial(leaf)}
	if o := leaf.Subject.Organization; len(o) == 1 {
		p.Fleet = o[0]
	}
	if ou := leaf.Subject.OrganizationalUnit; len(ou) == 1 {
		p.Group = ou[0]
	}
	if !ValidLabel(p.BoxID) || !ValidLabel(p.Fleet) || (p.Group != "" && !ValidLabel(p.Group)) {
		return Peer{}, fmt.Errorf("%w: names box %.60q fleet %.60q group %.60q", ErrMalformed, p.BoxID, p.Fleet, p.Group)
	}
	return p, nil
}

// Serial is the serial number of a certificate in the form that revocation lists use: lower-case hexadecimal without
// leading zeros.
func Serial(c *x509.Certificate) string {
	if c.SerialNumber == nil {
		return ""
	}
	return c.SerialNumber.Text(16)
}

// ParseSerial brings a serial number that a person or a list wrote into the form of Serial.
func ParseSerial(s string) (string, error) {
	n, ok := new(big.Int).SetString(s, 16)
	if !ok || n.Sign() <= 0 || len(n.Bytes()) > maxSerialLen {
		return "", fmt.Errorf("serial number %.60q: want up to %d hexadecimal digits", s, 2*maxSerialLen)
	}
	return n.Text(16), nil
}

// KeyHash names a public key: the SHA-256 of its SubjectPublicKeyInfo in hexadecimal.
func KeyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// ValidLabel reports whether s can be a box id, a group or a fleet id: 1 to 40 of a-z, 0-9 and "-", neither beginning
// nor ending with "-". Such a name is safe in an MQTT topic, a file name and a DNS label.
func ValidLabel(s string) bool {
	if len(s) == 0 || len(s) > MaxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// FleetOf is the fleet id that a root certificate names.
func FleetOf(root *x509.Certificate) (string, error) {
	if len(root.Subject.Organization) != 1 || !ValidLabel(root.Subject.Organization[0]) {
		return "", fmt.Errorf("%w: the root certificate names no fleet", ErrMalformed)
	}
	return root.Subject.Organization[0], nil
}
