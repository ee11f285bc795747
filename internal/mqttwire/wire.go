// Package mqttwire is what boxes and the fleet manager say to each other over MQTT 3.1.1: topics, the envelope, the
// payloads and their limits. Both sides use it; docs/mqtt.md is its prose and docs/schemas its JSON Schemas.
//
// Invariants: a payload that Decode accepted is within its cap, has a known protocol version and passed its Check;
// nothing here trusts the sender (a broker may lie): what changes a box is signed, and checked elsewhere. A box name or
// group name that Topic accepts contains no MQTT wildcard and no level separator.
package mqttwire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// Version is the protocol version that this program writes. A receiver takes any message of its own major version
// and leaves one of another version alone (ErrVersion), so that a newer peer never breaks it.
const Version = 1

// Caps on payloads, in bytes.
const (
	MaxPayload = 8 << 10  // every message but desired
	MaxDesired = 32 << 10 // desired
)

// Errors that callers branch on.
var (
	ErrVersion = errors.New("unknown protocol version")
	ErrTooBig  = errors.New("payload over its cap")
	ErrInvalid = errors.New("invalid payload")
)

// Envelope heads every message that a box sends.
type Envelope struct {
	V      int       `json:"v"`
	Epoch  string    `json:"epoch"`   // random, made with the state file: a box that lost its state is a new sender
	SID    uint64    `json:"sid"`     // persisted count of connects in this epoch
	Seq    uint64    `json:"seq"`     // counts messages within (epoch, sid), from 1; 0 only in the will
	TS     time.Time `json:"ts"`      // the box's clock; see ClockTrusted
	MonoMS int64     `json:"mono_ms"` // milliseconds since the daemon started: order and age without a clock
}

// Newer reports whether e was sent after o. Different epochs cannot be compared: the receiver takes the later arrival.
func (e Envelope) Newer(o Envelope) bool {
	if e.Epoch != o.Epoch {
		return true
	}
	if e.SID != o.SID {
		return e.SID > o.SID
	}
	return e.Seq > o.Seq
}

func (e Envelope) check() error {
	switch {
	case e.V != Version:
		return fmt.Errorf("%w: %d, this program speaks %d", ErrVersion, e.V, Version)
	case len(e.Epoch) < 8 || len(e.Epoch) > 64 || !nameLike(e.Epoch):
		return fmt.Errorf("%w: epoch %.70q", ErrInvalid, e.Epoch)
	case e.MonoMS < 0, e.SID > math.MaxInt64, e.Seq > math.MaxInt64:
		return fmt.Errorf("%w: mono_ms %d, sid %d, seq %d", ErrInvalid, e.MonoMS, e.SID, e.Seq)
	}
	return nil
}

// Checker is a payload that knows what it must satisfy.
type Checker interface{ Check() error }

// Decode reads a payload: size first, then the version, then its Check. Unknown fields are allowed, because a newer minor
// version may add some; trailing bytes are not.
func Decode(data []byte, limit int, into Checker) error {
	if len(data) > limit {
		return fmt.Errorf("%w: %d bytes of at most %d", ErrTooBig, len(data), limit)
	}
	err := json.Unmarshal(data, into)
	v, tells := into.(versioned)
	if err != nil || !tells { // another version may have another form
		var head struct {
			V int `json:"v"`
		}
		if json.Unmarshal(data, &head) == nil && head.V != Version {
			return fmt.Errorf("%w: %d, this program speaks %d", ErrVersion, head.V, Version)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if tells && v.version() != Version {
		return fmt.Errorf("%w: %d, this program speaks %d", ErrVersion, v.version(), Version)
	}
	return into.Check()
}

// versioned is a payload whose version can be read once it is decoded.
type versioned interface{ version() int }

func (e *Envelope) version() int { return e.V }

// Encode writes a payload and refuses one over the limit, so that no sender depends on a broker's cap.
func Encode(limit int, from Checker) ([]byte, error) {
	if err := from.Check(); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(from); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	data := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(data) > limit {
		return nil, fmt.Errorf("%w: %d bytes of at most %d", ErrTooBig, len(data), limit)
	}
	return data, nil
}
