package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/control"
	"boxd/internal/mqttwire"
)

func TestNothingIsConcludedWhileTheCacheIsHashedAgain(t *testing.T) {
	whole, part, other := asset.ID{1}, asset.ID{2}, asset.ID{3}
	list := []cache.Status{{ID: whole, Unknown: 2}, {ID: part, Unknown: 1}, {ID: other, Complete: true, Durable: true}}
	r := newRecheck(list)
	for _, step := range []struct {
		what  string
		list  []cache.Status
		state control.AssetState // of the whole one, in the snapshot
		want  bool
	}{
		{"at the start", list, control.Fetching, false},
		{"one has a gap", []cache.Status{{ID: whole, Unknown: 1}, {ID: part}, list[2]}, control.Fetching, false},
		{"hashed", []cache.Status{{ID: whole, Complete: true}, {ID: part}, list[2]}, control.Fetching, false},
		{"durable, not told", []cache.Status{{ID: whole, Complete: true, Durable: true}, {ID: part}}, control.Checked, false},
		{"told", []cache.Status{{ID: whole, Complete: true, Durable: true}, {ID: part}}, control.Ready, true},
		{"later", []cache.Status{{ID: whole}, {ID: part}}, control.Fetching, true},
	} {
		s := &control.Snapshot{Assets: []control.Asset{{ID: whole, State: step.state}, {ID: part, State: control.Fetching}}}
		if got := r.done(s, func() []cache.Status { return step.list }); got != step.want {
			t.Errorf("%s: holdings known %v, want %v", step.what, got, step.want)
		}
	}
	if r := newRecheck(list[:1]); !r.done(&control.Snapshot{}, func() []cache.Status { return nil }) {
		t.Error("an asset that has left the cache is waited for")
	}
}

// proofs reads the outbox of a box that has ended.
func (b *testBox) proofs() (kinds []string) {
	b.t.Helper()
	db, err := bbolt.Open(filepath.Join(b.dir, "state", "state.db"), 0o600, nil)
	must(b.t, err)
	defer db.Close()
	must(b.t, db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("mgmt.outbox")).ForEach(func(_, v []byte) error {
			var rec struct {
				Event *mqttwire.Event `json:"event"`
			}
			if err := json.Unmarshal(v, &rec); err != nil || rec.Event == nil {
				b.t.Fatalf("outbox: %v: %s", err, v)
			}
			kinds = append(kinds, rec.Event.Kind)
			return nil
		})
	}))
	return kinds
}

// TestALostIndexReportsNothingAsErased: the film is hashed again and is as whole as before.
func TestALostIndexReportsNothingAsErased(t *testing.T) {
	t.Setenv("BOXD_FLEET_BROKERS", "tls://127.0.0.1:1")
	f := newFleet(t)
	file, _ := mediaFile(t, "film.mp4", 48<<20)
	id := f.publish(file, "The Film", nil)
	box := f.box("one", "").start()
	box.has(id, 120*time.Second)
	box.until("a proof", 20*time.Second, func(s *control.Snapshot) bool { return s.Broker.Pending == 1 })
	box.end()
	must(t, os.Remove(box.dir+"/state/index.db"))
	// What arrives next is proven after the index was made again, and what is wrong would be proven before it.
	next, _ := mediaFile(t, "next.mp4", 1<<20)
	box.start()
	box.has(id, 120*time.Second)
	box.has(f.publish(next, "The Next", nil), 60*time.Second)
	box.until("its proof", 20*time.Second, func(s *control.Snapshot) bool { return s.Broker.Pending >= 2 })
	box.end()
	if kinds := box.proofs(); len(kinds) != 2 || kinds[0] != mqttwire.EventArrived || kinds[1] != mqttwire.EventArrived {
		t.Errorf("the proofs are %v, want two of arrival", kinds)
	}
}
