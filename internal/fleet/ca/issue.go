package ca

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"boxd/internal/identity/pki"
)

// Refusal is a clear no to a box, with a code that its health shows.
type Refusal struct {
	Status int
	Code   string
	Text   string
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Text }

func refuse(status int, code, format string, args ...any) error {
	return &Refusal{Status: status, Code: code, Text: fmt.Sprintf(format, args...)}
}

// Enroll admits a box by a token and returns its certificate and the intermediate. device is the hardware's serial number as
// the box tells it; it counts only for tokens that list serial numbers. The same key with the same token gets the same
// name again and uses up nothing.
func (c *CA) Enroll(ctx context.Context, token, device string, csr *x509.CertificateRequest) ([]*x509.Certificate, error) {
	id, secret, ok := parseToken(token)
	if !ok {
		return nil, refuse(http.StatusUnauthorized, "token-unknown", "this is not an enrolment token of this fleet")
	}
	var cert *x509.Certificate
	var box Box
	var replaced bool
	err := c.opts.Store.Update(ctx, func(tx Tx) error {
		t, ok, err := getJSON[Token](tx, TableTokens, id)
		if err != nil {
			return err
		}
		if !ok || !t.matches(secret) {
			return refuse(http.StatusUnauthorized, "token-unknown", "this is not an enrolment token of this fleet")
		}
		if box, ok, err = c.known(tx, t, csr); err != nil {
			return err
		}
		if !ok {
			if box, err = c.admit(tx, t, device); err != nil {
				return err
			}
			replaced = len(box.Certs) > 0
			if err := c.revokeCerts(tx, &box, "replaced"); err != nil {
				return err
			}
			box.Certs, box.Serial, box.Previous, box.Revoked = nil, "", "", time.Time{}
			if err := tx.Delete(TableOut, box.ID); err != nil {
				return err
			}
			t.Uses++
			if err := putJSON(tx, TableTokens, t.ID, t); err != nil {
				return err
			}
		}
		cert, err = c.issue(tx, &box, box.Serial, csr, "token "+t.ID)
		return err
	})
	if err != nil {
		return nil, c.refused("enrolment refused", err, "token", id)
	}
	c.log.Info("enrolled", "box", box.ID, "group", box.Group, "serial", box.Serial, "token", id)
	if replaced {
		if err := c.Reload(ctx); err != nil {
			return nil, err
		}
	}
	return []*x509.Certificate{cert, c.boxes.cert}, nil
}

// known finds the box that this token admitted with the same key before.
func (c *CA) known(tx Tx, t Token, csr *x509.CertificateRequest) (Box, bool, error) {
	serial, err := tx.Get(TableKeys, pki.KeyHash(csr.RawSubjectPublicKeyInfo))
	if err != nil || serial == nil {
		return Box{}, false, err
	}
	cert, ok, err := getJSON[Cert](tx, TableCerts, string(serial))
	if err != nil || !ok {
		return Box{}, false, errors.Join(err, errIncomplete(!ok, string(serial)))
	}
	box, ok, err := getJSON[Box](tx, TableBoxes, cert.BoxID)
	if err != nil || !ok {
		return Box{}, false, errors.Join(err, errIncomplete(!ok, cert.BoxID))
	}
	switch {
	case !box.Revoked.IsZero() || box.Serial != cert.Serial:
		return Box{}, false, refuse(http.StatusForbidden, "key-spent", "this key was used for box %s before; "+
			"a new key is needed", box.ID)
	case box.Token != t.ID || !t.Revoked.IsZero():
		return Box{}, false, refuse(http.StatusForbidden, "key-known", "this key is enrolled as %s with another token", box.ID)
	}
	return box, true, nil
}

func errIncomplete(missing bool, key string) error {
	if missing {
		return fmt.Errorf("the ledger is incomplete: %s is missing", key)
	}
	return nil
}

// admit checks the token's bounds and picks the name.
func (c *CA) admit(tx Tx, t Token, device string) (Box, error) {
	now := c.opts.Now().UTC()
	switch {
	case !t.Revoked.IsZero():
		return Box{}, refuse(http.StatusForbidden, "token-revoked", "the operator has revoked this token")
	case now.After(t.Expires):
		return Box{}, refuse(http.StatusForbidden, "token-expired", "the token ended at %s", t.Expires.Format(time.RFC3339))
	case t.Uses >= t.MaxUses:
		return Box{}, refuse(http.StatusForbidden, "token-used-up", "the token was good for %d boxes", t.MaxUses)
	}
	want := t.BoxID
	if len(t.Devices) > 0 {
		given, listed := t.Devices[device]
		if !listed {
			return Box{}, refuse(http.StatusForbidden, "device-not-listed", "serial number %.64q is not on the token's list", device)
		}
		holder, err := tx.Get(TableDevices, device)
		if err != nil {
			return Box{}, err
		}
		switch {
		case holder == nil:
			want = given
		case !t.Replace || (given != "" && given != string(holder)):
			return Box{}, refuse(http.StatusForbidden, "device-enrolled", "serial number %s is enrolled as %s", device, holder)
		default:
			want = string(holder)
		}
	}
	box := Box{ID: want, Group: t.Group, Device: device[:min(len(device), maxDeviceLen)], Token: t.ID, Enrolled: now}
	if want == "" {
		id, err := newBoxID(tx)
		box.ID = id
		return box, errors.Join(err, c.claim(tx, t, device, id))
	}
	old, ok, err := getJSON[Box](tx, TableBoxes, want)
	if err != nil {
		return Box{}, err
	}
	if ok && !t.Replace {
		return Box{}, refuse(http.StatusForbidden, "id-taken", "the name %s is taken; the operator can allow its reuse", want)
	}
	box.Certs = old.Certs
	return box, c.claim(tx, t, device, want)
}

