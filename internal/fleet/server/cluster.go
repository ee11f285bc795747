package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"boxd/internal/fleet/broker"
	"boxd/internal/fleet/ca"
)

// ClusterNode describes one nats-server of a cluster that serves a fleet.
type ClusterNode struct {
	Dir     string // of the fleet
	Name    string
	Store   string // JetStream directory
	Client  string // host:port for fleetd; empty means 0.0.0.0:4222
	Cluster string // host:port for the other nodes; empty means 0.0.0.0:6222
	MQTT    string // host:port for boxes
	Out     string // where its certificate, key and the boxes' CA are written
	Routes  []string
	Hosts   []string // names of the node; empty: the fleet's
}

// BrokerConfig writes a node's TLS files and returns its nats-server configuration.
func BrokerConfig(ctx context.Context, n ClusterNode) (string, error) {
	creds, err := broker.LoadCreds(filepath.Join(n.Dir, dirBroker, "creds.json"))
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(n.Dir, fileFleet))
	if err != nil {
		return "", fmt.Errorf("read fleet: %w", err)
	}
	var set settings
	if err := json.Unmarshal(data, &set); err != nil {
		return "", fmt.Errorf("read %s: %w", fileFleet, err)
	}
	store, err := ca.OpenStore(filepath.Join(n.Out, ".ledger.tmp"))
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(filepath.Join(n.Out, ".ledger.tmp")) }()
	defer func() { _ = store.Close() }()
	authority, err := ca.Open(ctx, ca.Options{Dir: filepath.Join(n.Dir, dirCA), Store: store})
	if err != nil {
		return "", err
	}
	if len(n.Hosts) == 0 {
		n.Hosts = set.Hosts
	}
	cert, key, err := authority.ServerPEM(n.Hosts, 365*24*time.Hour)
	if err != nil {
		return "", err
	}
	path := func(kind string) string { return filepath.Join(n.Out, n.Name+"-"+kind+".pem") }
	for kind, pem := range map[string][]byte{"cert": cert, "key": key, "boxes": authority.ClientCAsPEM()} {
		if err := writeFile(path(kind), pem, 0o600); err != nil {
			return "", err
		}
	}
	base, err := broker.Config(creds, n.Name, n.Store, 64<<30)
	if err != nil {
		return "", err
	}
	def := func(s, v string) string {
		if s == "" {
			return v
		}
		return s
	}
	routes := make([]string, len(n.Routes))
	for i, r := range n.Routes { // nats://host:port
		u, err := url.Parse(r)
		if err != nil || u.Host == "" {
			return "", fmt.Errorf("route %q: want nats://host:port", r)
		}
		u.User = url.UserPassword("route", creds.Sys)
		routes[i] = fmt.Sprintf("%q", u)
	}
	return base + fmt.Sprintf(`listen: %q
tls { cert_file: %q, key_file: %q, timeout: 10 }
# Between the nodes only a password protects: keep this listener on a private network.
cluster { name: "boxd", listen: %q, authorization { user: "route", password: %q, timeout: 5 }, routes: [ %s ] }
mqtt {
  listen: %q
  stream_replicas: %d
  consumer_inactive_threshold: "1h"
  tls { cert_file: %q, key_file: %q, ca_file: %q, timeout: 15 }
}
`, def(n.Client, "0.0.0.0:4222"), path("cert"), path("key"), def(n.Cluster, "0.0.0.0:6222"), creds.Sys,
		strings.Join(routes, ", "), n.MQTT, min(len(n.Routes)+1, 3),
		path("cert"), path("key"), path("boxes")), nil
}
