//go:build bench

package rig

import (
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"net/netip"
	"os"
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

// FleetSide is what the operator runs in the WAN: an origin that counts what it sends, and the fleet's tracker.
type FleetSide struct {
	URL     string
	Torrent []byte
	Info    *asset.Info
	Data    []byte       // what it consists of, once or repeated
	Sent    atomic.Int64 // bytes of the origin
	Sunk    atomic.Int64 // bytes that somebody sent to /sink
	Closed  atomic.Bool  // the origin answers nobody
}

type counting struct {
	http.ResponseWriter
	f *FleetSide
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.f.Sent.Add(int64(n))
	return n, err
}

// ServeFleet publishes an asset of so many bytes and serves it.
func ServeFleet(t testing.TB, lab *netlab.Lab, size, piece int) *FleetSide {
	ln, err := lab.WAN.Listen("tcp", netip.AddrPortFrom(lab.FleetIP, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	f := &FleetSide{URL: "http://" + ln.Addr().String(), Data: make([]byte, min(size, pattern))}
	_, _ = mrand.NewChaCha8([32]byte{1}).Read(f.Data)
	var hashes []byte
	for off := 0; off < size; off += piece {
		n := min(piece, size-off)
		if off >= len(f.Data) && n == piece {
			hashes = append(hashes, hashes[off%len(f.Data)/piece*sha1.Size:][:sha1.Size]...)
			continue
		}
		h := sha1.Sum(f.Data[off%len(f.Data):][:n]) //nolint:gosec // BEP 3
		hashes = append(hashes, h[:]...)
	}
	f.Torrent, err = bencode.Marshal(map[string]any{
		"announce": f.URL + "/announce", "url-list": []string{f.URL + "/origin/"},
		"info": map[string]any{"name": "film", "piece length": piece, "length": size, "pieces": string(hashes), "private": 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.Info, err = asset.ParseTorrent(f.Torrent); err != nil {
		t.Fatal(err)
	}
	track := tracker.New(tracker.Options{Anonymous: true})
	mux := http.NewServeMux()
	mux.Handle("/announce", track)
	mux.HandleFunc("/sink", func(_ http.ResponseWriter, r *http.Request) {
		for buf := make([]byte, 64<<10); ; {
			n, err := r.Body.Read(buf)
			f.Sunk.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/origin/film", func(w http.ResponseWriter, r *http.Request) {
		if f.Closed.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		http.ServeContent(counting{w, f}, r, "film", time.Time{}, io.NewSectionReader(repeated(f.Data), 0, int64(size)))
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return f
}

// pattern is how much of an asset is its own: what is longer repeats it, so that it fits into memory. It is a multiple of all
// piece lengths.
const pattern = 64 << 20

// repeated is the same bytes for ever.
type repeated []byte

func (r repeated) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		n += copy(p[n:], r[(off+int64(n))%int64(len(r)):])
	}
	return n, nil
}

// paper is a catalog with one campaign.
type paper struct{ snap *catalog.Snapshot }

func (p paper) Snapshot() *catalog.Snapshot { return p.snap }
func (p paper) Changed() <-chan struct{}    { return nil }

// Trace is told of every decision about the pace by the boxes that are started while it is set.
var Trace func(fetch.Trace)

// TraceTo sets Trace to what writes to a file, beside what the line carried, until the test ends.
func TraceTo(t testing.TB, name string, line *netlab.Line) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	last := line.Counters()
	const perSecond = 20 // decisions
	mega := func(n int64) float64 { return float64(n) / 1e6 }
	worst := watchQueue(t, line)
	Trace = func(e fetch.Trace) {
		c := line.Counters()
		d := c.Sub(last)
		last = c
		_, _ = fmt.Fprintf(f, "%7.2f %-9s %-5s rate %6.2f line %6.2f arrived %6.2f read %6.2f MB/s "+
			"queue %5.1f of %5.1f ms down %6.2f dropped %d up %-9s rate %5.3f line %5.3f sent %5.3f MB/s up %5.3f\n",
			e.At.Sub(begin).Seconds(), e.Phase, e.Signal, mega(e.Rate), e.Line/1e6, mega(e.Arrived)*perSecond,
			mega(e.Read)*perSecond, 1e3*e.Queue.Seconds(), float64(worst.Swap(0))/1e6, mega(d.Down.Bytes)*perSecond, d.Down.Dropped,
			e.UpPhase, mega(e.UpRate), e.UpLine/1e6, mega(e.Sent)*perSecond, mega(d.Up.Bytes)*perSecond)
	}
	t.Cleanup(func() { Trace = nil; _ = f.Close() })
}

// watchQueue keeps the longest queue of the downlink, in nanoseconds, until the test ends.
func watchQueue(t testing.TB, line *netlab.Line) *atomic.Int64 {
	var worst atomic.Int64
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
				down, _ := line.Waits()
				worst.Store(max(worst.Load(), int64(down)))
			}
		}
	}()
	return &worst
}

// Ours is one boxd's fetching half in a namespace.
type Ours struct {
	Fetcher *fetch.Fetcher
	Cache   *cache.Cache
	ID      asset.ID
	Done    time.Duration // set by Wait
	Stop    func()
}

// StartOurs starts boxd's fetching half in a home; it fetches from notBefore on, or at once. lineRate is what the box
// remembers of its line from nights before.
func StartOurs(t testing.TB, fl *identitytest.Fleet, fs *FleetSide, b *netlab.Box, name string,
	notBefore, deadline time.Time, lineRate float64, lim fetch.Limits, port int,
) *Ours {
	t.Helper()
	dir := t.TempDir()
	ln, err := b.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	AllowPing(t, b)
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
	camp := catalog.Campaign{
		V: 1, ID: "night", Group: "north", NotBefore: notBefore, Deadline: deadline,
		Assets: []catalog.AssetRef{{ID: fs.Info.ID, Path: catalog.AssetPath("acme", fs.Info.ID)}},
	}
	mux := id.NewMux(engine.Wires(ln))
	tr := &http.Transport{DialContext: b.Dial}
	oc := origin.Client(nil)
	oc.Transport.(*http.Transport).DialContext = b.Dial
	f, err := fetch.New(fetch.Options{
		Cache: fetch.FromCache(c), State: db, Identity: id,
		Catalog: paper{&catalog.Snapshot{
			Version: 1, Expires: time.Now().Add(24 * time.Hour),
			Campaigns: []catalog.Campaign{camp},
			Assets:    map[asset.ID]*catalog.Asset{fs.Info.ID: {Info: fs.Info, Torrent: fs.Torrent, Name: "film"}},
		}},
		NewSwarm: fetch.NewEngine(engine.Options{Dial: b.Dial}, fetch.EngineOptions{
			Identity: id, Listener: mux.Listener(identity.ALPNSwarm),
		}),
		Origin: oc, Tracker: &http.Client{Transport: tr, Timeout: 30 * time.Second}, TrackerURL: fs.URL + "/announce",
		Port: port, Limits: lim, Probe: fetch.Probe{Do: b.Do, Off: os.Getenv("PROBE") == "off", Trace: Trace},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{mux.Run, c.Run, f.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	return &Ours{Fetcher: f, Cache: c, ID: fs.Info.ID, Stop: func() {
		cancel()
		wg.Wait()
		_ = c.Close()
		_ = db.Close()
	}}
}

// Wait returns when the asset is complete, or fails.
func (o *Ours) Wait(t testing.TB, begin time.Time, limit time.Duration) {
	t.Helper()
	deadline := time.After(limit)
	for {
		ch := o.Fetcher.Changed()
		for _, a := range o.Fetcher.Status().Assets {
			if a.ID == o.ID && a.Length == a.Verified {
				o.Done = time.Since(begin)
				return
			}
		}
		select {
		case <-ch:
		case <-deadline:
			t.Fatalf("not complete after %v: %+v", limit, o.Fetcher.Status().Assets)
		}
	}
}

// AllowPing lets everybody in the namespace ping, as systemd does on a box.
func AllowPing(t testing.TB, b *netlab.Box) {
	t.Helper()
	err := b.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
