package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
)

const (
	torrentSuffix = ".torrent"
	blobSuffix    = ".blob"
	pinsBucket    = "cache-pins"
)

func (c *Cache) torrentPath(id asset.ID) string {
	return filepath.Join(c.dir, id.String()+torrentSuffix)
}

func (c *Cache) blobPath(id asset.ID, gen uint32) string {
	return c.dir + string(filepath.Separator) + blobName(id, gen)
}

func blobName(id asset.ID, gen uint32) string {
	return id.String() + "." + hex.EncodeToString(binary.BigEndian.AppendUint32(nil, gen)) + blobSuffix
}

// parseBlobName reads what blobPath wrote.
func parseBlobName(name string) (id asset.ID, gen uint32, ok bool) {
	s, found := strings.CutSuffix(name, blobSuffix)
	if !found {
		return id, 0, false
	}
	hexID, hexGen, found := strings.Cut(s, ".")
	if !found || len(hexGen) != 8 {
		return id, 0, false
	}
	id, err := asset.ParseID(hexID)
	g, gerr := strconv.ParseUint(hexGen, 16, 32)
	if err != nil || gerr != nil || name != blobName(id, uint32(g)) {
		return id, 0, false
	}
	return id, uint32(g), true
}

// onDisk is what the directory says.
type onDisk struct {
	blobs    map[asset.ID][]uint32
	torrents map[asset.ID]bool
	unread   map[asset.ID]bool // could not be looked at: left alone
	outdated map[asset.ID]*row // rows that a blob of another generation has outlived
}

func (c *Cache) load() error {
	// Best effort: on a read-only disk the directory is there already, or ReadDir says so.
	_ = c.fs.MkdirAll(c.dir, 0o755)
	disk, err := c.scanDir()
	if err != nil {
		return err
	}
	c.loadPins()
	rebuild, err := c.openIndex()
	if err != nil {
		return err
	}
	rebuild = c.foreign(rebuild) || rebuild
	stale := []asset.ID{}
	err = c.rows.load(func(id asset.ID, raw []byte) {
		r, err := decodeRow(id, raw)
		if err != nil {
			c.o.Log.Error("index row is damaged", "err", err)
			rebuild = true
			stale = append(stale, id)
			return
		}
		if !c.adoptRow(id, r, disk) {
			stale = append(stale, id)
		}
	})
	if err != nil {
		c.o.Log.Error("index cannot be read whole", "err", err)
		rebuild = true
	}
	adopted := c.reconcile(disk, rebuild)
	if adopted == 0 {
		c.claimDir()
	}
	if adopted > 0 {
		c.o.Health.Raise(health.Warning{
			Code: CodeRebuilt, Severity: health.Info,
			Text: fmt.Sprintf("The index of the cache was lost for %d assets; their files are being checked again.", adopted),
		})
		c.poke(c.check)
	}
	c.dropStale(stale)
	c.loadEvents()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		c.used += e.cost()
		if e.lastUse.After(c.lastTick) {
			c.lastTick = e.lastUse
		}
	}
	return nil
}

func (c *Cache) openIndex() (rebuild bool, err error) {
	open := c.o.openRows
	if open == nil {
		open = func() (rowStore, bool, error) {
			if err := c.fs.MkdirAll(c.o.StateDir, 0o755); err != nil {
				c.o.Log.Warn("state directory cannot be made", "err", err)
			}
			return openBolt(c.o.StateDir, Format, c.o.Log)
		}
	}
	c.rows, rebuild, err = open()
	var closed errIndexClosed
	if errors.As(err, &closed) {
		c.indexFailed(err)
		return true, nil
	}
	return rebuild, err
}

func (c *Cache) scanDir() (onDisk, error) {
	d := onDisk{
		blobs: map[asset.ID][]uint32{}, torrents: map[asset.ID]bool{}, outdated: map[asset.ID]*row{},
		unread: map[asset.ID]bool{},
	}
	list, err := c.fs.ReadDir(c.dir)
	if err != nil {
		return d, err
	}
	for _, de := range list {
		name := de.Name()
		if id, gen, ok := parseBlobName(name); ok {
			d.blobs[id] = append(d.blobs[id], gen)
		} else if s, ok := strings.CutSuffix(name, torrentSuffix); ok {
			if id, err := asset.ParseID(s); err == nil && s == id.String() {
				d.torrents[id] = true
			}
		} else if strings.HasSuffix(name, durable.TempSuffix) {
			c.removeLeftover(filepath.Join(c.dir, name))
		}
	}
	return d, nil
}

func (c *Cache) removeLeftover(path string) {
	if err := c.fs.Remove(path); err != nil {
		c.o.Log.Warn("leftover file not removed", "path", path, "err", err)
	}
}

func (c *Cache) loadPins() {
	if c.o.State == nil {
		return
	}
	err := c.o.State.Each(pinsBucket, func(k, _ []byte) error {
		if len(k) == asset.HashSize {
			c.pins.Store(asset.ID(k), true)
		}
		return nil
	})
	if err != nil {
		c.o.Log.Error("pins cannot be read", "err", err)
	}
}
