package cache

import (
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
	return filepath.Join(c.dir, fmt.Sprintf("%s.%08x%s", id, gen, blobSuffix))
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
	if err != nil || gerr != nil || name != fmt.Sprintf("%s.%08x%s", id, g, blobSuffix) {
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
	d := onDisk{blobs: map[asset.ID][]uint32{}, torrents: map[asset.ID]bool{}, outdated: map[asset.ID]*row{},
		unread: map[asset.ID]bool{}}
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

// adoptRow believes a row when its files are there and the blob is of the row's generation.
func (c *Cache) adoptRow(id asset.ID, r *row, disk onDisk) bool {
	if !disk.torrents[id] {
		return false
	}
	for _, gen := range disk.blobs[id] {
		if gen == r.gen {
			e := c.newEntry(id, r)
			c.fitBlob(e)
			c.entries[id] = e
			return true
		}
		disk.outdated[id] = r
	}
	return false
}

// fitBlob brings the ledger and the length of a blob together: a row that a damaged index took from an older
// transaction may know less of the blob than there is.
func (c *Cache) fitBlob(e *entry) {
	path := c.blobPath(e.id, e.gen)
	fi, err := c.fs.Stat(path)
	if err != nil {
		return // the first use will say so
	}
	if fi.Size() < e.alloc {
		e.shorter(fi.Size())
	}
	if fi.Size() <= e.alloc {
		return
	}
	f, err := c.fs.OpenRW(path)
	if err == nil {
		err = f.Truncate(e.alloc)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		c.o.Log.Warn("blob is longer than it should be", "asset", e.id, "bytes", fi.Size(), "err", err)
	}
}

// reconcile goes through the files that no believed row claims. A blob with metainfo is adopted with all its pieces
// unknown when the index lost rows, or when the blob's generation shows that its row was old; else it is what is left of
// an unfinished creation or removal, and goes.
func (c *Cache) reconcile(disk onDisk, rebuild bool) (adopted int) {
	for id, gens := range disk.blobs {
		e := c.entries[id]
		for i, gen := range gens {
			if e != nil && gen == e.gen {
				continue
			}
			if e == nil && i == len(gens)-1 && disk.torrents[id] && (rebuild || disk.outdated[id] != nil) {
				err := c.adoptBlob(id, gen, disk.outdated[id])
				if err == nil {
					adopted++
					continue
				}
				c.o.Log.Error("blob cannot be adopted", "asset", id, "err", err)
				if !hopeless(err) {
					disk.unread[id] = true // the disk may do better at the next start
					continue
				}
			}
			c.removeLeftover(c.blobPath(id, gen))
		}
	}
	for id := range disk.torrents {
		if c.entries[id] == nil && !disk.unread[id] {
			c.removeLeftover(c.torrentPath(id))
		}
	}
	return adopted
}

// adoptBlob takes in a blob about which nothing is known but its name and its metainfo.
func (c *Cache) adoptBlob(id asset.ID, gen uint32, old *row) error {
	b, info, err := c.readTorrent(id)
	if err != nil {
		return err
	}
	fi, err := c.fs.Stat(c.blobPath(id, gen))
	if err != nil {
		return err
	}
	alloc := min(fi.Size(), info.Length)
	if alloc < info.Length {
		alloc -= alloc % info.PieceLength
	}
	r := &row{
		gen: gen, length: info.Length, pieceLen: info.PieceLength, alloc: alloc, torrentLen: int64(len(b)),
		attr: Attr{Name: info.Name}, have: newBits(info.NumPieces()),
	}
	if old != nil {
		r.attr, r.created, r.lastUse, r.sparse = old.attr, old.created, old.lastUse, old.sparse
	}
	e := c.newEntry(id, r)
	e.unknown = newBits(e.n)
	for i := range e.allocPieces() {
		e.unknown.set(i)
	}
	c.entries[id] = e
	c.dirty[e] = struct{}{}
	return nil
}

// hopeless says that the metainfo is wrong, as opposed to not readable now.
func hopeless(err error) bool {
	return errors.Is(err, asset.ErrTorrent) || errors.Is(err, errOther) || errors.Is(err, durable.ErrTooLarge)
}

var errOther = errors.New("metainfo of another asset")

// readTorrent reads the metainfo and makes sure that it is the asset's.
func (c *Cache) readTorrent(id asset.ID) ([]byte, *asset.Info, error) {
	b, err := durable.ReadFile(c.fs, c.torrentPath(id), asset.MaxTorrentBytes)
	if err != nil {
		return nil, nil, err
	}
	info, err := asset.ParseTorrent(b)
	if err != nil {
		return nil, nil, fmt.Errorf("metainfo of %s: %w", id.Short(), err)
	}
	if info.ID != id {
		return nil, nil, fmt.Errorf("%w: %s has that of %s", errOther, id.Short(), info.ID.Short())
	}
	return b, info, nil
}

// dropStale removes rows that were not believed, so that they are not met again.
func (c *Cache) dropStale(stale []asset.ID) {
	dels := stale[:0]
	for _, id := range stale {
		if c.entries[id] == nil { // an adopted one is written over
			dels = append(dels, id)
		}
	}
	if len(dels) == 0 {
		return
	}
	if err := c.rows.apply(nil, dels); err != nil {
		c.indexFailed(err)
	}
}
