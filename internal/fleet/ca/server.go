package ca

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const serverLife = 90 * 24 * time.Hour

// ServerCert makes a key and a certificate for one of the fleet's servers under the names or IP addresses by which
// boxes reach it. It begins when the root begins, so that a box whose clock stands at its floor can believe it.
func (c *CA) ServerCert(hosts []string, ttl time.Duration) (tls.Certificate, error) {
	if len(hosts) == 0 {
		return tls.Certificate{}, errors.New("server certificate: want a host name or address")
	}
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	end := c.opts.Now().Add(ttl)
	if end.After(c.servers.cert.NotAfter) {
		end = c.servers.cert.NotAfter
	}
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: hosts[0], Organization: []string{c.fleet}},
		NotBefore: c.root.NotBefore, NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if h != "" && len(h) <= 253 {
			t.DNSNames = append(t.DNSNames, h)
		} else {
			return tls.Certificate{}, fmt.Errorf("server certificate: %.60q is no host name", h)
		}
	}
	cert, err := sign(t, c.servers.cert, &key.PublicKey, c.servers.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw, c.servers.cert.Raw}, PrivateKey: crypto.PrivateKey(key), Leaf: cert}, nil
}

// serverCerts makes a server's certificate anew when a third of its life is left.
type serverCerts struct {
	ca    *CA
	hosts []string
	mu    sync.Mutex // guards cert
	cert  *tls.Certificate
}

func (s *serverCerts) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.ca.opts.Now()
	if s.cert != nil && s.cert.Leaf.NotAfter.Sub(now) > serverLife/3 && s.cert.Leaf.NotAfter.Sub(now) <= serverLife {
		return s.cert, nil
	}
	cert, err := s.ca.ServerCert(s.hosts, serverLife)
	if err != nil {
		return nil, err
	}
	s.cert = &cert
	return s.cert, nil
}

// ServerTLS is for the fleet's HTTPS port. It asks clients for a certificate and judges none, because enrolment comes without
// one and renewal may come with an expired one: wrap every other handler in RequireBox. The server's certificate renews
// itself.
func (c *CA) ServerTLS(hosts ...string) *tls.Config {
	certs := &serverCerts{ca: c, hosts: hosts}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.RequestClientCert,
		ClientCAs: c.Pool(), GetCertificate: certs.get, Time: c.opts.Now,
	}
}

// BrokerTLS is for a port that only boxes may connect to (MQTT): a certificate that is valid now is required.
func (c *CA) BrokerTLS(hosts ...string) *tls.Config {
	cfg := c.ServerTLS(hosts...)
	cfg.NextProtos = nil
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := c.VerifyPeer(cs)
		return err
	}
	return cfg
}

// IsRevoked reports whether a serial number is on the list as it was last loaded.
func (c *CA) IsRevoked(serial string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revoked[serial]
}
