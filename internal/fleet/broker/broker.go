// Package broker is the fleet manager's side of MQTT: an embedded NATS server with its MQTT listener (or connections to
// a NATS cluster elsewhere), the authorisation of boxes, and the bus over which fleetd reads the boxes' messages and
// speaks to them.
//
// Invariants: an MQTT client that is not fleetd itself has a certificate of the fleet's boxes, and its client id is that
// certificate's common name; it may publish and subscribe under its own name and read its own groups' wishes, nothing
// else, whatever it asks for. A message is acknowledged to the broker only after its handler returned without error,
// so what fleetd has not committed is delivered again, to this fleetd or another.
package broker

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/sync/errgroup"

	"boxd/internal/mqttwire"
)

// The accounts and users of the broker.
const (
	accountFleet = "FLEET" // boxes and fleetd
	accountAuth  = "AUTH"  // the auth callout
	accountSys   = "SYS"
	userFleetd   = "fleetd"
	userAuth     = "fleetd-auth"
	userSys      = "fleetd-sys"
)

// Creds are the secrets that fleetd and the broker share. All nodes of one fleet have the same.
type Creds struct {
	Issuer string `json:"issuer_seed"` // nkey seed of an account: signs the auth callout's answers
	Fleetd string `json:"fleetd"`      // passwords
	Auth   string `json:"auth"`
	Sys    string `json:"sys"`
}

// LoadCreds reads the secrets from path and makes them when there are none.
func LoadCreds(path string) (Creds, error) {
	var c Creds
	data, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(data, &c); err != nil || c.Issuer == "" {
			return c, fmt.Errorf("broker credentials %s are damaged: %w", path, err)
		}
		return c, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("broker credentials: %w", err)
	}
	kp, err := nkeys.CreateAccount()
	if err != nil {
		return c, fmt.Errorf("make broker key: %w", err)
	}
	seed, err := kp.Seed()
	if err != nil {
		return c, fmt.Errorf("make broker key: %w", err)
	}
	c = Creds{Issuer: string(seed), Fleetd: secret(), Auth: secret(), Sys: secret()}
	if data, err = json.MarshalIndent(c, "", "  "); err != nil {
		return c, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return c, fmt.Errorf("broker credentials: %w", err)
	}
	return c, writeSecret(path, data)
}

func writeSecret(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("broker credentials: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("broker credentials: %w", err)
	}
	return nil
}

