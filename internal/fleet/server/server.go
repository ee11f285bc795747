// Package server puts the parts of fleetd together: from an empty directory to a certificate authority, a catalog, an
// origin, a tracker, a broker, an API and a firmware bundle.
//
// Invariants: Open makes what is missing and nothing twice; Run starts the parts in the order in which they need each
// other and stops them all when one fails; /readyz answers 200 only while boxes can enrol, connect and be heard.
package server

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"boxd/internal/durable"
	"boxd/internal/fleet/broker"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/origin"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/fleet/tracker"
	"boxd/internal/fleet/web"
)

// Options configures fleetd.
type Options struct {
	Dir    string
	Fleet  string   // id for a new fleet; empty means "fleet"
	Listen string   // HTTPS for boxes; empty means :8443
	MQTT   string   // MQTT over TLS; empty means :8883
	API    string   // HTTP API and dashboard; empty means 127.0.0.1:8088
	Hosts  []string // names and addresses by which boxes reach this machine; the first goes into the firmware

	NATS       string   // nats://…: an existing cluster instead of the embedded server
	MQTTURL    string   // host:port[,host:port…] of that cluster's MQTT listeners
	BrokerURLs []string // tls://host:port given to boxes; empty: this machine's
	DB         string   // postgres://… instead of SQLite

	Imports []string // directories of this machine that users of the role operator may publish from

	Regions string // file with the operator's list of regions, by which the tracker ranks; see tracker.Regions

	RootKeys, RootThreshold int // of a new catalog
	Now                     func() time.Time
	Log                     *slog.Logger
}

// Files and directories below Dir.
const (
	fileFleet    = "fleet.json"
	fileToken    = "api-token"
	fileOps      = "operations"
	dirCA        = "ca"
	dirKeys      = "keys"
	dirTUF       = "tuf"
	dirOrigin    = "origin"
	dirBroker    = "broker"
	dirFirmware  = "firmware"
	dirUploads   = "uploads"
	fileRegistry = "fleet.db"
	fileLock     = "lock"
	fileOpening  = "opening"
)

// settings is fleet.json: what was decided when the fleet was made.
type settings struct {
	Fleet string    `json:"fleet"`
	Made  time.Time `json:"made"`
	Hosts []string  `json:"hosts"`
	// Restored is when this directory was unpacked from a backup: what boxes were given before may be newer than what is here.
	Restored time.Time `json:"restored,omitzero"`
}

// Server is a fleet manager that was opened.
type Server struct {
	o       Options
	set     settings
	log     *slog.Logger
	reg     *registry.Registry
	ca      *ca.CA
	repo    *repo.Repo
	fleet   *operate.Fleet
	bus     *broker.Bus
	nats    *broker.Server // nil when NATS is elsewhere
	creds   broker.Creds
	shut    shutBoxes
	origin  *origin.Handler
	tracker *tracker.Tracker
	regions *tracker.Regions // nil: none
	view    *web.View
	lock    *os.File // of Dir
	listen  net.Listener
	apiL    net.Listener
	mqtt    string // host:port where this process reaches the MQTT listener
	ready   readiness
}

func (o *Options) setDefaults() error {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&o.Fleet, "fleet")
	def(&o.Listen, ":8443")
	def(&o.MQTT, ":8883")
	def(&o.API, "127.0.0.1:8088")
	if o.Dir == "" {
		return errors.New("no directory for the fleet")
	}
	if (o.NATS != "") != (o.MQTTURL != "") {
		return errors.New("a NATS cluster needs both its NATS and its MQTT address")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	dir, err := filepath.Abs(o.Dir)
	o.Dir = dir
	return err
}

// Init makes a new fleet in Dir: CA, catalog keys, the operations key and the first publisher. It does nothing to one
// that is there.
func Init(o Options) error {
	if err := o.setDefaults(); err != nil {
		return err
	}
	if err := checkHosts(o.Hosts); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.Dir, fileFleet)); err == nil {
		return nil
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("make fleet: %w", err)
	}
	if err := ca.Init(
		filepath.Join(o.Dir, dirCA),
		ca.InitOptions{Fleet: o.Fleet, Now: o.Now()},
	); err != nil &&
		!errors.Is(err, ca.ErrExists) {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	if err := initCatalog(o); err != nil {
		return err
	}
	hosts := o.Hosts
	if len(hosts) == 0 {
		hosts = defaultHosts()
	}
	data, err := json.MarshalIndent(settings{Fleet: o.Fleet, Made: o.Now().UTC(), Hosts: hosts}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(o.Dir, fileFleet), data, 0o600)
}

func initCatalog(o Options) error {
	keys := filepath.Join(o.Dir, dirKeys)
	r, err := repo.Init(repo.Options{Dir: filepath.Join(o.Dir, dirTUF), Keys: keys, Now: o.Now, Log: o.Log},
		repo.InitOptions{RootKeys: o.RootKeys, RootThreshold: o.RootThreshold})
	if errors.Is(err, repo.ErrExists) {
		r, err = repo.Open(repo.Options{Dir: filepath.Join(o.Dir, dirTUF), Keys: keys, Now: o.Now, Log: o.Log})
	}
	if err != nil {
		return fmt.Errorf("make catalog: %w", err)
	}
	opsKey, err := loadOrMakeKey(keys, fileOps)
	if err != nil {
		return err
	}
	pubKey, err := loadOrMakeKey(keys, repo.PublisherRole(operate.DefaultPublisher))
	if err != nil {
		return err
	}
	return r.Update(func(tx *repo.Tx) error {
		if err := tx.SetOperationsKeys(
			[]ed25519.PublicKey{opsKey.Public().(ed25519.PublicKey)},
		); err != nil { //nolint:forcetypeassert // documented
			return fmt.Errorf("set operations key: %w", err)
		}
		list, err := tx.Publishers()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list, func(p repo.Publisher) bool { return p.Name == operate.DefaultPublisher }) {
			return nil
		}
		return tx.AddPublisher(
			operate.DefaultPublisher,
			pubKey.Public().(ed25519.PublicKey),
			0,
		) //nolint:forcetypeassert // documented
	})
}

