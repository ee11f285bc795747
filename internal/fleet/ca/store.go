package ca

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Store keeps the ledger. Update and View run fn in one serialisable transaction; what Update did is durable when it
// returns nil, and undone as a whole when fn fails. fn may be run again after a conflict.
type Store interface {
	Update(ctx context.Context, fn func(Tx) error) error
	View(ctx context.Context, fn func(Tx) error) error
}

// Tx reads and writes JSON documents in the tables below. Get returns nil for a key that is absent; Each goes through
// the keys with a prefix in order and must not be mixed with writes.
type Tx interface {
	Get(table, key string) ([]byte, error)
	Put(table, key string, val []byte) error
	Delete(table, key string) error
	Each(table, prefix string, fn func(key string, val []byte) error) error
}

// The tables of the ledger and what their keys are.
const (
	TableTokens  = "ca_tokens"  // Token by id
	TableBoxes   = "ca_boxes"   // Box by id
	TableCerts   = "ca_certs"   // Cert by serial number in hexadecimal
	TableKeys    = "ca_keys"    // serial number by hash of the public key
	TableDevices = "ca_devices" // box id by the hardware's serial number
	TableRevoked = "ca_revoked" // Revocation by serial number in hexadecimal
	TableOut     = "ca_out"     // when, by the id of a box that was revoked and not let in again
)

// Tables lists all tables, for stores that make them beforehand.
func Tables() []string {
	return []string{TableTokens, TableBoxes, TableCerts, TableKeys, TableDevices, TableRevoked, TableOut}
}

// Token admits new boxes: so many, for so long, into one group. Its secret is kept only as a hash.
type Token struct {
	ID      string    `json:"id"`
	Hash    string    `json:"hash"` // SHA-256 of the secret
	Group   string    `json:"group,omitempty"`
	MaxUses int       `json:"max_uses"`
	Uses    int       `json:"uses"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Devices, when there are any, are the only hardware serial numbers admitted, each once. The value is the box id to
	// give, or empty for one that the CA makes.
	Devices map[string]string `json:"devices,omitempty"`
	// BoxID, when set, is the id that is given (MaxUses is 1). With Replace it may be in use: then the box that has it
	// is revoked. This is how an operator lets a repaired box have its name again.
	BoxID   string    `json:"box_id,omitempty"`
	Replace bool      `json:"replace,omitempty"`
	Revoked time.Time `json:"revoked,omitzero"`
}

// Box is one enrolled box.
type Box struct {
	ID       string    `json:"id"`
	Group    string    `json:"group,omitempty"`
	Device   string    `json:"device,omitempty"` // the hardware's serial number, as the box told it
	Token    string    `json:"token"`            // the id of the token that admitted it
	Enrolled time.Time `json:"enrolled"`
	Revoked  time.Time `json:"revoked,omitzero"`
	// Serial is the newest certificate, Previous the one that asked for it. Only these two may renew: a box that lost
	// the newest in a power cut comes with the one before, and a copy of the box, sooner or later, with neither.
	Serial   string    `json:"serial"`
	Previous string    `json:"previous,omitempty"`
	Certs    []CertRef `json:"certs"` // all that may still be believed
}

// CertRef is one certificate of a box.
type CertRef struct {
	Serial  string    `json:"serial"`
	Expires time.Time `json:"expires"`
}

// Cert is one certificate that was issued to a box.
type Cert struct {
	Serial  string    `json:"serial"`
	BoxID   string    `json:"box_id"`
	Group   string    `json:"group,omitempty"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"` // "token <id>" or "renewal of <serial>"
}

// Revocation says that a certificate must not be believed any more.
type Revocation struct {
	Serial  string    `json:"serial"`
	BoxID   string    `json:"box_id,omitempty"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"` // of the certificate
}

// getJSON reads one document; ok is false when there is none.
func getJSON[T any](tx Tx, table, key string) (doc T, ok bool, err error) {
	data, err := tx.Get(table, key)
	if err != nil || data == nil {
		return doc, false, err
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return doc, false, fmt.Errorf("ledger %s %s: %w", table, key, err)
	}
	return doc, true, nil
}

func putJSON(tx Tx, table, key string, doc any) error {
	data, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("ledger %s %s: %w", table, key, err)
	}
	return tx.Put(table, key, data)
}

func eachJSON[T any](tx Tx, table string, fn func(T) error) error {
	return tx.Each(table, "", func(key string, val []byte) error {
		var doc T
		if err := json.Unmarshal(val, &doc); err != nil {
			return fmt.Errorf("ledger %s %s: %w", table, key, err)
		}
		return fn(doc)
	})
}
