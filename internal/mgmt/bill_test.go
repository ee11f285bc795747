package mgmt

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/asset"
	"boxd/internal/mqttwire"
)

// Counters run on when an asset is erased and fetched again; each proof tells what its own copy cost.
func TestEachCopyIsToldOfOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	box := newFakeBox()
	began := time.Date(2026, 11, 1, 0, 0, 0, 5, time.UTC)
	film := asset.ID{1}
	var m *Manager
	var known map[asset.ID]proven
	start := func() { // also after a power cut
		t.Helper()
		m = newManager(t, box, db)
		var err error
		if known, err = m.loadProven(); err != nil {
			t.Fatal(err)
		}
	}
	start()
	collect := func(held ...Holding) {
		t.Helper()
		box.set(func(r *Report) { r.Holdings = held; r.Gone = map[asset.ID]string{film: "evicted"} })
		if err := m.collectOnce(known); err != nil {
			t.Fatal(err)
		}
	}
	copyOf := func(counting time.Time, lan, peer, origin int64) Holding {
		began = began.Add(time.Hour)
		return Holding{
			ID: film, Size: 300_000, At: began, Trusted: true, Counting: counting,
			From: mqttwire.Traffic{LAN: lan, Peer: peer, Origin: origin},
		}
	}
	first, second := began, began.Add(48*time.Hour)
	for i, c := range []struct {
		what string
		held Holding
		want mqttwire.Traffic
	}{
		{"the first copy", copyOf(first, 0, 0, 300_000), mqttwire.Traffic{Origin: 300_000}},
		{"fetched again", copyOf(first, 0, 0, 600_000), mqttwire.Traffic{Origin: 300_000}},
		{"again, from elsewhere", copyOf(first, 200_000, 100_000, 600_000), mqttwire.Traffic{LAN: 200_000, Peer: 100_000}},
		{"counted anew", copyOf(second, 200_000, 100_000, 700_000), mqttwire.Traffic{LAN: 200_000, Peer: 100_000, Origin: 700_000}},
		{"counters that a power cut set back", copyOf(second, 100_000, 100_000, 800_000), mqttwire.Traffic{LAN: 100_000, Peer: 100_000, Origin: 800_000}},
	} {
		collect(c.held)
		list, err := m.outbox.after(uint64(2*i), 10) //nolint:gosec // a small count
		if err != nil || len(list) != 1 || list[0].Event.Kind != mqttwire.EventArrived {
			t.Fatalf("%s: %+v, %v", c.what, list, err)
		}
		if got := list[0].Event.From; got != c.want {
			t.Errorf("%s: told %+v, want %+v", c.what, got, c.want)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = openDB(t, path)
		start()
		collect() // erased
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasToldIsBounded(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer func() { _ = db.Close() }()
	tell := func(from, to int) (got mqttwire.Traffic) {
		t.Helper()
		err := db.Update(func(tx *bbolt.Tx) (err error) {
			for i := from; i <= to && err == nil; i++ {
				var id asset.ID
				binary.BigEndian.PutUint32(id[:], uint32(i)) //nolint:gosec // a small count
				got, err = bill(tx, id, time.Time{}, mqttwire.Traffic{LAN: 1})
			}
			return errors.Join(err, forgetBilled(tx))
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	tell(0, maxBilled)
	n := 0
	err := db.View(func(tx *bbolt.Tx) error {
		n = tx.Bucket([]byte(bucketBilled)).Stats().KeyN
		return nil
	})
	if err != nil || n != maxBilled {
		t.Errorf("%d are remembered, %v", n, err)
	}
	if got := tell(maxBilled, maxBilled); got.LAN != 0 {
		t.Errorf("the newest is told twice: %+v", got)
	}
	if got := tell(0, 0); got.LAN != 1 {
		t.Errorf("the oldest was forgotten: %+v", got)
	}
}
