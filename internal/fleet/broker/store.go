package broker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"time"
)

// NATS remembers a failed write of a stream and refuses all later ones, also when there is room again; a node of a cluster gives
// up JetStream altogether, and then lets no box in. Only a restart mends that, and a restart is what an error of Run makes.
const (
	storeRoom   = 16 << 20         // bytes that are free when the disk is not what is wrong
	storeGrace  = 10 * time.Second // what was on its way while it was full may still fail
	storeStuck  = 20 * time.Second
	storeLook   = 5 * time.Second
	storeFailed = "JetStream failed to store a msg"
	storeLost   = "ritical write error" // of a stream, a consumer or the log of a replica, which stops then
)

var errStoreStuck = errors.New("the broker's store takes nothing though there is room: it needs a restart")

// storeWatch knows when the server last said that it could not store.
type storeWatch struct {
	replica bool // it is a node of a cluster

	mu     sync.Mutex // guards the fields below
	failed time.Time
	lost   bool // a replica has stopped for good

	room time.Time // since when there is room; run's alone
}

// run watches until ctx ends or the server needs a restart. enabled says whether it still has a store.
func (w *storeWatch) run(ctx context.Context, dir string, enabled func() bool) error {
	tick := time.NewTicker(storeLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if w.stuck(freeBytes(dir), enabled(), time.Now()) {
				return errStoreStuck
			}
		}
	}
}

// heard is given the server's warnings.
func (w *storeWatch) heard(text string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.HasPrefix(text, storeFailed) {
		w.failed = now
	}
	if w.replica && strings.Contains(text, storeLost) {
		w.lost = true
	}
}

// stuck reports whether messages fail although there has been room for a while.
func (w *storeWatch) stuck(free int64, enabled bool, now time.Time) bool {
	if free < storeRoom {
		w.room = time.Time{}
		return false
	}
	if w.room.IsZero() {
		w.room = now
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return now.Sub(w.room) > storeStuck && (w.failed.Sub(w.room) > storeGrace || w.lost || !enabled)
}

// freeBytes is what is left on the disk of a directory; a disk that does not tell has room.
func freeBytes(dir string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return storeRoom
	}
	return int64(min(st.Bavail, 1<<40)) * st.Bsize //nolint:gosec // bounded before
}
