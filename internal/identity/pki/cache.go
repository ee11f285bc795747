package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// Cache remembers which presented certificates have good signatures, because the same peers are met again and again and
// two signature checks cost milliseconds on a small core. Time and revocation are not remembered.
type Cache struct {
	size int
	mu   sync.Mutex // guards good
	// good maps the hash of role and presented certificates to the chain they gave.
	good map[[sha256.Size]byte][]*x509.Certificate
}

// NewCache returns a cache of so many chains, about 4 KiB each.
func NewCache(size int) *Cache {
	return &Cache{size: size, good: map[[sha256.Size]byte][]*x509.Certificate{}}
}

// BuildChain does as the function, with one root always.
func (c *Cache) BuildChain(root *x509.Certificate, certs []*x509.Certificate, role Role) ([]*x509.Certificate, error) {
	if len(certs) == 0 || len(certs) > MaxChain {
		return BuildChain(root, certs, role)
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
	chain, err := BuildChain(root, certs, role)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.good) >= c.size {
		clear(c.good)
	}
	c.good[key] = chain
	return chain, nil
}