// claim notes that a listed device has its name.
func (c *CA) claim(tx Tx, t Token, device, id string) error {
	if len(t.Devices) == 0 {
		return nil
	}
	return tx.Put(TableDevices, device, []byte(id))
}

func newBoxID(tx Tx) (string, error) {
	for range 16 {
		raw := make([]byte, 7)
		if _, err := rand.Read(raw); err != nil {
			return "", err
		}
		id := "box-" + base32Lower.EncodeToString(raw)[:10]
		if taken, err := tx.Get(TableBoxes, id); err != nil || taken == nil {
			return id, err
		}
	}
	return "", errors.New("no free box id was found")
}

// Renew gives the box that showed certs a new certificate for the key in the request. The old one may have expired.
func (c *CA) Renew(ctx context.Context, certs []*x509.Certificate, csr *x509.CertificateRequest) ([]*x509.Certificate, error) {
	leaf, peer, err := c.peer(certs)
	if err != nil {
		return nil, c.refused("renewal refused", refuse(http.StatusForbidden, "certificate-refused", "%v", err))
	}
	var cert *x509.Certificate
	var box Box
	err = c.opts.Store.Update(ctx, func(tx Tx) error {
		var ok bool
		if box, ok, err = getJSON[Box](tx, TableBoxes, peer.BoxID); err != nil {
			return err
		}
		revoked, err := tx.Get(TableRevoked, peer.Serial)
		switch {
		case err != nil:
			return err
		case !ok:
			return refuse(http.StatusForbidden, "box-unknown", "the ledger has no box %s", peer.BoxID)
		case revoked != nil || !box.Revoked.IsZero():
			return refuse(http.StatusForbidden, "certificate-revoked", "box %s is revoked", peer.BoxID)
		case peer.Serial != box.Serial && peer.Serial != box.Previous:
			return refuse(http.StatusForbidden, "certificate-superseded", "box %s has renewed this certificate before: "+
				"there may be a copy of this box", peer.BoxID)
		}
		// The ledger knows the key of each certificate: one that somebody made with a stolen intermediate, under the name and
		// number of a real one, does not match.
		if serial, err := tx.Get(TableKeys, pki.KeyHash(leaf.RawSubjectPublicKeyInfo)); err != nil {
			return err
		} else if string(serial) != peer.Serial {
			return refuse(http.StatusForbidden, "certificate-refused", "the ledger has another key for certificate %s", peer.Serial)
		}
		if spent, err := tx.Get(TableKeys, pki.KeyHash(csr.RawSubjectPublicKeyInfo)); err != nil {
			return err
		} else if spent != nil && string(spent) != peer.Serial {
			return refuse(http.StatusForbidden, "key-spent", "this key was used for another certificate before")
		}
		cert, err = c.issue(tx, &box, peer.Serial, csr, "renewal of "+peer.Serial)
		return err
	})
	if err != nil {
		return nil, c.refused("renewal refused", err, "box", peer.BoxID, "serial", peer.Serial)
	}
	c.log.Info("renewed", "box", box.ID, "serial", box.Serial, "previous", peer.Serial, "previous_ended", leaf.NotAfter)
	return []*x509.Certificate{cert, c.boxes.cert}, nil
}

// issue signs a certificate for the box and enters it into the ledger.
func (c *CA) issue(tx Tx, box *Box, previous string, csr *x509.CertificateRequest, by string) (*x509.Certificate, error) {
	now := c.opts.Now().UTC()
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: box.ID, Organization: []string{c.fleet}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(c.opts.BoxLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if box.Group != "" {
		t.Subject.OrganizationalUnit = []string{box.Group}
	}
	if t.NotAfter.After(c.boxes.cert.NotAfter) {
		t.NotAfter = c.boxes.cert.NotAfter
	}
	cert, err := sign(t, c.boxes.cert, csr.PublicKey, c.boxes.key)
	if err != nil {
		return nil, err
	}
	box.Previous, box.Serial = previous, pki.Serial(cert)
	box.Certs = slices.DeleteFunc(box.Certs, func(r CertRef) bool { return now.After(r.Expires.Add(keepRevoked)) })
	box.Certs = append(box.Certs, CertRef{Serial: box.Serial, Expires: cert.NotAfter})
	rec := Cert{Serial: box.Serial, BoxID: box.ID, Group: box.Group, Issued: now, Expires: cert.NotAfter, By: by}
	return cert, errors.Join(
		putJSON(tx, TableBoxes, box.ID, box),
		putJSON(tx, TableCerts, rec.Serial, rec),
		tx.Put(TableKeys, pki.KeyHash(csr.RawSubjectPublicKeyInfo), []byte(rec.Serial)),
	)
}

// refused logs a refusal; other errors are the caller's to log.
func (c *CA) refused(msg string, err error, args ...any) error {
	var r *Refusal
	if errors.As(err, &r) {
		c.log.Warn(msg, //nolint:sloglint // constant at each caller
			append(args, "code", r.Code, "why", r.Text)...)
		return r
	}
	return err
}
