package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"boxd/internal/fleet/broker"
)

func (s *Server) openBroker() error {
	at := s.clusterEndpoint()
	var free func() int64
	s.mqtt = s.o.MQTTURL
	if s.o.NATS == "" {
		if err := s.pickMQTT(); err != nil {
			return err
		}
		var err error
		s.nats, err = broker.NewServer(broker.ServerOptions{
			Dir: filepath.Join(s.o.Dir, dirBroker, "jetstream"), Name: "fleetd", MQTT: s.o.MQTT, TLS: s.brokerTLS(),
			Creds: s.creds, Log: s.log, Authorize: s.authorize, Fleet: s.ca.Fleet(),
		})
		if err != nil {
			return err
		}
		at, free = s.nats.Connect(), s.nats.Free
	}
	s.bus = broker.NewBus(broker.BusOptions{
		Fleet: s.ca.Fleet(), At: at, Creds: s.creds, MQTT: strings.Split(s.mqtt, ","), Log: s.log,
		MQTTTLS: func() *tls.Config {
			cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.ca.Pool(), Time: s.ca.Now}
			if s.nats != nil { // reached over loopback, whatever its name
				cfg.ServerName = s.set.Hosts[0]
			}
			return cfg
		},
		Handle: func(ctx context.Context, b []broker.Msg) error {
			if err := s.fleet.LearnOf(ctx, b); err != nil {
				return err
			}
			return s.fleet.Handle(ctx, b)
		},
		Tele:  func(m broker.Msg) { s.fleet.Tele(m) },
		Abuse: s.shutOut, Alone: s.nats != nil, Free: free,
	})
	return nil
}

// pickMQTT turns port 0 into a real one, since the firmware bundle names it before the broker runs.
func (s *Server) pickMQTT() error {
	l, err := net.Listen("tcp", s.o.MQTT)
	if err != nil {
		return fmt.Errorf("listen for MQTT: %w", err)
	}
	s.o.MQTT = l.Addr().String()
	if err := l.Close(); err != nil {
		return fmt.Errorf("listen for MQTT: %w", err)
	}
	host, p, err := net.SplitHostPort(s.o.MQTT)
	if err != nil {
		return fmt.Errorf("mqtt address: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	s.mqtt = net.JoinHostPort(host, p)
	return nil
}

// brokerTLS lets fleetd itself connect without a box's certificate: what such a client may do is then decided by the
// auth callout, which knows only fleetd's password. The standard library is not asked to verify what boxes show: check does,
// once for the handshake and the callout, and nothing but what was shown is kept for each connection.
func (s *Server) brokerTLS() *tls.Config {
	cfg := s.ca.BrokerTLS(s.set.Hosts...)
	cfg.ClientAuth = tls.RequestClientCert
	// Without the hybrid with ML-KEM, whose keys make a storm of handshakes dearer by a tenth: what goes over this listener
	// is worthless in ten years.
	cfg.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	check := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil
		}
		return check(cs)
	}
	return cfg
}

// authorize is asked for every MQTT client with a certificate, whoever made it.
func (s *Server) authorize(_ context.Context, chain []*x509.Certificate) (broker.Client, error) {
	peer, err := s.ca.VerifyPeer(tls.ConnectionState{PeerCertificates: chain})
	if err != nil {
		return broker.Client{}, err
	}
	if peer.Fleet != s.ca.Fleet() {
		return broker.Client{}, fmt.Errorf("box of fleet %q", peer.Fleet)
	}
	if until, out := s.shut.until(peer.BoxID, s.o.Now()); out {
		return broker.Client{}, fmt.Errorf("it filled the broker's store and is shut out until %s", until.Format(time.RFC3339))
	}
	s.fleet.Connecting(peer.BoxID, peer.Group)
	return broker.Client{Box: peer.BoxID, Groups: []string{peer.Group}, Until: chain[0].NotAfter}, nil
}

// clusterEndpoint reaches the nodes over TLS with certificates of the fleet's servers.
func (s *Server) clusterEndpoint() broker.Endpoint {
	return broker.Endpoint{URL: s.o.NATS, Options: []nats.Option{
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.ca.Pool(), Time: s.ca.Now}),
	}}
}
