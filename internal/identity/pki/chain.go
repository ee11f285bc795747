package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// BuildChain verifies what a peer presented, leaf first, up to the fleet's root, and returns leaf, intermediate and root.
// It checks signatures, constraints, key usage and the role; whether the chain is valid at a given moment is
// CheckTime's, whether it is revoked the caller's.
func BuildChain(root *x509.Certificate, certs []*x509.Certificate, role Role) ([]*x509.Certificate, error) {
	if len(certs) == 0 {
		return nil, ErrNoCertificate
	}
	if len(certs) > MaxChain {
		return nil, fmt.Errorf("%w: a chain of %d certificates", ErrMalformed, len(certs))
	}
	leaf := certs[0]
	roots, inters := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range certs[1:] {
		inters.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inters, CurrentTime: latestStart(append([]*x509.Certificate{root}, certs...)),
		KeyUsages: []x509.ExtKeyUsage{usageOf(role)},
	})
	if err != nil {
		return nil, explain(root, leaf, role, err)
	}
	for _, chain := range chains {
		if len(chain) == 3 && slices.Equal(chain[1].Subject.OrganizationalUnit, []string{string(role)}) {
			return chain, checkLeaf(root, leaf, role)
		}
	}
	return nil, fmt.Errorf("%w: %q was not issued by the intermediate for %s", ErrWrongRole, leaf.Subject.CommonName, role)
}

func usageOf(role Role) x509.ExtKeyUsage {
	if role == Servers {
		return x509.ExtKeyUsageServerAuth
	}
	return x509.ExtKeyUsageClientAuth
}

// checkLeaf makes sure that the leaf is no CA and, for a box, names a box of the root's fleet.
func checkLeaf(root, leaf *x509.Certificate, role Role) error {
	if leaf.IsCA {
		return fmt.Errorf("%w: %q is a certificate authority", ErrWrongRole, leaf.Subject.CommonName)
	}
	if role != Boxes {
		return nil
	}
	peer, err := PeerOf(leaf)
	if err != nil {
		return err
	}
	if fleet, err := FleetOf(root); err != nil || peer.Fleet != fleet {
		return fmt.Errorf("%w: it is of fleet %q, this is fleet %q", ErrOtherFleet, peer.Fleet, fleet)
	}
	return nil
}

// latestStart is a moment at which every one of the certificates has begun.
func latestStart(certs []*x509.Certificate) time.Time {
	var t time.Time
	for _, c := range certs {
		if c.NotBefore.After(t) {
			t = c.NotBefore
		}
	}
	return t
}

// explain turns the standard library's error into one of ours.
func explain(root, leaf *x509.Certificate, role Role, err error) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		theirs, _ := FleetOf(leaf)
		ours, _ := FleetOf(root)
		if theirs != "" && theirs != ours {
			return fmt.Errorf("%w: it is of fleet %q, this is fleet %q", ErrOtherFleet, theirs, ours)
		}
		return fmt.Errorf("%w: %w", ErrOtherFleet, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("%w: %q may not act for %s", ErrWrongRole, leaf.Subject.CommonName, role)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w: %w", ErrExpired, err)
	default:
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
}

// CheckTime reports whether a chain is valid at a moment. When exact is false, at is only a floor, the earliest that
// it can be now: then a chain that begins later is believed, and one that had ended by then is not.
func CheckTime(chain []*x509.Certificate, at time.Time, exact bool) error {
	if !exact {
		if start := latestStart(chain); start.After(at) {
			at = start
		}
	}
	for _, c := range chain {
		if at.After(c.NotAfter) {
			return fmt.Errorf("%w: %q ended %s, now is %s", ErrExpired, c.Subject.CommonName,
				c.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
		}
		if c.NotBefore.After(at.Add(Skew)) {
			return fmt.Errorf("%w: %q begins %s, now is %s", ErrNotYetValid, c.Subject.CommonName,
				c.NotBefore.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
		}
	}
	return nil
}
