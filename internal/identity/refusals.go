package identity

import (
	"errors"
	"sync/atomic"
)

var errCrowded = errors.New("too many connections")

// Refusals counts the connections that a Mux did not let in, by cause.
type Refusals struct {
	NoCertificate int64 // no TLS, no handshake, or no certificate shown
	OtherFleet    int64 // a certificate that no authority of this fleet has signed, or of the wrong kind
	Expired       int64
	Revoked       int64
	Crowded       int64 // more at once than there is room for
}

type refusals struct{ stranger, foreign, expired, revoked, crowded atomic.Int64 }

func (r *refusals) count(err error) {
	switch {
	case errors.Is(err, ErrRevoked):
		r.revoked.Add(1)
	case errors.Is(err, ErrExpired):
		r.expired.Add(1)
	case errors.Is(err, ErrOtherFleet), errors.Is(err, ErrWrongRole):
		r.foreign.Add(1)
	case errors.Is(err, errCrowded):
		r.crowded.Add(1)
	default:
		r.stranger.Add(1)
	}
}

// Refusals returns the counters since the Mux was made.
func (m *Mux) Refusals() Refusals {
	r := &m.refused
	return Refusals{
		NoCertificate: r.stranger.Load(), OtherFleet: r.foreign.Load(), Expired: r.expired.Load(),
		Revoked: r.revoked.Load(), Crowded: r.crowded.Load(),
	}
}
