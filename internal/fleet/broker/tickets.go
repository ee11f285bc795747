package broker

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"sync"
	"time"
)

// ticketLife is how long the keys of session tickets are used for new ones; they open old ones for as long again.
const ticketLife = 24 * time.Hour

// Resumable returns a configuration whose sessions can be resumed after a restart and at the fleet's other nodes, because
// their ticket keys are made of a secret that all of them have. When a broker comes back all boxes do at once, and a resumed
// session costs half of a handshake. What VerifyConnection refuses is refused on resumption too. Whoever has the secret
// could forge sessions of any box; it is a password of the broker itself.
func Resumable(cfg *tls.Config, secret string, now func() time.Time) *tls.Config {
	inner := cfg.Clone() // its keys change; what the server was given, and may have copied, does not
	var mu sync.Mutex    // guards period
	period := int64(-1)
	outer := cfg.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		if p := now().Unix() / int64(ticketLife/time.Second); p != period {
			var keys [2][32]byte
			for i := range keys {
				if err := ticketKey(&keys[i], secret, p-int64(i)); err != nil {
					return nil, err
				}
			}
			inner.SetSessionTicketKeys(keys[:])
			period = p
		}
		return inner, nil
	}
	return outer
}

func ticketKey(key *[32]byte, secret string, period int64) error {
	b, err := hkdf.Key(sha256.New, []byte(secret), nil, fmt.Sprintf("boxd broker session tickets %d", period), len(key))
	if err != nil {
		return fmt.Errorf("make ticket keys: %w", err)
	}
	copy(key[:], b)
	return nil
}
