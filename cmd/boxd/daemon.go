package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/config"
	"boxd/internal/control"
	"boxd/internal/courtesy"
	"boxd/internal/fetch"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/origin"
	"boxd/internal/fetch/portmap"
	"boxd/internal/firmware"
	"boxd/internal/health"
	"boxd/internal/httpapi"
	"boxd/internal/identity"
	"boxd/internal/lan"
	"boxd/internal/mgmt"
	"boxd/internal/remote"
	"boxd/internal/schedule"
	"boxd/internal/state"
)

// daemon is everything that runs.
type daemon struct {
	cfg    *config.Config
	log    *slog.Logger
	ring   *control.LogRing
	health *health.Set

	closers []func() error // last opened, first closed
	remote  control.Remote // remote configuration that holds from the start

	swarm, tcp, unix, page net.Listener
	state                  *state.DB
	id                     *identity.Identity
	split                  *engine.Split // nil with transport security
	mux                    *identity.Mux
	ports, ports6          *portmap.Mapper // nil: no port is mapped
	cache                  *cache.Cache
	catalog                *catalog.Catalog
	lan                    *lan.LAN
	fetch                  *fetch.Fetcher
	firmware               *firmware.Firmware
	courtesy               *courtesy.Governor
	box                    *control.Box
	http                   *httpapi.Server
	mgmt                   *mgmt.Manager  // nil without a broker
	reads                  *remote.Remote // nil when the config has it off
	bell                   chan int64
	limits                 atomic.Pointer[fetch.Limits] // as the configuration has them now
}

