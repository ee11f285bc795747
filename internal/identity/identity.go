// Package identity is who this box is and whom it believes: its key and certificate, enrolment and renewal (RFC 7030),
// the TLS configurations of every connection, revocations, and the time floor for a box whose clock cannot be trusted.
//
// Invariants:
//   - The private key is made on the box and never leaves it. Key and certificate lie in one file that is replaced
//     whole, so that a power cut leaves the old pair or the new one, never a mixture.
//   - Every connection is TLS 1.3 and is judged in VerifyConnection, which also runs when a session is resumed: chain
//     to the fleet's root, the right intermediate, the time, the revocations.
//   - A box certificate is never believed for a server of the fleet, nor the other way round.
//   - The time floor only rises, with one exception: a certificate that the CA issued for a key made this minute
//     proves what time it is, and may lower a floor that a wrong clock had raised.
//   - Connections of a revoked box are closed when the revocation is learned, if they were made by this package's
//     Dial, Client or Mux.
package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"boxd/internal/durable"
	"boxd/internal/health"
	"boxd/internal/identity/pki"
)

// Peer is who a verified certificate says the other side is.
type Peer = pki.Peer

// What can be wrong with a certificate of the other side.
var (
	ErrNoCertificate = pki.ErrNoCertificate
	ErrOtherFleet    = pki.ErrOtherFleet
	ErrWrongRole     = pki.ErrWrongRole
	ErrExpired       = pki.ErrExpired
	ErrNotYetValid   = pki.ErrNotYetValid
	ErrRevoked       = pki.ErrRevoked
	ErrMalformed     = pki.ErrMalformed
)

// What can be wrong on this side, or with the name of the other.
var (
	ErrNotEnrolled = errors.New("this box is not enrolled")
	ErrOtherBox    = errors.New("the certificate names another box")
)

// The files in Options.Dir.
const (
	keyFile      = "key.pem"       // the key of a box that is not enrolled yet
	againFile    = "key-again.pem" // the key of a box that is let in again after its certificate was taken from it
	identityFile = "identity.pem"  // key, certificate, intermediate
	maxFile      = 64 << 10
)

// maxChains is how many peers a box recognises without checking their signatures again.
const maxChains = 256

// Store is the part of the box's state database that holds the time floor.
type Store interface {
	Get(bucket string, key []byte) (val []byte, ok bool, err error)
	Put(bucket string, key, val []byte) error
}

