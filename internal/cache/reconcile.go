package cache

import (
	"errors"
	"fmt"

	"boxd/internal/asset"
	"boxd/internal/durable"
)

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
