package cache

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"boxd/internal/durable"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process uses the cache directory.
var ErrLocked = errors.New("cache directory is in use by another process")

const (
	lockFile  = ".lock"
	ownerFile = ".index" // the id of the index that knows the blobs
	lockWait  = 2 * time.Second
)

// lockDir keeps every other process out of the directory: one with a state directory of its own would take the blobs that its
// index does not know for leftovers. On a disk that knows no locks, or on which none can be made, it goes on without.
func (c *Cache) lockDir() error {
	if c.o.FS != durable.OS() {
		return nil
	}
	path := filepath.Join(c.o.Dir, lockFile)
	_ = c.fs.MkdirAll(c.dir, 0o755) // the next says why not
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		f, err = os.Open(path)
	}
	if err != nil {
		c.o.Log.Warn("cache directory cannot be locked", "err", err)
		return nil
	}
	for end := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a descriptor fits an int
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			break
		}
		if time.Now().After(end) {
			_ = f.Close() // nothing was written
			return ErrLocked
		}
	}
	if err != nil {
		c.o.Log.Warn("cache directory cannot be locked", "err", err)
	}
	c.lock = f
	return nil
}

// unlockDir lets others into the directory.
func (c *Cache) unlockDir() {
	if c.lock != nil {
		_ = c.lock.Close() // nothing was written
		c.lock = nil
	}
}

// foreign reports whether the blobs were last kept by another index than ours: then ours does not know them all, and none is a
// leftover for being unknown to it. From the first commit on, ours does.
func (c *Cache) foreign(rebuild bool) bool {
	index, ok := c.rows.(interface{ id() (string, error) })
	if !ok {
		return false
	}
	id, err := index.id()
	if err != nil || id == "" {
		return false // it is rebuilt anyhow
	}
	old, err := durable.ReadFile(c.fs, filepath.Join(c.o.Dir, ownerFile), 256)
	switch {
	case err == nil && strings.TrimSpace(string(old)) == id:
		return false
	case errors.Is(err, fs.ErrNotExist):
		c.claim = id
		if !rebuild {
			c.claimDir()
		}
		return false
	}
	c.o.Log.Warn("the cache was kept by another index, what ours does not know of it is checked", "err", err)
	c.claim = id
	return true
}

// claimDir writes down that our index knows the blobs. commitMu must be held, or the cache not shared yet.
func (c *Cache) claimDir() {
	if c.claim == "" {
		return
	}
	if err := durable.WriteFile(c.fs, filepath.Join(c.o.Dir, ownerFile), []byte(c.claim+"\n"), 0o644); err != nil {
		c.o.Log.Debug("name of the index not written", "err", err) // after a restart blobs may be checked once more
		return
	}
	c.claim = ""
}

func newIndexID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