// Options say where an identity lives and whom it asks. CAFile and Dir are needed, the rest may be empty.
type Options struct {
	Dir          string     // for key and certificate, made if absent
	FS           durable.FS // nil: the operating system's
	State        Store      // nil: the time floor is kept in memory only
	CAFile       string     // PEM of the fleet's root, from the firmware
	EnrollURL    string     // https://host:port of the fleet manager; empty: never enrol nor renew
	Token        string     // enrolment token; empty: this box was enrolled in another way
	DeviceSerial string     // the hardware's serial number, for tokens that list serial numbers
	TimeSyncPath string     // exists when the clock is synchronised; empty: it never is
	BuildTime    time.Time  // when this program was built: it cannot be earlier than that
	Health       *health.Set
	Log          *slog.Logger
	Clock        func() time.Time // nil: time.Now
	// Uptime rises with real time, whatever happens to the clock; nil: the time since Open.
	Uptime func() time.Duration
	// DialContext reaches the fleet manager; nil: a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Validate names all that is missing.
func (o Options) Validate() error {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("identity: no directory is given"))
	}
	if o.CAFile == "" {
		errs = append(errs, errors.New("identity: no file with the fleet's root certificate is given"))
	}
	if o.EnrollURL != "" {
		if _, err := enrollBase(o.EnrollURL); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Identity is this box's identity. Its methods may be called from any goroutine.
type Identity struct {
	opts   Options
	log    *slog.Logger
	root   *x509.Certificate
	fleet  string
	clock  *clock
	conns  *connTable
	chains *pki.Cache
	resume *sessions
	issue  sync.Mutex // held while a certificate is asked for, so that there is one request at a time

	mu      sync.Mutex // guards the fields below
	cred    *credential
	key     *ecdsa.PrivateKey // of a box that is not enrolled yet
	revoked map[string]bool
	changed chan struct{}
	// refused says that a server did not accept the certificate; refusedAt is when, by Uptime, zero for never.
	refused   bool
	refusedAt time.Duration
	denied    bool // the last renewal was refused
}

// credential is one key with its certificate.
type credential struct {
	key  *ecdsa.PrivateKey
	leaf *x509.Certificate
	peer Peer
	// issuer is the serial number of the intermediate.
	issuer string
	tls    tls.Certificate
	// token is the digest of the token that admitted the box; empty in files from before it was kept.
	token string
}

// Open reads the identity in Options.Dir, or makes a key when there is none. It starts nothing and asks nobody.
func Open(opts Options) (*Identity, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.FS == nil {
		opts.FS = durable.OS()
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Uptime == nil {
		start := time.Now()
		opts.Uptime = func() time.Duration { return time.Since(start) }
	}
	if opts.DialContext == nil {
		opts.DialContext = (&net.Dialer{Timeout: handshakeTime, KeepAlive: 30 * time.Second}).DialContext
	}
	root, fleet, err := readRoot(opts.FS, opts.CAFile)
	if err != nil {
		return nil, err
	}
	floor := opts.BuildTime
	if root.NotBefore.After(floor) {
		floor = root.NotBefore // the firmware holds it, so it is later than that
	}
	i := &Identity{
		opts: opts, log: opts.Log, root: root, fleet: fleet, clock: newClock(opts, floor), conns: newConnTable(),
		chains: pki.NewCache(maxChains), resume: newSessions(),
		revoked: map[string]bool{}, changed: make(chan struct{}),
	}
	if err := i.load(); err != nil {
		return nil, err
	}
	return i, nil
}

func readRoot(fsys durable.FS, name string) (*x509.Certificate, string, error) {
	data, err := durable.ReadFile(fsys, name, maxFile)
	if err != nil {
		return nil, "", fmt.Errorf("the fleet's root certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, "", fmt.Errorf("the fleet's root certificate %s: no certificate in PEM form in it", name)
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("the fleet's root certificate %s: %w", name, err)
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, "", fmt.Errorf("the fleet's root certificate %s: it is not a root: %w", name, err)
	}
	fleet, err := pki.FleetOf(root)
	if err != nil {
		return nil, "", fmt.Errorf("the fleet's root certificate %s: %w", name, err)
	}
	return root, fleet, nil
}

// Enrolled reports whether this box has a certificate, be it expired or not.
func (i *Identity) Enrolled() bool { return i.credential() != nil }

// BoxID is the name that the CA gave to this box, empty until it is enrolled.
func (i *Identity) BoxID() string {
	if c := i.credential(); c != nil {
		return c.peer.BoxID
	}
	return ""
}

// Fleet is the fleet that the firmware's root certificate names.
func (i *Identity) Fleet() string { return i.fleet }

// Group is the group in the certificate; empty until enrolled, or when the box is in none.
func (i *Identity) Group() string {
	if c := i.credential(); c != nil {
		return c.peer.Group
	}
	return ""
}

// Serial is the serial number of the certificate, empty until enrolled.
func (i *Identity) Serial() string {
	if c := i.credential(); c != nil {
		return c.peer.Serial
	}
	return ""
}

// Expires is when the certificate ends; zero until enrolled.
func (i *Identity) Expires() time.Time {
	if c := i.credential(); c != nil {
		return c.leaf.NotAfter
	}
	return time.Time{}
}

// Changed returns a channel that is closed at the next change of certificate, revocations or trust in the clock.
func (i *Identity) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

// Now is the time to judge by. While trusted is false it is only a floor: the latest moment that is proven to have passed.
func (i *Identity) Now() (t time.Time, trusted bool) { return i.clock.now() }

// RaiseFloor notes a moment that a verified signature proves to have passed. A moment more than a day after a clock
// that is synchronised, or ten minutes after one that the authority has borne out within a day, is not believed: somebody
// signed with a wrong clock.
func (i *Identity) RaiseFloor(t time.Time) { i.clock.raise(t) }

// SetFleetTime notes the time that the fleet manager told over an authenticated, live connection. From then on Now is
// trusted even without a synchronised clock.
func (i *Identity) SetFleetTime(t time.Time) {
	if i.clock.setFleet(t) {
		i.checkHealth()
		i.wake()
	}
}

// SetRevoked replaces the list of revoked serial numbers, of certificates or of intermediates, in hexadecimal. Live
// connections to them are closed before it returns. Numbers that cannot be read are left out.
func (i *Identity) SetRevoked(serials []string) {
	set := make(map[string]bool, len(serials))
	for _, s := range serials {
		if n, err := pki.ParseSerial(s); err == nil {
			set[n] = true
		} else {
			i.log.Warn("revocation left out", "error", err)
		}
	}
	i.mu.Lock()
	same := maps.Equal(set, i.revoked)
	i.revoked = set
	i.mu.Unlock()
	if same {
		return
	}
	if n := i.conns.closeMatching(func(s string) bool { return set[s] }); n > 0 {
		i.log.Info("connections of revoked boxes closed", "connections", n)
	}
	i.checkHealth()
	i.wake()
}

// Revoked reports whether a serial number is on the list.
func (i *Identity) Revoked(serial string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.revoked[serial]
}

func (i *Identity) credential() *credential {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cred
}

func (i *Identity) wake() {
	i.mu.Lock()
	defer i.mu.Unlock()
	close(i.changed)
	i.changed = make(chan struct{})
}

func (i *Identity) path(name string) string { return filepath.Join(i.opts.Dir, name) }

func sameKey(a *ecdsa.PublicKey, b any) bool {
	other, ok := b.(*ecdsa.PublicKey)
	return ok && a.Equal(other)
}

// newCredential checks that certs, leaf first, is a certificate of this fleet's boxes for the key.
func newCredential(root *x509.Certificate, key *ecdsa.PrivateKey, certs []*x509.Certificate) (*credential, error) {
	at := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return sameKey(&key.PublicKey, c.PublicKey) })
	if at < 0 {
		return nil, fmt.Errorf("%w: none is for this box's key", ErrMalformed)
	}
	ordered := append([]*x509.Certificate{certs[at]}, slices.Delete(slices.Clone(certs), at, at+1)...)
	chain, err := pki.BuildChain(root, ordered, pki.Boxes)
	if err != nil {
		return nil, err
	}
	peer, err := pki.PeerOf(chain[0])
	if err != nil {
		return nil, err
	}
	return &credential{key: key, leaf: chain[0], peer: peer, issuer: pki.Serial(chain[1]), tls: tls.Certificate{
		Certificate: [][]byte{chain[0].Raw, chain[1].Raw}, PrivateKey: key, Leaf: chain[0],
	}}, nil
}
