//go:build bench

package swarm

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
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
	"boxd/internal/fetch/origin"
	"boxd/internal/fleet/tracker"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
	"boxd/internal/netlab"
	"boxd/internal/state"
)

// fleetSide is what the operator runs in the WAN: an origin that counts what it sends, and the fleet's tracker.
type fleetSide struct {
	ln      net.Listener
	url     string
	torrent []byte
	info    *asset.Info
	data    []byte
	sent    atomic.Int64
	second  [3600]atomic.Int64 // bytes by second since begin
	begin   time.Time
	mu      sync.Mutex
}

type counting struct {
	http.ResponseWriter
	f *fleetSide
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.f.sent.Add(int64(n))
	return n, err
}

func serveFleet(t testing.TB, lab *netlab.Lab, size, piece int) *fleetSide {
	ln, err := lab.WAN.Listen("tcp", netip.AddrPortFrom(lab.FleetIP, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	f := &fleetSide{ln: ln, url: "http://" + ln.Addr().String(), data: make([]byte, size), begin: time.Now()}
	_, _ = mrand.NewChaCha8([32]byte{1}).Read(f.data)
	var hashes []byte
	for off := 0; off < size; off += piece {
		h := sha1.Sum(f.data[off:min(off+piece, size)]) //nolint:gosec // BEP 3
		hashes = append(hashes, h[:]...)
	}
	f.torrent, err = bencode.Marshal(map[string]any{
		"announce": f.url + "/announce", "url-list": []string{f.url + "/origin/"},
		"info": map[string]any{"name": "film", "piece length": piece, "length": size, "pieces": string(hashes), "private": 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.info, err = asset.ParseTorrent(f.torrent); err != nil {
		t.Fatal(err)
	}
	track := tracker.New(tracker.Options{Anonymous: true, MinInterval: 10 * time.Second})
	mux := http.NewServeMux()
	mux.Handle("/announce", track)
	mux.HandleFunc("/origin/film", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(counting{w, f}, r, "film", time.Time{}, bytes.NewReader(f.data))
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return f
}

// paper is a catalog with one campaign.
type paper struct{ snap *catalog.Snapshot }

func (p paper) Snapshot() *catalog.Snapshot { return p.snap }
func (p paper) Changed() <-chan struct{}    { return nil }

// ours is one boxd's fetching half in a namespace.
type ours struct {
	f     *fetch.Fetcher
	cache *cache.Cache
	id    asset.ID
	done  time.Duration
	stop  func()
}

// startOurs starts boxd's fetching half in a home. lineRate is what the box remembers of its line from nights before.
func startOurs(t testing.TB, fl *identitytest.Fleet, fs *fleetSide, b *netlab.Box, name string, deadline time.Time,
	lineRate float64, lim fetch.Limits, port int) *ours {
	t.Helper()
	dir := t.TempDir()
	ln, err := b.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	id := fl.Box(name, "north")
	db, err := state.Open(filepath.Join(dir, "state.db"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Put("fetch.totals", []byte("v1"), fmt.Appendf(nil, `{"v":1,"lineRate":%f}`, lineRate)); err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(cache.Options{Dir: filepath.Join(dir, "cache"), StateDir: dir, State: db, ScrubPeriod: -1})
	if err != nil {
		t.Fatal(err)
	}
	camp := catalog.Campaign{V: 1, ID: "night", Group: "north", Deadline: deadline,
		Assets: []catalog.AssetRef{{ID: fs.info.ID, Path: catalog.AssetPath("acme", fs.info.ID)}}}
	mux := id.NewMux(ln)
	tr := &http.Transport{DialContext: b.Dial}
	oc := origin.Client(nil)
	oc.Transport.(*http.Transport).DialContext = b.Dial
	f, err := fetch.New(fetch.Options{
		Cache: fetch.FromCache(c), State: db, Identity: id,
		Catalog: paper{&catalog.Snapshot{Version: 1, Expires: time.Now().Add(24 * time.Hour),
			Campaigns: []catalog.Campaign{camp},
			Assets:    map[asset.ID]*catalog.Asset{fs.info.ID: {Info: fs.info, Torrent: fs.torrent, Name: "film"}}}},
		NewSwarm: fetch.NewEngine(engine.Options{Dial: b.Dial}, fetch.EngineOptions{
			Identity: id, Listener: mux.Listener(identity.ALPNSwarm),
		}),
		Origin: oc, Tracker: &http.Client{Transport: tr, Timeout: 30 * time.Second}, TrackerURL: fs.url + "/announce",
		Port: port, Limits: lim,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{mux.Run, c.Run, f.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	return &ours{f: f, cache: c, id: fs.info.ID, stop: func() {
		cancel()
		wg.Wait()
		_ = c.Close()
		_ = db.Close()
	}}
}

// wait returns when the asset is complete, or fails.
func (o *ours) wait(t testing.TB, begin time.Time, limit time.Duration) {
	t.Helper()
	deadline := time.After(limit)
	for {
		ch := o.f.Changed()
		for _, a := range o.f.Status().Assets {
			if a.ID == o.id && a.Length == a.Verified {
				o.done = time.Since(begin)
				return
			}
		}
		select {
		case <-ch:
		case <-deadline:
			t.Fatalf("not complete after %v: %+v", limit, o.f.Status().Assets)
		}
	}
}
