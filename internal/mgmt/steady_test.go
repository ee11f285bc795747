package mgmt

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/mqttwire"
)

// fullDB is a state.db on a disk that may be full.
type fullDB struct {
	DB
	full atomic.Bool
}

func (d *fullDB) Update(fn func(*bbolt.Tx) error) error {
	if d.full.Load() {
		return syscall.ENOSPC
	}
	return d.DB.Update(fn)
}

// A full disk neither ends the daemon nor makes it run a command twice; when there is room again the command is answered.
func TestAFullDiskDoesNotEndTheDaemon(t *testing.T) {
	file := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer file.Close()
	synctest.Test(t, func(t *testing.T) {
		db, box := &fullDB{DB: file}, newFakeBox()
		m := newManager(t, box, db, func(o *Options) {
			o.BoxID = func() string { return "" } // no session: commands come from the test
			o.Now = func() (time.Time, bool) { return time.Now(), true }
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		box.mu.Lock()
		box.do = func(Command) Result { // full between the command's begin and its answer
			db.full.Store(true)
			return Result{Text: "done"}
		}
		box.mu.Unlock()
		m.cmds.offer(command("c1", time.Now().Add(time.Hour)))
		time.Sleep(time.Hour)
		select {
		case err := <-ended:
			t.Fatalf("Run ended: %v", err)
		default:
		}
		db.full.Store(false)
		time.Sleep(time.Hour)
		if acks := answers(t, m); len(acks) != 1 || acks[0].ID != "c1" || acks[0].Status != mqttwire.StatusFailed {
			t.Errorf("answers %v", acks)
		}
		if len(box.ran()) != 1 {
			t.Errorf("ran %v", box.ran())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A daemon that starts with a full disk has its numbers already: it asks for no write.
func TestAFullDiskDoesNotKeepTheDaemonFromStarting(t *testing.T) {
	file := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer file.Close()
	db := &fullDB{DB: file}
	epoch := newManager(t, newFakeBox(), db).epoch
	db.full.Store(true)
	if m := newManager(t, newFakeBox(), db); m.epoch != epoch {
		t.Errorf("epoch %q became %q", epoch, m.epoch)
	}
}

// A wish that nobody can verify is looked at every second: it is logged when it comes and not each time.
func TestAWaitingWishIsLoggedOnce(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	var log bytes.Buffer
	m := newManager(t, newFakeBox(), db, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	if err := m.desired.arrived(t.Context(), "box", []byte("forged")); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := m.desired.retry(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "desired state refused"); n != 1 || len(m.desired.waiting) != 1 {
		t.Errorf("logged %d times, %d waiting", n, len(m.desired.waiting))
	}
}
