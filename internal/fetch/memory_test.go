package fetch_test

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/fetch"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/pace"
)

// What follows is a box in memory, which synctest can run for days in seconds.

// memSwarm is a swarm without peers.
type memSwarm struct {
	ready, changed chan struct{}
	down, up       *pace.Bucket
	near           int        // the first pieces, which a box of the home has
	mu             sync.Mutex // guards the fields below
	prio           map[asset.ID][]engine.Priority
	useful         int64 // bytes that came from the home
	opened         int   // how often the access line was opened for an asset
	wan            bool
}

func newMemSwarm() *memSwarm {
	return &memSwarm{
		ready: make(chan struct{}), changed: make(chan struct{}), prio: map[asset.ID][]engine.Priority{},
		down: pace.NewBucket(pace.Unlimited), up: pace.NewBucket(pace.Unlimited),
	}
}

func (s *memSwarm) Run(ctx context.Context) error { close(s.ready); <-ctx.Done(); return nil }
func (s *memSwarm) Ready() <-chan struct{}        { return s.ready }
func (s *memSwarm) Changed() <-chan struct{}      { return s.changed }
func (s *memSwarm) Load(engine.Store, engine.Policy, *pace.Bucket) error {
	return nil
}
func (s *memSwarm) Drop(asset.ID) (engine.Stats, bool) { return engine.Stats{}, true }
func (s *memSwarm) SetPolicy(_ asset.ID, p engine.Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.WANDown && !s.wan {
		s.opened++
	}
	s.wan = p.WANDown
}
func (s *memSwarm) Refresh(asset.ID, ...int)          {}
func (s *memSwarm) AddPeers(asset.ID, ...engine.Peer) {}
func (s *memSwarm) Stats(asset.ID) (st engine.Stats, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Useful[engine.LAN] = s.useful
	return st, true
}

func (s *memSwarm) Availability(_ asset.ID, c engine.Class) []int {
	if c != engine.LAN {
		return nil
	}
	return slices.Repeat([]int{1}, s.near)
}
func (s *memSwarm) Pardon(string)      {}
func (s *memSwarm) Banned() []string   { return nil }
func (s *memSwarm) Down() *pace.Bucket { return s.down }
func (s *memSwarm) Up() *pace.Bucket   { return s.up }
func (s *memSwarm) SetPriorities(id asset.ID, p []engine.Priority) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prio[id] = append([]engine.Priority(nil), p...)
}

// wanted lists the pieces that are asked from peers.
func (s *memSwarm) wanted(id asset.ID) (list []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range s.prio[id] {
		if p != engine.Skip {
			list = append(list, i)
		}
	}
	return list
}

// memCache keeps assets in memory, as many bytes as it has room for.
type memCache struct {
	mu      sync.Mutex // guards the fields below
	room    int64
	assets  map[asset.ID]*memAsset
	changed chan struct{}
	creates int
	onEvict func(asset.ID)
	stuck   error // what Remove fails with
	removes int
	slow    time.Duration // that Create takes; set before it starts
}

func newMemCache(room int64) *memCache {
	return &memCache{room: room, assets: map[asset.ID]*memAsset{}, changed: make(chan struct{})}
}

// created is how often space was asked for.
func (c *memCache) created() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.creates
}

func (c *memCache) Create(torrent []byte, a fetch.Attr) (fetch.Asset, error) {
	info, err := asset.ParseTorrent(torrent)
	if err != nil {
		return nil, err
	}
	time.Sleep(c.slow) // in a bubble of synctest it takes no time
	c.mu.Lock()
	defer c.mu.Unlock()
	c.creates++
	m, ok := c.assets[info.ID]
	if !ok {
		m = &memAsset{
			c: c, info: info, torrent: torrent, data: make([]byte, info.Length), have: make([]bool, info.NumPieces()),
			changed: make(chan struct{}),
		}
	}
	want := info.Length
	if a.PrefixBytes > 0 && a.PrefixBytes < want {
		want = min(want, (a.PrefixBytes+info.PieceLength-1)/info.PieceLength*info.PieceLength)
	}
	if more := want - m.reserved.Load(); more > 0 {
		if more > c.room {
			return nil, fmt.Errorf("create %s: %w", info.ID.Short(), cache.ErrNoSpace)
		}
		c.room -= more
		m.reserved.Store(want)
	}
	c.assets[info.ID] = m
	c.wakeLocked()
	return m, nil
}

func (c *memCache) wakeLocked() { close(c.changed); c.changed = make(chan struct{}) }

func (c *memCache) Asset(id asset.ID) (fetch.Asset, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.assets[id]
	if !ok {
		return nil, false
	}
	return m, true
}

func (c *memCache) IDs() (ids []asset.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.assets {
		ids = append(ids, id)
	}
	return ids
}

func (c *memCache) SetAttr(asset.ID, fetch.Attr) error { return nil }

