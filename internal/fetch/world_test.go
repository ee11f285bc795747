package fetch_test

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
	"boxd/internal/fetch/engine"
	"boxd/internal/fleet/tracker"
	"boxd/internal/health"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
	"boxd/internal/lan"
	"boxd/internal/state"
)

// world is a fleet on loopback: home h has 127.0.h.0/24, so that the engine can tell LAN from WAN.
type world struct {
	t       testing.TB
	fleet   *identitytest.Fleet
	origin  *originServer
	tracker *httptest.Server
	track   *tracker.Tracker
	assets  []*catalog.Asset
	data    map[asset.ID][]byte
	camp    catalog.Campaign
	version atomic.Int64
	ids     map[string]*identity.Identity
}

// originServer counts what it sends and can be made to misbehave.
type originServer struct {
	*httptest.Server
	sent atomic.Int64
	hook atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	mu   sync.Mutex
	data map[string][]byte // by path
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n.Add(int64(n))
	return n, err
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, fleet: identitytest.New(t), data: map[asset.ID][]byte{}, ids: map[string]*identity.Identity{}}
	o := &originServer{data: map[string][]byte{}}
	o.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if h := o.hook.Load(); h != nil && (*h)(rw, r) {
			return
		}
		o.mu.Lock()
		b, ok := o.data[r.URL.Path]
		o.mu.Unlock()
		if !ok {
			http.NotFound(rw, r)
			return
		}
		http.ServeContent(countingWriter{rw, &o.sent}, r, "x", time.Time{}, bytes.NewReader(b))
	}))
	t.Cleanup(o.Close)
	w.origin = o
	w.track = tracker.New(tracker.Options{
		Anonymous: true, MinInterval: time.Second,
		Addr: func(r *http.Request) (netip.Addr, bool) {
			a, err := netip.ParseAddr(r.Header.Get("X-Box-Addr"))
			return a, err == nil
		},
	})
	w.tracker = httptest.NewServer(w.track)
	t.Cleanup(w.tracker.Close)
	w.camp = catalog.Campaign{V: 1, ID: "night", Group: "north"}
	return w
}

