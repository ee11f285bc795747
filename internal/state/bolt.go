package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"boxd/internal/durable"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// What opening a bbolt file can say.
var (
	ErrDamaged = errors.New("damaged database")
	ErrNewer   = errors.New("database of a newer format")
	ErrLocked  = errors.New("database is in use by another process")
)

const (
	metaBucket  = "meta"
	formatKey   = "format"
	lockTimeout = 2 * time.Second
	// A file is compacted when less than half of it is live, and it is worth the writing.
	compactAbove = 256 << 10
	asideSuffix  = ".damaged"
)

// Bolt says how OpenBolt opens a file.
type Bolt struct {
	Format  int // of this program; a file of a higher one is ErrNewer
	MaxSize int // bytes that the file may grow to; 0 is no limit
	Log     *slog.Logger
}

// OpenBolt opens a bbolt file after having checked every page of it, creating it (aside, then renamed) when there is
// none and compacting it when that pays. On a read-only file system it opens it read-only. Errors wrap ErrDamaged,
// ErrNewer, ErrLocked or come from the system; the file is never changed then.
func OpenBolt(path string, o Bolt) (*bbolt.DB, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = o.create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	live, size, err := o.check(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if size > compactAbove && live < size/2 {
		if err := o.compact(path); err != nil {
			o.Log.Warn("database not compacted", "path", path, "err", err)
		} else {
			o.Log.Info("database compacted", "path", path, "bytes_before", size, "bytes_live", live)
		}
	}
	db, err := o.open(path, false)
	if errors.Is(err, unix.EROFS) {
		db, err = o.open(path, true)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

func (o Bolt) open(path string, readOnly bool) (db *bbolt.DB, err error) {
	err = Guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: lockTimeout, NoFreelistSync: true, PreLoadFreelist: true, FreelistType: bbolt.FreelistMapType,
			ReadOnly: readOnly, MaxSize: o.MaxSize,
		})
		return err
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum),
		errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return db, err
}

// create makes the file aside, so that a power cut never leaves half of one under its name.
func (o Bolt) create(path string) error {
	tmp := path + durable.TempSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := o.open(tmp, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(metaBucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(formatKey), []byte(strconv.Itoa(o.Format)))
	})
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = replace(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp) // the error that led here says more
	}
	return err
}

func replace(tmp, path string) error {
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return durable.OS().SyncDir(filepath.Dir(path))
}

// check walks the file under its lock.
func (o Bolt) check(path string) (live, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing to lose; gives the lock back
	if err := lock(f); err != nil {
		return 0, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	var format []byte
	live, size, err = Walk(f, fi.Size(), false, func(bucket string, k, v []byte) {
		if bucket == metaBucket && string(k) == formatKey {
			format = bytes.Clone(v)
		}
	})
	if err != nil {
		return 0, 0, err
	}
	n, err := strconv.Atoi(string(format))
	switch {
	case err != nil || n < 1:
		return 0, 0, fmt.Errorf("%w: format %q", ErrDamaged, format)
	case n > o.Format:
		return 0, 0, fmt.Errorf("%w: %d, this program knows %d", ErrNewer, n, o.Format)
	}
	return live, size, nil
}

func lock(f *os.File) error {
	for end := time.Now().Add(lockTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) //nolint:gosec // a descriptor fits an int
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if time.Now().After(end) {
			return ErrLocked
		}
	}
}

func (o Bolt) compact(path string) error {
	tmp := path + durable.TempSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := Guard(func() error {
		src, err := o.open(path, true)
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // read-only
		dst, err := o.open(tmp, false)
		if err != nil {
			return err
		}
		err = bbolt.Compact(dst, src, 1<<20)
		if err == nil {
			err = dst.Sync()
		}
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
		return err
	})
	if err == nil {
		err = replace(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp) // the error that led here says more
	}
	return err
}

// SetAside renames a damaged file, so that a fresh one can take its place and a person can look at it. Only the
// latest is kept.
func SetAside(path string) (string, error) {
	aside := path + asideSuffix
	if err := replace(path, aside); err != nil {
		return "", fmt.Errorf("set %s aside: %w", path, err)
	}
	return aside, nil
}

// Beside is where a program of the given format keeps its own file when the one under path is of a newer format.
func Beside(path string, format int) string {
	ext := filepath.Ext(path)
	return path[:len(path)-len(ext)] + "-" + strconv.Itoa(format) + ext
}

// Guard runs f and turns a panic, or a fault on a page of a mapped file, into ErrDamaged.
func Guard(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return f()
}
