package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// Cache remembers which presented certificates have good signatures, because the same peers are met again and again, all of
// one issuer, and two signature checks cost milliseconds on a small core. Time and revocation are not remembered.
type Cache struct {
	size int
	mu   sync.Mutex // guards the fields below
	// good maps the hash of role and presented certificates to the chain they gave.
	good map[[sha256.Size]byte][]*x509.Certificate
	// issuers has the hashes of role and intermediate for which a whole chain was good.
	issuers map[[sha256.Size]byte]bool
}

// maxIssuers bounds Cache.issuers. A fleet has one for each role, and a few more after a theft.
const maxIssuers = 16

// NewCache returns a cache of so many chains, about 4 KiB each.
func NewCache(size int) *Cache {
	return &Cache{size: size, good: map[[sha256.Size]byte][]*x509.Certificate{}, issuers: map[[sha256.Size]byte]bool{}}
}

// BuildChain does as the function, with one root always.
func (c *Cache) BuildChain(root *x509.Certificate, certs []*x509.Certificate, role Role) ([]*x509.Certificate, error) {
	if len(certs) == 0 || len(certs) > MaxChain {
		return BuildChain(root, certs, role)
	}
	key := hashOf(role, certs...)
	c.mu.Lock()
	chain := c.good[key]
	c.mu.Unlock()
	if chain != nil {
		return chain, nil
	}
	chain, err := c.build(root, certs, role)
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

func hashOf(role Role, certs ...*x509.Certificate) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(role))
	for _, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// build checks a leaf alone when its issuer is known, which is half of the work.
func (c *Cache) build(root *x509.Certificate, certs []*x509.Certificate, role Role) ([]*x509.Certificate, error) {
	var issuer [sha256.Size]byte
	if len(certs) == 2 {
		issuer = hashOf(role, certs[1])
		c.mu.Lock()
		known := c.issuers[issuer]
		c.mu.Unlock()
		if known {
			if chain := chainBelow(root, certs[0], certs[1], role); chain != nil {
				return chain, nil
			}
		}
	}
	chain, err := BuildChain(root, certs, role) // and say what is wrong
	if err == nil && len(certs) == 2 && chain[1].Equal(certs[1]) && !constrained(root) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.issuers) >= maxIssuers {
			clear(c.issuers)
		}
		c.issuers[issuer] = true
	}
	return chain, err
}

// chainBelow is BuildChain under an intermediate that BuildChain has found good for this role, or nil.
func chainBelow(root, leaf, inter *x509.Certificate, role Role) []*x509.Certificate {
	trusted := x509.NewCertPool()
	trusted.AddCert(inter)
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: trusted, Intermediates: x509.NewCertPool(), CurrentTime: latestStart([]*x509.Certificate{root, leaf, inter}),
		KeyUsages: []x509.ExtKeyUsage{usageOf(role)},
	})
	if err != nil || len(chains) != 1 || len(chains[0]) != 2 || checkLeaf(root, leaf, role) != nil {
		return nil
	}
	return []*x509.Certificate{leaf, inter, root}
}

// constrained reports whether a root limits the names or uses of leaves, which must then be checked with it.
func constrained(root *x509.Certificate) bool {
	return len(root.PermittedDNSDomains)+len(root.ExcludedDNSDomains)+len(root.PermittedIPRanges)+len(root.ExcludedIPRanges)+
		len(root.PermittedEmailAddresses)+len(root.ExcludedEmailAddresses)+len(root.PermittedURIDomains)+
		len(root.ExcludedURIDomains)+len(root.ExtKeyUsage)+len(root.UnknownExtKeyUsage) > 0
}
