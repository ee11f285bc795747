package mgmt

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"go.etcd.io/bbolt"
)

// The buckets of state.db that this package owns.
const (
	bucketSession  = "mgmt.session"  // epoch, sid, uploaded
	bucketOutbox   = "mgmt.outbox"   // outbox number, big endian → record
	bucketProven   = "mgmt.proven"   // asset id → holding: what the arrived event was made for
	bucketBilled   = "mgmt.billed"   // asset id → the counters that its last arrived event was made from
	bucketCommands = "mgmt.commands" // command id → record
	bucketDesired  = "mgmt.desired"  // "box" or "group:name" → record
)

// dbError marks a fault of state.db: what was to be promised waits until the file can be written again.
type dbError struct{ err error }

func (e *dbError) Error() string { return e.err.Error() }
func (e *dbError) Unwrap() error { return e.err }

func dbErr(op string, err error) error {
	if err == nil {
		return nil
	}
	return &dbError{fmt.Errorf("%s: %w", op, err)}
}

func bucket(tx *bbolt.Tx, name string) (*bbolt.Bucket, error) {
	b, err := tx.CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", name, err)
	}
	return b, nil
}

func key64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// loadEpoch returns the epoch of the state file. A file that came back from its backup copy gets a new one: its outbox
// numbers may have been used already for something else.
func loadEpoch(db DB) (string, error) {
	r, ok := db.(interface{ Restored() bool })
	restored := ok && r.Restored()
	var epoch string
	err := db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(bucketSession)); b != nil {
			epoch = string(b.Get([]byte("epoch")))
		}
		return nil
	})
	if err != nil || epoch != "" && !restored {
		return epoch, dbErr("load epoch", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := bucket(tx, bucketSession)
		if err != nil {
			return err
		}
		var raw [16]byte
		rand.Read(raw[:])
		epoch = hex.EncodeToString(raw[:])
		return b.Put([]byte("epoch"), []byte(epoch))
	})
	return epoch, dbErr("load epoch", err)
}

// nextSID persists the count of connects before it is used, since the will carries it.
func nextSID(db DB) (uint64, error) {
	var sid uint64
	err := db.Update(func(tx *bbolt.Tx) error {
		b, err := bucket(tx, bucketSession)
		if err != nil {
			return err
		}
		if v := b.Get([]byte("sid")); len(v) == 8 {
			sid = binary.BigEndian.Uint64(v)
		}
		sid++
		return b.Put([]byte("sid"), key64(sid))
	})
	return sid, dbErr("count the connect", err)
}