func secret() string {
	var b [24]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ServerOptions configures the embedded server.
type ServerOptions struct {
	Dir      string // JetStream's store
	Name     string // of this server
	MQTT     string // host:port; port 0 picks one
	TLS      *tls.Config
	Creds    Creds
	MaxStore int64 // bytes; 0 means 4 GiB. When it is reached boxes get no PUBACK and keep what they have
	Log      *slog.Logger

	// Authorize judges the boxes of Fleet, in this process. nil: the auth callout does, as in a cluster.
	Authorize Authorize
	Fleet     string
}

// DefaultStore is what the embedded server's store may hold, in bytes.
const DefaultStore = 4 << 30

// maxSubs bounds the subscriptions of one connection.
const maxSubs = 32

// maxMessage bounds a payload, in bytes: the largest wish in its signed envelope.
const maxMessage = mqttwire.MaxDesired + 32<<10

// Server is the embedded NATS server.
type Server struct {
	o     ServerOptions
	ns    *server.Server
	store *storeWatch
}

// Config is the part of a nats-server configuration that is the same embedded and in a cluster: accounts, users and
// the auth callout. A box that does not read is dropped, and loses what it would have got, rather than waited for: all that
// fleetd sends is sent again.
func Config(c Creds, name, storeDir string, maxStore int64) (string, error) {
	kp, err := nkeys.FromSeed([]byte(c.Issuer))
	if err != nil {
		return "", fmt.Errorf("broker issuer: %w", err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		return "", fmt.Errorf("broker issuer: %w", err)
	}
	return fmt.Sprintf(`server_name: %s
max_payload: 262144
max_pending: 16777216
write_deadline: "10s"
no_fast_producer_stall: true
jetstream { store_dir: %s, max_file_store: %d, max_memory_store: 268435456, sync_interval: "2m" }
accounts {
  %s { jetstream: enabled, users: [ { user: %s, password: %s } ] }
  %s { users: [ { user: %s, password: %s } ] }
  %s { users: [ { user: %s, password: %s } ] }
}
system_account: %s
authorization {
  timeout: 10
  auth_callout { issuer: %s, account: %s, auth_users: [ %s, %s, %s ] }
}
`, strconv.Quote(name), strconv.Quote(storeDir), maxStore,
		accountFleet, userFleetd, strconv.Quote(c.Fleetd), accountAuth, userAuth, strconv.Quote(c.Auth),
		accountSys, userSys, strconv.Quote(c.Sys), accountSys, pub, accountAuth, userFleetd, userAuth, userSys), nil
}

// NewServer makes the embedded server; Start starts it.
func NewServer(o ServerOptions) (*Server, error) {
	if o.MaxStore == 0 {
		o.MaxStore = DefaultStore
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.TLS == nil {
		return nil, errors.New("broker: no TLS for the MQTT listener")
	}
	now := o.TLS.Time
	if now == nil {
		now = time.Now
	}
	conf, err := Config(o.Creds, o.Name, o.Dir, o.MaxStore)
	if err != nil {
		return nil, err
	}
	so := &server.Options{}
	if err := so.ProcessConfigString(conf); err != nil {
		return nil, fmt.Errorf("broker configuration: %w", err)
	}
	host, port, err := splitAddr(o.MQTT)
	if err != nil {
		return nil, err
	}
	so.DontListen, so.NoSigs, so.NoLog, so.NoSublistCache = true, true, true, true
	var in *door
	if o.Authorize != nil {
		in = &door{fleet: o.Fleet, creds: o.Creds, authorize: o.Authorize, log: o.Log}
		so.CustomClientAuthentication, so.AuthCallout = in, nil
		so.MaxSubs, so.MaxPayload = maxSubs, maxMessage
	}
	so.MQTT = server.MQTTOpts{
		Host: host, Port: port, TLSConfig: Resumable(o.TLS, o.Creds.Fleetd, now), TLSTimeout: 15, AuthTimeout: 15, StreamReplicas: 1,
		ConsumerInactiveThreshold: time.Hour, JSAPITimeout: 10 * time.Second,
	}
	ns, err := server.NewServer(so)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if in != nil {
		in.ns = ns
	}
	s := &Server{o: o, ns: ns, store: &storeWatch{}}
	ns.SetLoggerV2(natsLog{o.Log, s.store}, false, false, false)
	return s, nil
}

// RunConfig serves one node of a cluster from a configuration file as broker-config writes it, until ctx ends. Clients
// without a certificate get as far as the auth callout, which knows only fleetd's own password. It returns an error when
// only a restart can help, as Run of Server does.
func RunConfig(ctx context.Context, file string, log *slog.Logger) error {
	so := &server.Options{}
	if err := so.ProcessConfigFile(file); err != nil {
		return fmt.Errorf("broker configuration: %w", err)
	}
	if so.MQTT.TLSConfig == nil {
		return fmt.Errorf("broker configuration %s: the MQTT listener has no TLS", file)
	}
	so.MQTT.TLSConfig.ClientAuth = tls.VerifyClientCertIfGiven
	so.MQTT.TLSConfig.MinVersion = tls.VersionTLS12
	for _, u := range so.Users {
		if u.Username == userFleetd {
			so.MQTT.TLSConfig = Resumable(so.MQTT.TLSConfig, u.Password, time.Now)
		}
	}
	so.NoSigs, so.NoLog, so.NoSublistCache = true, true, true
	ns, err := server.NewServer(so)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	watch := &storeWatch{replica: true}
	ns.SetLoggerV2(natsLog{log, watch}, false, false, false)
	go ns.Start()
	defer func() { ns.Shutdown(); ns.WaitForShutdown() }()
	if !ns.ReadyForConnections(time.Minute) && ctx.Err() == nil {
		return fmt.Errorf("broker %s did not start: are its ports taken?", so.ServerName)
	}
	log.Info("broker serves", "name", so.ServerName, "mqtt", so.MQTT.Port)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return TrimMemory(ctx) })
	g.Go(func() error { return watch.run(ctx, so.StoreDir, ns.JetStreamEnabled) })
	return g.Wait()
}

func splitAddr(addr string) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("mqtt address %q: %w", addr, err)
	}
	port, err := strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("mqtt address %q: bad port", addr)
	}
	if port == 0 {
		port = -1
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return host, port, nil
}

