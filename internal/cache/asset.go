package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
	"weak"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// Asset is a handle on an asset in the cache. There is at most one at a time; it keeps the parsed metainfo in memory
// while somebody holds it. After removal its methods return ErrGone.
type Asset struct {
	e    *entry
	info *asset.Info
}

// asset returns the handle, reading the metainfo when nobody has one.
func (e *entry) asset() (*Asset, error) {
	e.mu.Lock()
	a, rests := e.handle.Value(), e.damaged || !e.unread.IsZero() && time.Since(e.unread) < metainfoRests
	e.mu.Unlock()
	switch {
	case a != nil:
		return a, nil
	case rests:
		return nil, errMetainfo
	}
	_, info, err := e.c.readTorrent(e.id)
	if err != nil && passing(err) {
		return nil, err
	}
	e.mu.Lock()
	if a := e.handle.Value(); a != nil { // what was read is old: it was written again meanwhile
		e.mu.Unlock()
		return a, nil
	}
	news := err != nil && e.unread.IsZero()
	e.damaged, e.unread = err != nil && (hopeless(err) || errors.Is(err, fs.ErrNotExist)), time.Time{}
	if err != nil {
		e.unread = time.Now()
	}
	damaged := e.damaged
	e.mu.Unlock()
	if err == nil {
		return e.attach(info), nil
	}
	if news {
		e.c.o.Log.Error("metainfo of a cached asset cannot be read", "asset", e.id, "err", err)
	}
	if damaged {
		e.c.metainfoHealth()
	}
	return nil, err
}

const metainfoRests = 5 * time.Second // after the disk could not read it

var errMetainfo = errors.New("metainfo cannot be read")

// metainfoHealth says whether there is an asset of which the metainfo is damaged.
func (c *Cache) metainfoHealth() {
	c.mu.Lock()
	list := c.sorted()
	c.mu.Unlock()
	for _, e := range list {
		e.mu.Lock()
		damaged := e.damaged
		e.mu.Unlock()
		if damaged {
			c.o.Health.Raise(health.Warning{
				Code: CodeMeta, Severity: health.Warn,
				Text:   "What describes an asset is damaged on the disk; it cannot be played or shared until the catalog brings it again.",
				Action: "Nothing, if a campaign names it; else evict it: boxd assets.",
			})
			return
		}
	}
	c.o.Health.Clear(CodeMeta)
}

// attach makes the handle with metainfo that was parsed, unless there is one. It is not damaged then, whatever somebody says
// who read it before it was written again.
func (e *entry) attach(info *asset.Info) *Asset {
	e.mu.Lock()
	a, damaged := e.handle.Value(), e.damaged
	if a == nil {
		a = &Asset{e: e, info: info}
		e.handle = weak.Make(a)
	}
	e.damaged, e.unread = false, time.Time{}
	e.mu.Unlock()
	if damaged {
		e.c.metainfoHealth()
	}
	return a
}

// Info is the parsed metainfo.
func (a *Asset) Info() *asset.Info { return a.info }

// ID is the asset's infohash.
func (a *Asset) ID() asset.ID { return a.e.id }

// Torrent reads the .torrent file.
func (a *Asset) Torrent() ([]byte, error) {
	b, err := durable.ReadFile(a.e.c.fs, a.e.c.torrentPath(a.e.id), asset.MaxTorrentBytes)
	if err != nil {
		return nil, fmt.Errorf("metainfo of %s: %w", a.e.id.Short(), err)
	}
	return b, nil
}

// Status says how the asset stands.
func (a *Asset) Status() Status {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.status()
}

// Have says whether a piece is verified.
func (a *Asset) Have(i int) bool {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return i >= 0 && i < a.e.n && !a.e.gone && a.e.have.get(i)
}

// HaveCount is the number of verified pieces.
func (a *Asset) HaveCount() int {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.have.ones
}

// Bytes is the length of the verified pieces.
func (a *Asset) Bytes() int64 {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.bytesOf(&a.e.have)
}

// Complete says whether every piece is verified.
func (a *Asset) Complete() bool {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.have.full() && !a.e.gone
}

// Durable says whether all that is verified would survive a power cut now.
func (a *Asset) Durable() bool {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return len(a.e.pending) == 0 && !a.e.stale && !a.e.gone
}

// Unknown is the number of pieces that are on the disk and being hashed again, because the index was lost. They should
// not be fetched before it is 0: Run goes through them, those that a reader waits for first.
func (a *Asset) Unknown() int {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.unknown.ones
}

// Reserved is the number of bytes from the front that have space. Pieces beyond cannot be written: see Grow.
func (a *Asset) Reserved() int64 {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.alloc
}

// Bitmap is the verified pieces as a BitTorrent bitfield (BEP 3).
func (a *Asset) Bitmap() []byte {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.have.bytes()
}

// Changed returns a channel that is closed when a piece becomes verified or lost, when the demand of readers changes,
// and when the asset is removed.
func (a *Asset) Changed() <-chan struct{} {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.wait()
}

// Gone says whether the asset was removed.
func (a *Asset) Gone() bool {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	return a.e.gone
}

// Hold says that the swarm or a remote reader uses the asset, until release is called. Before an eviction the OnEvict
// callbacks are expected to have it released; if it is not, the asset stays.
func (a *Asset) Hold() (release func()) {
	e := a.e
	e.mu.Lock()
	e.holds++
	e.mu.Unlock()
	done := false
	return func() {
		e.mu.Lock()
		if !done {
			done = true
			e.holds--
		}
		e.mu.Unlock()
	}
}