// Remove tells who shares the asset first, and everybody of the end, also when it fails.
func (c *memCache) Remove(id asset.ID, _ string) error {
	c.mu.Lock()
	tell := c.onEvict
	c.mu.Unlock()
	tell(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.wakeLocked()
	c.removes++
	if c.stuck == nil {
		delete(c.assets, id)
	}
	return c.stuck
}

func (c *memCache) Pin(asset.ID, bool) error { return nil }
func (c *memCache) Pinned(asset.ID) bool     { return false }

func (c *memCache) Waiting() <-chan struct{} { return nil }
func (c *memCache) OnEvict(f func(asset.ID)) { c.onEvict = f }

// evict takes an asset away; as in the cache, it is still listed while the callback runs.
func (c *memCache) evict(id asset.ID) {
	c.onEvict(id)
	c.lose(id)
}

// lose takes an asset away without a word.
func (c *memCache) lose(id asset.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room += c.assets[id].Reserved()
	delete(c.assets, id)
	c.wakeLocked()
}

func (c *memCache) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// memAsset is an asset of a memCache.
type memAsset struct {
	c        *memCache
	info     *asset.Info
	torrent  []byte
	reserved atomic.Int64

	mu      sync.Mutex // guards the fields below
	data    []byte
	have    []bool
	demand  []fetch.Span
	changed chan struct{}
}

func (a *memAsset) Info() *asset.Info        { return a.info }
func (a *memAsset) Torrent() ([]byte, error) { return a.torrent, nil }
func (a *memAsset) Reserved() int64          { return a.reserved.Load() }
func (a *memAsset) Unknown() int             { return 0 }
func (a *memAsset) Hold() func()             { return func() {} }
func (a *memAsset) Durable() bool            { return a.Complete() }
func (a *memAsset) Complete() bool           { return a.HaveCount() == len(a.have) }

func (a *memAsset) WriteAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if off+int64(len(p)) > a.reserved.Load() {
		return 0, fmt.Errorf("write: %w", cache.ErrNotReserved)
	}
	return copy(a.data[off:], p), nil
}

func (a *memAsset) ReadVerifiedAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return copy(p, a.data[off:]), nil
}

func (a *memAsset) HashPiece(i int) ([asset.HashSize]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	off, n := a.info.PieceSpan(i)
	return sha1.Sum(a.data[off : off+n]), nil //nolint:gosec // BEP 3
}

func (a *memAsset) MarkVerified(i int) error { return a.mark(i, true) }
func (a *memAsset) MarkMissing(i int) error  { return a.mark(i, false) }

func (a *memAsset) mark(i int, have bool) error {
	if off, _ := a.info.PieceSpan(i); have && off >= a.reserved.Load() {
		return cache.ErrNotReserved
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.have[i] = have
	a.wakeLocked()
	return nil
}

func (a *memAsset) wakeLocked() { close(a.changed); a.changed = make(chan struct{}) }

func (a *memAsset) Have(i int) bool { a.mu.Lock(); defer a.mu.Unlock(); return a.have[i] }
func (a *memAsset) HaveCount() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.have {
		if h {
			n++
		}
	}
	return n
}

func (a *memAsset) Bytes() (sum int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, h := range a.have {
		if h {
			_, n := a.info.PieceSpan(i)
			sum += n
		}
	}
	return sum
}

func (a *memAsset) Demand() []fetch.Span {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []fetch.Span
	for _, s := range a.demand {
		for i := s.First; i < s.End; i++ {
			if !a.have[i] {
				list = append(list, fetch.Span{First: i, End: i + 1, Soon: s.Soon, Now: s.Now})
				s.Now = false
			}
		}
	}
	return list
}

// need makes players need pieces.
func (a *memAsset) need(spans ...fetch.Span) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.demand = spans
	a.wakeLocked()
}

// play makes a player wait for pieces, which need not be reserved.
func (a *memAsset) play(first, end int) {
	a.need(fetch.Span{First: first, End: end, Soon: true, Now: true})
}

func (a *memAsset) Changed() <-chan struct{} { a.mu.Lock(); defer a.mu.Unlock(); return a.changed }

// memOrigin is an HTTP server without a network.
type memOrigin struct {
	data map[string][]byte // by path
	sent atomic.Int64
}

func (o *memOrigin) RoundTrip(r *http.Request) (*http.Response, error) {
	b, ok := o.data[r.URL.Path]
	resp := &http.Response{
		Status: "404 Not Found", StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody, Request: r,
		ProtoMajor: 1, ProtoMinor: 1,
	}
	if !ok {
		return resp, nil
	}
	var from, to int
	if _, err := fmt.Sscanf(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "%d-%d", &from, &to); err != nil {
		return nil, errors.New("no range")
	}
	resp.Status, resp.StatusCode = "206 Partial Content", http.StatusPartialContent
	resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(b)))
	resp.ContentLength = int64(to - from + 1)
	resp.Body = io.NopCloser(&memBody{o: o, r: bytes.NewReader(b[from : to+1]), ctx: r.Context()})
	return resp, nil
}

type memBody struct {
	o   *memOrigin
	r   io.Reader
	ctx context.Context //nolint:containedctx // of the request, as in net/http
}

func (b *memBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	b.o.sent.Add(int64(n))
	return n, err
}

// settableClock is a box's idea of the time.
type settableClock struct {
	ahead   atomic.Int64 // nanoseconds before the bubble's clock
	trusted atomic.Bool
	box     string
}

func (c *settableClock) BoxID() string { return c.box }
func (c *settableClock) Group() string { return "north" }
func (c *settableClock) Now() (time.Time, bool) {
	return time.Now().Add(time.Duration(c.ahead.Load())), c.trusted.Load()
}

// set makes the clock show t from now on.
func (c *settableClock) set(t time.Time) { c.ahead.Store(int64(time.Until(t))) }
