package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"boxd/internal/asset"
	"boxd/internal/state"

	"go.etcd.io/bbolt"
)

// rowStore is the index: rows by asset, changed all together or not at all.
type rowStore interface {
	load(fn func(id asset.ID, raw []byte)) error
	apply(puts map[asset.ID][]byte, dels []asset.ID) error
	close() error
}

// Format is the version of index.db that this program writes.
const Format = 1

const (
	indexFile    = "index.db"
	assetsBucket = "assets"
	metaBucket   = "meta"
	idKey        = "id"
	maxIndex     = 256 << 20 // bytes
)

// boltRows is the index in bbolt. When the file cannot be opened for writing, rows are kept for the next try.
type boltRows struct {
	path string
	opts state.Bolt

	mu sync.Mutex // guards db
	db *bbolt.DB  // nil while it cannot be opened
}

// openBolt opens the index. rebuild says that rows may be missing: blobs without a row are then to be adopted.
func openBolt(dir string, format int, log *slog.Logger) (rows *boltRows, rebuild bool, err error) {
	path := filepath.Join(dir, indexFile)
	r := &boltRows{path: path, opts: state.Bolt{Format: format, MaxSize: maxIndex, Log: log}}
	if older := olderBeside(path, format); older != "" {
		// After a rollback an older program was the last to write: what it did is not in our index.
		log.Warn("an older program has kept an index of its own, ours is set aside", "older", older)
		if err := r.startAfresh(older); err != nil {
			return r, true, err
		}
		if err := os.Remove(older); err != nil {
			log.Warn("older index not removed", "path", older, "err", err)
		}
		return r, true, nil
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		rebuild = true
	}
	r.db, err = state.OpenBolt(path, r.opts)
	if errors.Is(err, state.ErrNewer) {
		r.path = state.Beside(path, format)
		log.Warn("index is of a newer format, left untouched", "path", path, "used", r.path)
		if _, err := os.Stat(r.path); errors.Is(err, os.ErrNotExist) {
			rebuild = true
		}
		r.db, err = state.OpenBolt(r.path, r.opts)
	}
	switch {
	case err == nil:
		return r, rebuild, nil
	case errors.Is(err, state.ErrDamaged):
		log.Error("index would not open", "err", err)
		return r, true, r.startAfresh(r.path)
	case errors.Is(err, state.ErrLocked):
		return nil, false, err
	default:
		// The disk is full, read-only or broken: go on without an index; apply tries again.
		log.Error("index cannot be opened, going on without", "err", err)
		return r, true, errIndexClosed{err}
	}
}

// errIndexClosed says that the store works in memory only for now.
type errIndexClosed struct{ error }

func (e errIndexClosed) Unwrap() error { return e.error }

func olderBeside(path string, format int) string {
	for f := 1; f < format; f++ {
		if p := state.Beside(path, f); fileExists(p) {
			return p
		}
	}
	return ""
}

func fileExists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// startAfresh sets the file aside and makes a new one, with the rows of another (or the old one) that are still whole.
// That is safe: a row is believed only when its generation is that of the blob.
func (r *boltRows) startAfresh(from string) error {
	rows := map[asset.ID][]byte{}
	r.salvage(from, rows)
	if _, err := state.SetAside(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errIndexClosed{err}
	}
	db, err := state.OpenBolt(r.path, r.opts)
	if err != nil {
		return errIndexClosed{err}
	}
	r.db = db
	if len(rows) == 0 {
		return nil
	}
	if err := r.apply(rows, nil); err != nil {
		return errIndexClosed{err}
	}
	return nil
}

func (r *boltRows) salvage(from string, rows map[asset.ID][]byte) {
	f, err := os.Open(from)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing to lose
	fi, err := f.Stat()
	if err != nil {
		return
	}
	_, _, err = state.Walk(f, fi.Size(), true, func(bucket string, key, val []byte) {
		if bucket != assetsBucket || len(key) != asset.HashSize {
			return
		}
		id := asset.ID(key)
		if _, err := decodeRow(id, val); err == nil {
			rows[id] = append([]byte(nil), val...)
		}
	})
	r.opts.Log.Info("index salvaged", "path", from, "rows", len(rows), "err", err)
}

func (r *boltRows) load(fn func(id asset.ID, raw []byte)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db == nil {
		return nil
	}
	return state.Guard(func() error {
		return r.db.View(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(assetsBucket))
			if b == nil {
				return nil
			}
			return b.ForEach(func(k, v []byte) error {
				if len(k) != asset.HashSize {
					return fmt.Errorf("%w: key of %d bytes", errRow, len(k))
				}
				fn(asset.ID(k), v)
				return nil
			})
		})
	})
}

func (r *boltRows) apply(puts map[asset.ID][]byte, dels []asset.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db == nil || r.db.IsReadOnly() {
		if err := r.reopen(); err != nil {
			return err
		}
	}
	return state.Guard(func() error {
		return r.db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(assetsBucket))
			if err != nil {
				return err
			}
			for id, raw := range puts {
				if err := b.Put(id[:], raw); err != nil {
					return err
				}
			}
			for _, id := range dels {
				if err := b.Delete(id[:]); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// reopen must be called with mu held.
func (r *boltRows) reopen() error {
	if r.db != nil {
		if err := r.db.Close(); err != nil {
			return err
		}
		r.db = nil
	}
	db, err := state.OpenBolt(r.path, r.opts)
	if errors.Is(err, state.ErrDamaged) {
		if _, aerr := state.SetAside(r.path); aerr != nil {
			return errors.Join(err, aerr)
		}
		db, err = state.OpenBolt(r.path, r.opts)
	}
	if err != nil {
		return err
	}
	r.db = db
	return nil
}

// id is a name that the index was given when it was made; empty when it cannot be opened.
func (r *boltRows) id() (id string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db == nil {
		return "", nil
	}
	err = state.Guard(func() error {
		return r.db.View(func(tx *bbolt.Tx) error {
			if b := tx.Bucket([]byte(metaBucket)); b != nil {
				id = string(b.Get([]byte(idKey)))
			}
			return nil
		})
	})
	if err != nil || id != "" || r.db.IsReadOnly() {
		return id, err
	}
	id = newIndexID()
	err = state.Guard(func() error {
		return r.db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(metaBucket))
			if err != nil {
				return err
			}
			return b.Put([]byte(idKey), []byte(id))
		})
	})
	return id, err
}

func (r *boltRows) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db == nil {
		return nil
	}
	return r.db.Close()
}
