// Package state keeps what cannot be rebuilt (pins, outbox, counters, budgets, the time floor) in one small bbolt file
// with a backup copy beside it, and opens bbolt files so that a damaged one is found out instead of crashing the box.
//
// Invariants: a value that Get returns is one that Put stored under that key (each carries a checksum); an update that
// returned nil survives a power cut; a file that will not open is set aside, never overwritten; a file of a newer format
// is left untouched and another is used beside it.
package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"boxd/internal/durable"
	"boxd/internal/health"

	"go.etcd.io/bbolt"
)

// Format is the version of the file that this program writes.
const Format = 1

const (
	maxFile       = 64 << 20 // bytes; what must survive is small, a runaway writer must not fill the flash
	backupSuffix  = ".bak"
	defaultBackup = time.Hour
)

// The health codes that this package raises.
const (
	CodeLost     = "state-lost"
	CodeRestored = "state-restored"
	CodeWrite    = "state-write"
)

// ErrChecksum is what Get returns for a value that is not what was stored.
var ErrChecksum = errors.New("checksum does not match")

// Options of Open; the zero value works.
type Options struct {
	BackupEvery time.Duration // at most this much is lost with the file; default 1 h
	Log         *slog.Logger
	Health      *health.Set
}

// DB is an open state file. Its methods may be called from any goroutine.
type DB struct {
	path     string
	o        Options
	db       *bbolt.DB
	restored bool

	mu       sync.Mutex // guards the fields below; held over a backup
	dirty    bool
	backedUp time.Time
}

// Open opens or creates the file. When it is damaged it is set aside and the backup takes its place, or when that is
// damaged too, a fresh one; health says so.
func Open(path string, o Options) (*DB, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.BackupEvery == 0 {
		o.BackupEvery = defaultBackup
	}
	d := &DB{path: path, o: o}
	bolt := Bolt{Format: Format, MaxSize: maxFile, Log: o.Log}
	_, serr := os.Stat(path)
	missing := errors.Is(serr, fs.ErrNotExist)
	var err error
	if missing && hasBackup(path) {
		err = fmt.Errorf("%w: the file is gone", ErrDamaged)
	} else {
		d.db, err = OpenBolt(path, bolt)
	}
	if errors.Is(err, ErrNewer) {
		d.path = Beside(path, Format)
		o.Log.Warn("state is of a newer format, left untouched", "path", path, "used", d.path)
		d.db, err = OpenBolt(d.path, bolt)
	}
	if errors.Is(err, ErrDamaged) {
		err = d.recover(bolt, err)
	}
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(d.path + backupSuffix); err == nil {
		d.backedUp = fi.ModTime()
	}
	return d, nil
}

func hasBackup(path string) bool {
	_, err := os.Stat(path + backupSuffix)
	return err == nil
}

func (d *DB) recover(bolt Bolt, cause error) error {
	if aside, err := SetAside(d.path); err == nil {
		d.o.Log.Error("state would not open, set aside", "path", aside, "err", cause)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := durable.ReadFile(durable.OS(), d.path+backupSuffix, maxFile)
	if err == nil {
		err = durable.WriteFile(durable.OS(), d.path, b, 0o600)
	}
	if err == nil {
		if d.db, err = OpenBolt(d.path, bolt); err == nil {
			d.restored = true
			d.o.Health.Raise(health.Warning{
				Code: CodeRestored, Severity: health.Info,
				Text: "The state file was damaged; its backup copy is used instead.",
			})
			return nil
		}
		if _, err := SetAside(d.path); err != nil {
			return err
		}
	}
	d.o.Log.Error("state has no usable backup, starting afresh", "path", d.path, "err", err)
	d.o.Health.Raise(health.Warning{
		Code: CodeLost, Severity: health.Warn,
		Text:   "The state file and its backup were damaged: pins and counters begin anew.",
		Action: "Pin again what must stay. If it happens again, replace the storage.",
	})
	d.restored = true
	d.db, err = OpenBolt(d.path, bolt)
	return err
}

// Restored says that what is here may be older than what was last stored: the file was damaged.
func (d *DB) Restored() bool { return d.restored }

// Path is where the file is.
func (d *DB) Path() string { return d.path }

// Update runs a read-write transaction, which is durable when it returns nil. fn must not keep slices of the file.
func (d *DB) Update(fn func(*bbolt.Tx) error) error {
	var refused error // by fn, which says nothing about the disk
	err := Guard(func() error {
		return d.db.Update(func(tx *bbolt.Tx) error {
			refused = fn(tx)
			return refused
		})
	})
	if err != nil {
		if refused == nil {
			d.notWritten(err)
		}
		return fmt.Errorf("update %s: %w", d.path, err)
	}
	d.o.Health.Clear(CodeWrite)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty = true
	if time.Since(d.backedUp).Abs() >= d.o.BackupEvery {
		if err := d.backup(); err != nil {
			d.o.Log.Warn("state not backed up", "err", err)
		}
	}
	return nil
}

func (d *DB) notWritten(err error) {
	why := err.Error()
	var no syscall.Errno
	if errors.As(err, &no) {
		why = no.Error() // the same text each time
	}
	d.o.Health.Raise(health.Warning{
		Code: CodeWrite, Severity: health.Critical,
		Text: "The state file cannot be written (" + why + "): pins, counters, proofs and commands wait. " +
			"What is in the cache plays.",
		Action: "Check the storage of the state directory: it is full, read-only or failing.",
	})
}

// View runs a read transaction. fn must be short and must not keep slices of the file.
func (d *DB) View(fn func(*bbolt.Tx) error) error {
	return Guard(func() error { return d.db.View(fn) })
}

// Backup writes the copy that Open falls back to, when there is anything new.
func (d *DB) Backup() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.backup()
}