// Run serves until ctx ends. It returns an error when the server does not come up, for example because the port is
// taken. ready is called once it answers.
func (s *Server) Run(ctx context.Context, ready func()) error {
	s.ns.Start() // does not block; what it could not listen on it has shut down for again
	defer func() { s.ns.Shutdown(); s.ns.WaitForShutdown() }()
	deadline := time.Now().Add(30 * time.Second)
	for !s.ns.ReadyForConnections(200 * time.Millisecond) {
		if ctx.Err() != nil {
			return nil
		}
		if time.Now().After(deadline) || !s.ns.Running() {
			return fmt.Errorf("broker did not start on %s: is the port taken?", s.o.MQTT)
		}
	}
	ready()
	return s.store.run(ctx, s.o.Dir, s.ns.JetStreamEnabled)
}

// Free is what is left on the disk of the server's store, in bytes.
func (s *Server) Free() int64 { return freeBytes(s.o.Dir) }

// Connect returns options that connect to this server within the process.
func (s *Server) Connect() Endpoint {
	return Endpoint{URL: "nats://127.0.0.1:4222", Options: []nats.Option{nats.InProcessServer(s.ns)}}
}

// Stats is what the server says about itself.
type Stats struct {
	Connections int   `json:"connections"`
	Memory      int64 `json:"memory"`
	SlowClients int64 `json:"slow_clients"`
	InMsgs      int64 `json:"in_messages"`
	OutMsgs     int64 `json:"out_messages"`
	StoreBytes  int64 `json:"store_bytes"`
}

// Stats reads the server's counters.
func (s *Server) Stats() Stats {
	v, err := s.ns.Varz(nil)
	if err != nil {
		return Stats{}
	}
	return Stats{
		Connections: v.Connections, Memory: v.Mem, SlowClients: v.SlowConsumers, InMsgs: v.InMsgs, OutMsgs: v.OutMsgs,
		StoreBytes: int64(min(v.JetStream.Stats.Store, 1<<62)), //nolint:gosec // bounded the line before
	}
}

// natsLog passes the server's warnings and errors on.
type natsLog struct {
	log   *slog.Logger
	store *storeWatch
}

func (l natsLog) Noticef(f string, a ...any) { l.log.Debug("nats", "text", fmt.Sprintf(f, a...)) }
func (l natsLog) Warnf(f string, a ...any)   { l.log.Info("nats", "text", trim(fmt.Sprintf(f, a...))) }

func (l natsLog) Fatalf(f string, a ...any) { l.log.Error("nats", "text", trim(fmt.Sprintf(f, a...))) }

func (l natsLog) Errorf(f string, a ...any) {
	text := trim(fmt.Sprintf(f, a...))
	l.store.heard(text, time.Now())
	l.log.Warn("nats", "text", text)
}

func (l natsLog) Debugf(string, ...any) {}
func (l natsLog) Tracef(string, ...any) {}

func trim(s string) string { return strings.TrimSpace(s[:min(len(s), 500)]) }