// open opens all resources, those first that show a mistake of whoever started us.
func (d *daemon) open(ctx context.Context) error {
	d.health = health.New(nil)
	d.bell = make(chan int64, 1)
	d.limits.Store(fetchLimits(d.cfg))
	for _, step := range []func(context.Context) error{
		d.openListeners, d.openState, d.openIdentity, d.openCatalog, d.openCache, d.openLAN, d.openRemote, d.openPorts,
		d.openFetch,
		d.openFaces,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) onClose(f func() error) { d.closers = append(d.closers, f) }

func (d *daemon) close() {
	for _, f := range slices.Backward(d.closers) {
		if err := f(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
			d.log.Error("close", "error", err)
		}
	}
	d.closers = nil
}

func (d *daemon) openListeners(ctx context.Context) (err error) {
	if d.unix, err = listenUnix(ctx, d.cfg.Paths.Socket); err != nil {
		return err
	}
	d.onClose(d.unix.Close)
	if d.tcp, err = listenTCP(ctx, "http.listen", d.cfg.HTTP.Listen); err != nil {
		return err
	}
	d.onClose(d.tcp.Close)
	if d.swarm, err = listenTCP(ctx, "swarm.listen", d.cfg.Swarm.Listen); err != nil {
		return err
	}
	d.onClose(d.swarm.Close)
	if d.cfg.HTTP.LANListen != "" {
		if d.page, err = listenTCP(ctx, "http.lan_listen", d.cfg.HTTP.LANListen); err != nil {
			return err
		}
		d.onClose(d.page.Close)
	}
	return nil
}

func (d *daemon) openState(context.Context) (err error) {
	for key, dir := range map[string]string{"paths.state": d.cfg.Paths.State, "paths.cache": d.cfg.Paths.Cache} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	d.state, err = state.Open(filepath.Join(d.cfg.Paths.State, "state.db"), state.Options{
		Log:    d.named("state"),
		Health: d.health,
	})
	if errors.Is(err, state.ErrLocked) {
		return fmt.Errorf("paths.state = %q: another boxd uses it: %w", d.cfg.Paths.State, err)
	}
	if err != nil {
		return err
	}
	d.onClose(d.state.Close)
	d.remote = control.RemoteAtStart(d.state, d.log)
	return nil
}

func (d *daemon) named(name string) *slog.Logger { return d.log.With("part", name) }

func (d *daemon) openIdentity(context.Context) (err error) {
	token, err := enrolToken(d.cfg)
	if err != nil {
		return err
	}
	d.id, err = identity.Open(identity.Options{
		Dir: filepath.Join(d.cfg.Paths.State, "identity"), State: d.state, CAFile: d.cfg.Fleet.CA, EnrollURL: d.cfg.Fleet.URL,
		Token: token, TimeSyncPath: d.cfg.Paths.TimeSync, BuildTime: buildTime(), Health: d.health, Log: d.named("identity"),
	})
	if err != nil {
		return err
	}
	d.openMux()
	return nil
}

// credential is the name under which systemd hands over a token (LoadCredential= in the unit).
const credential = "boxd.token"

// enrolToken reads the token; the file may go once the box is enrolled.
func enrolToken(cfg *config.Config) (string, error) {
	key, file := "fleet.token_file", cfg.Fleet.TokenFile
	if file == "" {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if cfg.Fleet.Token != "" || dir == "" {
			return cfg.Fleet.Token, nil
		}
		key, file = "system credential "+credential, filepath.Join(dir, credential)
	}
	b, err := os.ReadFile(file) //nolint:gosec // the operator or systemd names the file
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func buildTime() time.Time {
	if sec, err := strconv.ParseInt(buildEpoch, 10, 64); err == nil {
		return time.Unix(sec, 0)
	}
	return time.Time{}
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func (d *daemon) url(own, path string) string {
	return orElse(own, strings.TrimRight(d.cfg.Fleet.URL, "/")+path)
}

func (d *daemon) openCatalog(context.Context) error {
	root, err := os.ReadFile(d.cfg.Fleet.Root)
	if err != nil {
		return fmt.Errorf("fleet.root: %w", err)
	}
	d.catalog, err = catalog.Open(catalog.Options{
		Dir: filepath.Join(d.cfg.Paths.State, "catalog"), Root: root, URL: d.url(d.cfg.Fleet.Catalog, "/tuf"),
		Client: d.id.HTTPClient(0), Groups: d.groups, BoxID: d.id.BoxID, Now: d.id.Now,
		Poll:   d.cfg.Fleet.Poll.Std(),
		Health: d.health, Log: d.named("catalog"), OnTime: d.id.RaiseFloor,
	})
	return err
}

func (d *daemon) groups() []string {
	if g := d.id.Group(); g != "" {
		return []string{g}
	}
	return nil
}

func (d *daemon) openCache(context.Context) (err error) {
	c := &d.cfg.Cache
	scrub := c.ScrubPeriod.Std()
	if scrub == 0 {
		scrub = -1
	}
	d.cache, err = cache.Open(cache.Options{
		Dir: d.cfg.Paths.Cache, StateDir: d.cfg.Paths.State, State: d.state,
		Quota: d.remote.NarrowQuota(c.Quota), Reserve: d.remote.NarrowReserve(c.Reserve),
		GroupBytes: int64(c.GroupBytes), GroupInterval: c.GroupInterval.Std(), ScrubPeriod: scrub,
		ScrubRate: int64(c.ScrubRate),
		Health:    d.health, Log: d.named("cache"), Now: d.id.Now,
	})
	if err != nil {
		return err
	}
	d.onClose(d.cache.Close)
	d.firmware, err = firmware.New(firmware.Options{
		Cache: d.cache, Catalog: d.catalog, Dir: filepath.Join(d.cfg.Paths.State, "firmware"), Health: d.health,
		Log: d.named("firmware"),
	})
	return err
}

func (d *daemon) swarmPort() int {
	if a, ok := d.swarm.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

func (d *daemon) openLAN(context.Context) (err error) {
	d.lan, err = lan.New(lan.Options{
		Identity: d.id, Listener: d.mux.Listener(identity.ALPNHome), Port: d.swarmPort(), Static: d.cfg.LAN.Static,
		PeerOf: func(cs tls.ConnectionState) (box, fleet string, err error) {
			p, err := identity.PeerOf(cs)
			return p.BoxID, p.Fleet, err
		},
		MDNS: d.cfg.LAN.MDNS, Interfaces: d.cfg.LAN.Interfaces, Prefixes: d.cfg.PrefixList(), Health: d.health,
		Log: d.named("lan"),
	})
	return err
}

// Bounds of an announce, and of connecting for it.
const (
	trackerTimeout = 30 * time.Second
	trackerDial    = 10 * time.Second
)

func (d *daemon) openFetch(context.Context) (err error) {
	swarm, id := d.swarmListener()
	o := fetch.Options{
		Cache: fetch.FromCache(d.cache), Catalog: d.catalog, Identity: d.id, LAN: d.lan, State: d.state,
		NewSwarm: fetch.NewEngine(engine.Options{Self: d.id.BoxID, Log: d.named("swarm")}, fetch.EngineOptions{
			Identity: id, Listener: swarm, Limits: engine.Limits{
				PeersPerTorrent: d.remote.NarrowPeers(d.cfg.Swarm.MaxPeers), UploadSlots: d.cfg.Limits.UploadSlots,
			},
		}),
		Origin: originClient(d.id), TrackerURL: d.trackerURL(), Port: d.swarmPort(), Location: d.cfg.Location(),
		Class:  func() int { return spaceClass(d.cache.Usage()) },
		Limits: *d.limits.Load(), Health: d.health, Log: d.named("fetch"),
		Probe: fetch.Probe{Off: !d.cfg.Limits.Yield, NoEcho: !d.cfg.Limits.Probe},
	}
	d.announceOver(&o)
	d.fetch, err = fetch.New(o)
	return err
}

// originClient shows the certificate that the box has now, also after a renewal.
func originClient(id *identity.Identity) *http.Client {
	c := origin.Client(nil)
	if t, ok := c.Transport.(*http.Transport); ok {
		c.Transport = id.Transport(t)
	}
	return c
}

// fetchLimits is what the configuration says.
func fetchLimits(c *config.Config) *fetch.Limits {
	rate := func(l config.RateLimit) schedule.Limit {
		if !l.Set {
			return schedule.Limit{}
		}
		return schedule.LimitTo(int64(l.Value))
	}
	var budget schedule.Limit
	if c.Limits.MonthlyWAN.Set {
		budget = schedule.LimitTo(int64(c.Limits.MonthlyWAN.Value))
	}
	return &fetch.Limits{
		WANDown: rate(c.Limits.WANDown), WANUp: rate(c.Limits.WANUp),
		UploadRatio: float64(c.Limits.UploadRatio), UploadOff: c.Limits.UploadRatio == 0 || c.Limits.UploadSlots == 0,
		LAN: rate(c.Limits.LAN), Budget: budget, PlaybackOff: !c.Schedule.PlayOutsideWindows,
	}
}

func (d *daemon) httpURL() string { return "http://" + d.tcp.Addr().String() }

func (d *daemon) openFaces(context.Context) (err error) {
	var reads control.RemoteReader
	if d.reads != nil {
		reads = d.reads
	}
	d.courtesy = courtesy.New(courtesy.Options{
		Thermal: os.DirFS("/sys/class/thermal"), Health: d.health, Log: d.named("courtesy"),
		Apply: func(s courtesy.State) {
			d.cache.SetQuiet(s.Quiet())
			d.fetch.SetHeat(s.Heat)
		},
	})
	d.box, err = control.New(control.Options{
		Remote: reads, Strangers: d.strangers, Ports: portMapping(d.ports),
		Ports6:  portMapping(d.ports6),
		Version: version, Config: d.cfg, Identity: d.id, Catalog: d.catalog, Cache: d.cache, LAN: d.lan,
		Fetch:  control.FromFetch(d.fetch, func() fetch.Limits { return *d.limits.Load() }, d.id.Now),
		Broker: d.broker, FleetTLS: d.id.FleetClient,
		Playing: d.courtesy.SetPlaying, Store: d.state, HTTP: d.httpURL(), Health: d.health, LogRing: d.ring, Log: d.named("control"),
	})
	if err != nil {
		return err
	}
	token, err := httpToken(orElse(d.cfg.HTTP.TokenFile, filepath.Join(d.cfg.Paths.State, "http.token")))
	if err != nil {
		return err
	}
	d.http, err = httpapi.New(httpapi.Options{
		Box: d.box, TCP: d.tcp, Unix: d.unix, LAN: d.page, Token: token, Origins: d.cfg.HTTP.Origins,
		MaxPlayers: d.cfg.HTTP.MaxPlayers, Pairings: pairings{d.state}, Log: d.named("http"),
	})
	if err != nil || len(d.cfg.Fleet.Brokers) == 0 {
		return err
	}
	d.mgmt, err = mgmt.New(mgmt.Options{
		Box: &fleetFace{d: d, recheck: newRecheck(d.cache.Assets())}, DB: d.state, Brokers: d.cfg.Fleet.Brokers,
		Verify: d.verify, BoxID: d.id.BoxID, Fleet: d.id.Fleet,
		Groups: d.groups, TLS: d.id.FleetClient, Now: d.id.Now, IdentityChanged: d.id.Changed,
		Upload: mgmt.Uploader(d.id.HTTPClient(time.Minute), d.url(d.cfg.Fleet.Upload, "/upload")),
		Health: d.health, Log: d.named("mgmt"),
	})
	return err
}
