package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockDir keeps a second fleetd off a directory whose database or broker's store has one owner. Several may share the
// directory when both are elsewhere. The kernel gives the lock back when the process ends, however it ends.
func lockDir(o Options) (*os.File, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make fleet: %w", err)
	}
	name := filepath.Join(o.Dir, fileLock)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", o.Dir, err)
	}
	how := unix.LOCK_EX
	if o.DB != "" && o.NATS != "" {
		how = unix.LOCK_SH
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB) //nolint:gosec // a descriptor fits an int
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("another fleetd serves this directory (several may only with --db and --nats)")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", o.Dir, err), f.Close())
	}
	return f, nil
}

// oneAtATime makes several fleetd that share a directory write what is not there yet one after the other.
func oneAtATime(dir string, do func() error) error {
	f, err := os.OpenFile(filepath.Join(dir, fileOpening), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX) //nolint:gosec // a descriptor fits an int
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return errors.Join(do(), f.Close())
}
