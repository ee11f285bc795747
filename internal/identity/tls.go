package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"boxd/internal/identity/pki"
)

// The protocols of the one TLS port, by ALPN.
const (
	ALPNSwarm = "boxd-swarm/1" // BitTorrent; SNI is "<infohash>.boxd"
	ALPNHome  = "boxd-home/1"  // household talk
	ALPNRead  = "boxd-read/1"  // pieces for players of other boxes of the home, see package remote
)

// boxCurves leaves out the post-quantum hybrids between boxes: they guard what must stay secret for decades, which films on
// every box of a fleet are not, and cost 2.3 kB and a third more processor time in each handshake (amd64). Connections
// to the fleet's servers, over which a token goes, keep them.
var boxCurves = []tls.CurveID{tls.X25519, tls.CurveP256}

// PeerOf reads who is at the other end of a connection whose handshake is complete.
func PeerOf(cs tls.ConnectionState) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, ErrNoCertificate
	}
	return pki.PeerOf(cs.PeerCertificates[0])
}

// SwarmServer is for the listener that other boxes dial: all protocols, a certificate of a box of this fleet required.
// The certificate shown is always the current one. The result is shared: clone it before changing it.
func (i *Identity) SwarmServer() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPNSwarm, ALPNHome, ALPNRead}, CurvePreferences: boxCurves,
		Time: i.judge, ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			return i.verifyBox(cs, "")
		},
	}
}

// SwarmClient is for dialling another box: boxID "" takes any box of the fleet, which gives up resumption. sni names the
// infohash as "<infohash>.boxd" for the swarm; alpn is one of the protocols above, and the other side must speak it.
func (i *Identity) SwarmClient(boxID, sni, alpn string) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, CurvePreferences: boxCurves, ServerName: sni,
		Time: i.judge,
		// The name in the certificate is a box, not a host: VerifyConnection does all the checking, on resumption too.
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != alpn {
				return fmt.Errorf("the other side does not speak %s", alpn)
			}
			return i.verifyBox(cs, boxID)
		},
	}
	if boxID != "" {
		cfg.ClientSessionCache = sessionsOf{i.resume, boxID + "/" + alpn}
	}
	return cfg
}

// FleetClient is for the fleet's own servers (MQTT broker, tracker, origin, catalog): the certificate must be of the
// servers' intermediate and name the host; this box shows its own when it has one. It works in tls.Dial,
// http.Transport and an MQTT client alike, which set the host's name themselves.
func (i *Identity) FleetClient() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(i.root)
	var resume tls.ClientSessionCache
	if c := i.credential(); c != nil { // without a certificate there is nothing that a session would spare
		resume = sessionsWith{i.resume, pki.Serial(c.leaf)}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Time: i.judge, ClientSessionCache: resume,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert, err := i.certificate(); err == nil {
				return cert, nil
			}
			return &tls.Certificate{}, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := i.verifyServer(cs)
			return err
		},
	}
}

// enrollClient is for the enrolment service at host. When renewing, the server's certificate may have ended: an
// impostor with an old server key learns nothing and can give nothing, since what comes back must be of the CA, and a
// box whose floor is wrong needs a way home. When enrolling it may not, for the token is a secret.
func (i *Identity) enrollClient(host string, renewing bool) *tls.Config {
	cfg := i.FleetClient()
	cfg.ClientSessionCache = nil  // who one is must be shown anew
	cfg.InsecureSkipVerify = true // VerifyConnection checks it all, with the one exception above
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		chain, err := i.verifyServer(cs)
		if err != nil && (!renewing || !errors.Is(err, ErrExpired)) {
			return err
		}
		return chain[0].VerifyHostname(host)
	}
	return cfg
}

// judge is the clock of the TLS library.
func (i *Identity) judge() time.Time {
	t, _ := i.clock.now()
	return t
}

func (i *Identity) certificate() (*tls.Certificate, error) {
	c := i.credential()
	if c == nil {
		return nil, ErrNotEnrolled
	}
	return &c.tls, nil
}

func (i *Identity) verifyBox(cs tls.ConnectionState, want string) error {
	chain, err := i.chains.BuildChain(i.root, cs.PeerCertificates, pki.Boxes)
	if err != nil {
		return err
	}
	if err := i.checkChain(chain); err != nil {
		return err
	}
	if want != "" && chain[0].Subject.CommonName != want {
		return fmt.Errorf("%w: %q, dialled %q", ErrOtherBox, chain[0].Subject.CommonName, want)
	}
	return nil
}

// verifyServer returns the chain also when the only fault is that it has expired.
func (i *Identity) verifyServer(cs tls.ConnectionState) ([]*x509.Certificate, error) {
	chain, err := i.chains.BuildChain(i.root, cs.PeerCertificates, pki.Servers)
	if err != nil {
		return nil, err
	}
	return chain, i.checkChain(chain)
}

// checkChain judges revocation first, so that an expired chain that is returned as such is not a revoked one.
func (i *Identity) checkChain(chain []*x509.Certificate) error {
	for _, c := range chain {
		if i.Revoked(pki.Serial(c)) {
			return fmt.Errorf("%w: %q, serial number %s", ErrRevoked, c.Subject.CommonName, pki.Serial(c))
		}
	}
	now, trusted := i.clock.now()
	return pki.CheckTime(chain, now, trusted)
}

// serialsOf lists the serial numbers a connection depends on.
func serialsOf(cs tls.ConnectionState) []string {
	var list []string
	for _, c := range cs.PeerCertificates {
		list = append(list, strings.Clone(pki.Serial(c)))
	}
	return list
}