// backup must be called with mu held.
func (d *DB) backup() error {
	if !d.dirty {
		return nil
	}
	tmp := d.path + backupSuffix + durable.TempSuffix
	err := d.View(func(tx *bbolt.Tx) error { return tx.CopyFile(tmp, 0o600) }) // syncs the copy
	if err == nil {
		err = replace(tmp, d.path+backupSuffix)
	}
	d.backedUp = time.Now() // also after a failure: not again with every update
	if err != nil {
		_ = os.Remove(tmp) // the error that led here says more
		return fmt.Errorf("back up %s: %w", d.path, err)
	}
	d.dirty = false
	return nil
}

// Close backs up what is new and closes the file.
func (d *DB) Close() error {
	return errors.Join(d.Backup(), d.db.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(bucket string, key, val []byte) uint32 {
	c := crc32.Update(0, castagnoli, []byte(bucket))
	c = crc32.Update(c, castagnoli, []byte{0})
	c = crc32.Update(c, castagnoli, key)
	return crc32.Update(c, castagnoli, val)
}

func frame(bucket string, key, val []byte) []byte {
	b := make([]byte, 4, 4+len(val))
	binary.LittleEndian.PutUint32(b, sum(bucket, key, val))
	return append(b, val...)
}

func unframe(bucket string, key, b []byte) ([]byte, error) {
	if len(b) < 4 || binary.LittleEndian.Uint32(b) != sum(bucket, key, b[4:]) {
		return nil, fmt.Errorf("get %s/%x: %w", bucket, key, ErrChecksum)
	}
	return append([]byte{}, b[4:]...), nil
}

// Put stores a value durably.
func (d *DB) Put(bucket string, key, val []byte) error {
	return d.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put(key, frame(bucket, key, val))
	})
}

// Get returns a copy of what Put stored.
func (d *DB) Get(bucket string, key []byte) (val []byte, ok bool, err error) {
	err = d.View(func(tx *bbolt.Tx) (err error) {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		if raw := b.Get(key); raw != nil {
			val, err = unframe(bucket, key, raw)
			ok = err == nil
		}
		return err
	})
	return val, ok, err
}

// Delete removes a key; one that is not there is no error.
func (d *DB) Delete(bucket string, key []byte) error {
	return d.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.Delete(key)
	})
}

// Each calls fn with a copy of every pair, by key. It ends at the first error. A pair that does not match its checksum
// is skipped and logged. fn may use the DB.
func (d *DB) Each(bucket string, fn func(key, val []byte) error) error {
	type pair struct{ k, v []byte }
	var pairs []pair
	err := d.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, raw []byte) error {
			v, err := unframe(bucket, k, raw)
			if err != nil {
				d.o.Log.Error("state value skipped", "err", err)
				return nil
			}
			pairs = append(pairs, pair{append([]byte{}, k...), v})
			return nil
		})
	})
	for _, p := range pairs {
		if err == nil {
			err = fn(p.k, p.v)
		}
	}
	return err
}

// Append stores a value under the next number of the bucket, as an 8-byte big-endian key. Numbers begin with 1 and are
// not used again.
func (d *DB) Append(bucket string, val []byte) (seq uint64, err error) {
	err = d.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		if seq, err = b.NextSequence(); err != nil {
			return err
		}
		return b.Put(SeqKey(seq), frame(bucket, SeqKey(seq), val))
	})
	return seq, err
}

// SeqKey is the key under which Append stored a number.
func SeqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
