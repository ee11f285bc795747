package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"

	"boxd/internal/identity/pki"
)

// maxChains bounds the remembered chains, about 4 KiB each.
const maxChains = 256

// chainCache remembers which presented certificates have good signatures, because a box meets the same few peers again
// and again and two signature checks cost milliseconds on a small core. Time and revocation are not remembered.
type chainCache struct {
	mu sync.Mutex // guards good
	// good maps the hash of role and presented certificates to the chain they gave.
	good map[[sha256.Size]byte][]*x509.Certificate
}

func newChainCache() *chainCache {
	return &chainCache{good: map[[sha256.Size]byte][]*x509.Certificate{}}
}

func (c *chainCache) build(root *x509.Certificate, certs []*x509.Certificate, role pki.Role) ([]*x509.Certificate, error) {
	if len(certs) == 0 || len(certs) > pki.MaxChain {
		return pki.BuildChain(root, certs, role)
	}
	h := sha256.New()
	h.Write([]byte(role))
	for _, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		h.Write(sum[:])
	}
	key := [sha256.Size]byte(h.Sum(nil))
	c.mu.Lock()
	chain := c.good[key]
	c.mu.Unlock()
	if chain != nil {
		return chain, nil
	}
	chain, err := pki.BuildChain(root, certs, role)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.good) >= maxChains {
		clear(c.good)
	}
	c.good[key] = chain
	return chain, nil
}