func loadOrMakeKey(dir, name string) (ed25519.PrivateKey, error) {
	key, err := loadKey(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return repo.GenerateKey(durable.OS(), dir, name)
	}
	return key, err
}

func loadKey(dir, name string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(filepath.Join(dir, name+".pem"))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	return repo.ParseKey(data)
}

func writeFile(path string, data []byte, perm fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := durable.WriteFile(durable.OS(), path, data, perm); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// checkHosts refuses what boxes could not put into an address.
func checkHosts(hosts []string) error {
	for _, h := range hosts {
		if _, err := netip.ParseAddr(h); err == nil {
			continue
		}
		for _, label := range strings.Split(h, ".") {
			ok := label != "" && len(label) < 64 && label[0] != '-' && label[len(label)-1] != '-'
			for _, c := range strings.ToLower(label) {
				ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_')
			}
			if !ok {
				return fmt.Errorf("host %.80q: want a name such as fleet.example, or an address, without a port", h)
			}
		}
	}
	return nil
}

func defaultHosts() []string {
	hosts := []string{}
	if name, err := os.Hostname(); err == nil && name != "" {
		hosts = append(hosts, name)
	}
	return append(hosts, "localhost", "127.0.0.1")
}

// Open makes the fleet if there is none and opens everything; Run starts it and Close releases it.
func Open(ctx context.Context, o Options) (*Server, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	lock, err := lockDir(o)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, log: o.Log, lock: lock}
	if s.o.Imports, err = importDirs(o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if o.Regions != "" {
		if s.regions, err = tracker.OpenRegions(o.Regions, s.log); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if err := oneAtATime(o.Dir, func() error { return s.openDir(ctx) }); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) openDir(ctx context.Context) error {
	o := s.o
	if err := Init(o); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(o.Dir, fileFleet))
	if err != nil {
		return fmt.Errorf("read fleet: %w", err)
	}
	if err := json.Unmarshal(data, &s.set); err != nil {
		return fmt.Errorf("read %s: %w", fileFleet, err)
	}
	if len(o.Hosts) > 0 {
		s.set.Hosts = o.Hosts
	}
	return s.open(ctx)
}

// Close releases what Open took.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.listen, s.apiL} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if s.reg != nil {
		errs = append(errs, s.reg.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close()) // last: it gives the directory back
		s.lock = nil
	}
	return errors.Join(errs...)
}

func (s *Server) open(ctx context.Context) error {
	o := s.o
	var err error
	if s.reg, err = registry.Open(
		ctx,
		registry.Options{Path: filepath.Join(o.Dir, fileRegistry), URL: o.DB, Now: o.Now, Log: o.Log, DBClock: true},
	); err != nil {
		return err
	}
	if s.ca, err = ca.Open(
		ctx,
		ca.Options{Dir: filepath.Join(o.Dir, dirCA), Store: s.reg.CA(), Now: o.Now, Log: o.Log},
	); err != nil {
		return fmt.Errorf("open certificate authority: %w", err)
	}
	keys := filepath.Join(o.Dir, dirKeys)
	s.repo, err = repo.Open(repo.Options{Dir: filepath.Join(o.Dir, dirTUF), Keys: keys, Now: o.Now, Log: o.Log, Fence: s.fence})
	if err != nil {
		return fmt.Errorf("open catalog: %w", err)
	}
	if err := s.raiseRestored(); err != nil {
		return err
	}
	// Never made here: boxes believe the one that the catalog names, and a new one would sign what nobody obeys.
	opsKey, err := loadKey(keys, fileOps)
	if err != nil {
		return fmt.Errorf("operations key: %w", err)
	}
	if s.creds, err = broker.LoadCreds(filepath.Join(o.Dir, dirBroker, "creds.json")); err != nil {
		return err
	}
	if s.listen, err = net.Listen("tcp", o.Listen); err != nil {
		return fmt.Errorf("listen for boxes: %w", err)
	}
	if s.apiL, err = net.Listen("tcp", o.API); err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	if err := s.openBroker(); err != nil {
		return err
	}
	host := s.set.Hosts[0]
	base := "https://" + net.JoinHostPort(host, port(s.listen.Addr().String()))
	s.fleet = operate.New(operate.Options{
		ID: s.ca.Fleet(), Repo: s.repo, Keys: keys, CA: s.ca, Registry: s.reg, Bus: s.bus, OpsKey: opsKey,
		OriginDir: filepath.Join(o.Dir, dirOrigin), OriginURLs: []string{base + "/origin"}, Announce: []string{base + "/announce"},
		Holder: holder(), Floor: s.floor(), Machine: s.machine, Now: o.Now, Log: o.Log,
	})
	s.openHTTP()
	return nil
}

func (s *Server) fence() error {
	if s.fleet == nil {
		return nil
	}
	return s.fleet.Fence()
}

func holder() string {
	name, err := os.Hostname()
	if err != nil {
		name = "fleetd"
	}
	return fmt.Sprintf("%s-%d-%d", name, os.Getpid(), time.Now().UnixNano())
}

func port(addr string) string {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return p
}
