package mgmt

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"sync"

	"go.etcd.io/bbolt"

	"boxd/internal/mqttwire"
)

// errOutboxFull is returned when the bound is reached. Proofs are made from what the cache holds, so one that found no
// room is made later; nothing is lost by refusing it.
var errOutboxFull = errors.New("outbox is full")

// outboxRecord is one message that must arrive. Exactly one field is set.
type outboxRecord struct {
	Event  *mqttwire.Event      `json:"event,omitempty"`
	Answer *mqttwire.CommandAck `json:"answer,omitempty"`
}

// outbox is the bounded queue in state.db of what must arrive. Numbers are consecutive within the epoch and never used
// twice, because bbolt keeps the bucket's sequence.
type outbox struct {
	db  DB
	max int

	mu      sync.Mutex // guards the fields below
	n       int
	changed chan struct{}
}

func openOutbox(db DB, limit int) (*outbox, error) {
	o := &outbox{db: db, max: limit, changed: make(chan struct{})}
	var last uint64
	salvaged := false // such a file has its rows and not its sequence
	err := db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketOutbox))
		if b == nil {
			return nil
		}
		key, _ := b.Cursor().Last()
		last = be64(key)
		salvaged = b.Sequence() < last
		return b.ForEach(func(_, _ []byte) error { o.n++; return nil })
	})
	if err == nil && salvaged { // else nothing is written: the disk may be full, and that must not keep us from starting
		err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketOutbox)).SetSequence(last) })
	}
	return o, dbErr("open outbox", err)
}

// add appends within a caller's transaction and returns the number. The caller calls added after the commit.
func (o *outbox) add(tx *bbolt.Tx, r outboxRecord) (uint64, error) {
	b, err := bucket(tx, bucketOutbox)
	if err != nil {
		return 0, err
	}
	n, err := b.NextSequence()
	if err != nil {
		return 0, err
	}
	if r.Event != nil {
		r.Event.Evt = n
	} else {
		r.Answer.Evt = n
	}
	data, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	return n, b.Put(key64(n), data)
}

func (o *outbox) room() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return max(0, o.max-o.n)
}

func (o *outbox) length() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n
}

func (o *outbox) added(delta int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n += delta
	close(o.changed)
	o.changed = make(chan struct{})
}

// Changed returns a channel that is closed when a message came or went.
func (o *outbox) Changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

// after returns up to limit records with numbers above n, in order.
func (o *outbox) after(n uint64, limit int) ([]outboxRecord, error) {
	var list []outboxRecord
	err := o.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketOutbox))
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.Seek(key64(n + 1)); k != nil && len(list) < limit; k, v = c.Next() {
			var r outboxRecord
			if json.Unmarshal(v, &r) != nil || r.Event == nil && r.Answer == nil {
				continue
			}
			list = append(list, r)
		}
		return nil
	})
	return list, dbErr("read outbox", err)
}

// remove drops acknowledged numbers and reports how many were there. Several at once, because a commit costs a sync.
func (o *outbox) remove(numbers []uint64) error {
	gone := 0
	err := o.db.Update(func(tx *bbolt.Tx) error {
		gone = 0
		b, err := bucket(tx, bucketOutbox)
		if err != nil {
			return err
		}
		for _, n := range numbers {
			if b.Get(key64(n)) == nil {
				continue
			}
			gone++
			if err := b.Delete(key64(n)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return dbErr("remove from outbox", err)
	}
	if gone > 0 {
		o.added(-gone)
	}
	return nil
}

func (r outboxRecord) number() uint64 {
	if r.Event != nil {
		return r.Event.Evt
	}
	return r.Answer.Evt
}

// message stamps the record with this session's envelope and returns where and what to publish.
func (r outboxRecord) message(e mqttwire.Envelope) (tail string, payload []byte, err error) {
	if r.Event != nil {
		r.Event.Envelope = e
		payload, err = mqttwire.Encode(mqttwire.MaxPayload, r.Event)
		return mqttwire.EventTail(r.Event.Evt), payload, err
	}
	r.Answer.Envelope = e
	payload, err = mqttwire.Encode(mqttwire.MaxPayload, r.Answer)
	return mqttwire.CommandAckTail(r.Answer.ID), payload, err
}

func be64(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
