package ca_test

import (
	"context"
	"crypto/x509"
	"sync/atomic"
	"testing"

	"boxd/internal/fleet/ca"
	"boxd/internal/identity/identitytest"
	"boxd/internal/identity/pki"
)

// What the authority issues in a second, with a ledger that is synced to disk for each: requests as they come off the wire.
func BenchmarkEnrol(b *testing.B) {
	f := identitytest.New(b)
	token := f.Token(ca.TokenSpec{MaxUses: 1_000_000})
	bodies := make([][]byte, 64)
	for i := range bodies {
		bodies[i] = pki.EncodeCSR(csr(b, newKey(b)).Raw)
	}
	var n atomic.Int64
	b.SetParallelism(8)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			req, err := pki.ParseCSR(bodies[n.Add(1)%64])
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := f.CA.Enroll(context.Background(), token, "", req); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkVerifyPeer(b *testing.B) {
	f := identitytest.New(b)
	certs, err := f.CA.Enroll(b.Context(), f.Token(ca.TokenSpec{}), "", csr(b, newKey(b)))
	if err != nil {
		b.Fatal(err)
	}
	cs := state([]*x509.Certificate{certs[0], certs[1]})
	for b.Loop() {
		if _, err := f.CA.VerifyPeer(cs); err != nil {
			b.Fatal(err)
		}
	}
}