// publish adds an asset of n random bytes.
func (w *world) publish(name string, n, piece int) *asset.Info {
	w.t.Helper()
	data := make([]byte, n)
	_, _ = mrand.NewChaCha8([32]byte{byte(len(name)), name[0]}).Read(data)
	var hashes []byte
	for off := 0; off < n; off += piece {
		h := sha1.Sum(data[off:min(off+piece, n)]) //nolint:gosec // BEP 3
		hashes = append(hashes, h[:]...)
	}
	tor, err := bencode.Marshal(map[string]any{
		"info":     map[string]any{"name": name, "piece length": piece, "length": n, "pieces": string(hashes), "private": 1},
		"url-list": []string{w.origin.URL + "/"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	info, err := asset.ParseTorrent(tor)
	if err != nil {
		w.t.Fatal(err)
	}
	w.origin.mu.Lock()
	w.origin.data["/"+name] = data
	w.origin.mu.Unlock()
	w.data[info.ID] = data
	w.assets = append(w.assets, &catalog.Asset{Info: info, Torrent: tor, Name: name, Publisher: "acme"})
	w.camp.Assets = append(w.camp.Assets, catalog.AssetRef{ID: info.ID, Path: catalog.AssetPath("acme", info.ID)})
	return info
}

// paper is a catalog that a test writes.
type paper struct {
	snap    atomic.Pointer[catalog.Snapshot]
	mu      sync.Mutex
	changed chan struct{}
}

func (p *paper) Snapshot() *catalog.Snapshot { return p.snap.Load() }
func (p *paper) Changed() <-chan struct{}    { p.mu.Lock(); defer p.mu.Unlock(); return p.changed }
func (p *paper) set(s *catalog.Snapshot) {
	p.snap.Store(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (w *world) snapshot() *catalog.Snapshot {
	s := &catalog.Snapshot{
		Version: w.version.Add(1), Expires: time.Now().Add(time.Hour), Campaigns: []catalog.Campaign{w.camp},
		Assets: map[asset.ID]*catalog.Asset{},
	}
	for _, a := range w.assets {
		s.Assets[a.Info.ID] = a
	}
	return s
}

// household is a home whose boxes know each other at once; the courier is the live box with the first name.
type household struct {
	mu      sync.Mutex
	prefix  netip.Prefix
	boxes   map[string]*member
	changed chan struct{}
}

type member struct {
	addr netip.AddrPort
	self lan.Self
}

func newHousehold(n int) *household {
	return &household{
		prefix: netip.MustParsePrefix(fmt.Sprintf("127.0.%d.0/24", n)), boxes: map[string]*member{},
		changed: make(chan struct{}),
	}
}

func (h *household) wake() { close(h.changed); h.changed = make(chan struct{}) }

// view is the household as one box sees it.
type view struct {
	h   *household
	box string
}

func (v view) SetSelf(s lan.Self) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	if m, ok := v.h.boxes[v.box]; ok {
		news := len(m.self.Wants) != len(s.Wants) || len(m.self.Holds) != len(s.Holds) || len(m.self.Demand) != len(s.Demand)
		m.self = s
		if news {
			v.h.wake()
		}
	}
}

func (v view) Neighbours() []lan.Neighbour {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	var list []lan.Neighbour
	for id, m := range v.h.boxes {
		if id != v.box {
			list = append(list, lan.Neighbour{
				ID: id, Addr: m.addr, Wants: m.self.Wants, Holds: m.self.Holds, Demand: m.self.Demand, WAN: m.self.WAN,
			})
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	return list
}

func (v view) Courier(id asset.ID) (string, bool) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	best := ""
	for name, m := range v.h.boxes {
		for _, held := range m.self.Holds {
			if held == id {
				return "", false
			}
		}
		for _, want := range m.self.Wants {
			if want.ID == id && !want.NoWAN && !want.Stalled && (best == "" || name < best) {
				best = name
			}
		}
	}
	return best, best == v.box && best != ""
}

func (v view) IsLAN(a netip.Addr) bool { return v.h.prefix.Contains(a) }
func (v view) Changed() <-chan struct{} {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	return v.h.changed
}

// box is one boxd's fetching half.
type box struct {
	*fetch.Fetcher
	w       *world
	name    string
	id      *identity.Identity
	cache   *cache.Cache
	catalog *paper
	home    *household
	health  *health.Set
	dir     string
	kill    func()
}

// box starts a box with a number in a home; dir "" means a new one.
func (w *world) box(home *household, name string, n int, dir string, change func(*fetch.Options, *cache.Options)) *box {
	t := w.t
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	base := home.prefix.Addr().As4()
	base[3] = byte(n)
	ip := netip.AddrFrom4(base)
	l, err := net.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	b := &box{w: w, name: name, home: home, dir: dir, catalog: &paper{changed: make(chan struct{})}, health: health.New(nil)}
	b.catalog.snap.Store(w.snapshot())
	if w.ids[name] == nil {
		w.ids[name] = w.fleet.Box(name, "north")
	}
	b.id = w.ids[name]
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("FETCH_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("box", name)
	}
	db, err := state.Open(filepath.Join(dir, "state.db"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	co := cache.Options{
		Dir: filepath.Join(dir, "cache"), StateDir: dir, State: db, GroupInterval: 100 * time.Millisecond,
		Health: b.health, ScrubPeriod: -1, SpaceCheck: 200 * time.Millisecond,
	}
	mux := b.id.NewMux(l)
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)), Timeout: 5 * time.Second}
	o := fetch.Options{
		Catalog: b.catalog, Identity: b.id, LAN: view{home, name}, State: db,
		NewSwarm: fetch.NewEngine(engine.Options{Dial: dialer.DialContext, Log: log}, fetch.EngineOptions{
			Identity: b.id, Listener: mux.Listener(identity.ALPNSwarm),
		}),
		Tracker: &http.Client{Transport: boxAddr(ip.String())}, TrackerURL: w.tracker.URL, Port: int(addr.Port()),
		Health: b.health, Log: log,
	}
	if change != nil {
		change(&o, &co)
	}
	if b.cache, err = cache.Open(co); err != nil {
		t.Fatal(err)
	}
	o.Cache = fetch.FromCache(b.cache)
	if b.Fetcher, err = fetch.New(o); err != nil {
		t.Fatal(err)
	}
	home.mu.Lock()
	home.boxes[name] = &member{addr: addr}
	home.wake()
	home.mu.Unlock()

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	run := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	run(mux.Run)
	run(b.cache.Run)
	run(b.Run)
	b.kill = sync.OnceFunc(func() {
		home.mu.Lock()
		delete(home.boxes, name)
		home.wake()
		home.mu.Unlock()
		cancel()
		wg.Wait()
		if err := b.cache.Close(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.kill)
	return b
}

// boxAddr tells the tracker from where a box announces.
type boxAddr string

func (a boxAddr) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Box-Addr", string(a))
	return http.DefaultTransport.RoundTrip(r)
}

func (b *box) asset(id asset.ID) (fetch.AssetStatus, bool) {
	for _, a := range b.Status().Assets {
		if a.ID == id {
			return a, true
		}
	}
	return fetch.AssetStatus{}, false
}

// await waits until the asset's status satisfies ok.
func (b *box) await(id asset.ID, what string, ok func(fetch.AssetStatus) bool) fetch.AssetStatus {
	b.w.t.Helper()
	deadline := time.After(3 * time.Minute)
	for {
		changed := b.Changed()
		a, found := b.asset(id)
		if found && ok(a) {
			return a
		}
		select {
		case <-changed:
		case <-deadline:
			b.w.t.Fatalf("%s: not %s after 3 min: %+v, health %+v", b.name, what, a, b.health.List())
		}
	}
}

// gone waits until nothing is known of the asset.
func (b *box) gone(id asset.ID) {
	for {
		changed := b.Changed()
		if _, ok := b.asset(id); !ok {
			return
		}
		<-changed
	}
}

func (b *box) ready(id asset.ID) fetch.AssetStatus {
	b.w.t.Helper()
	a := b.await(id, "ready", func(a fetch.AssetStatus) bool { return a.State == fetch.Ready })
	ca, _ := b.cache.Asset(id)
	got := make([]byte, ca.Info().Length)
	if _, err := ca.ReadVerifiedAt(got, 0); err != nil || !bytes.Equal(got, b.w.data[id]) {
		b.w.t.Fatalf("%s: wrong bytes (%v)", b.name, err)
	}
	return a
}
