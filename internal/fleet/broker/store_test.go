package broker

import (
	"testing"
	"time"
)

func TestAStoreThatTakesNothingIsNoticed(t *testing.T) {
	w, now := &storeWatch{}, time.Unix(1_000_000, 0)
	step := func(free int64, fails bool) bool {
		now = now.Add(storeLook)
		if fails {
			w.heard(storeFailed+" on stream 'FLEET > $MQTT_msgs': no space left on device", now)
		}
		return w.stuck(free, true, now)
	}
	for range 100 {
		if step(storeRoom, false) || step(0, true) {
			t.Fatal("a full disk is no reason for a restart")
		}
	}
	step(storeRoom, true)
	for range 100 {
		if step(storeRoom, false) {
			t.Fatal("it has recovered")
		}
	}
	step(0, true)
	stuck := 0
	for range 10 {
		if step(storeRoom, true) {
			stuck++
		}
	}
	if stuck == 0 {
		t.Error("it fails with room on the disk, and nobody notices")
	}
	w.heard("something else", now)
	if free := freeBytes(t.TempDir()); free <= 0 {
		t.Errorf("%d bytes free", free)
	}
}

// A node of a cluster whose disk was full has given up its store for good, whatever comes after.
func TestANodeThatLostItsStoreIsNoticed(t *testing.T) {
	const text = "RAFT [yrzKKRBu - S-R3F-pW9JqJtb] Critical write error: write /js/msgs: no space left on device"
	for _, c := range []struct {
		name                  string
		replica, heard, store bool
		want                  bool
	}{
		{"a write error in a cluster", true, true, true, true},
		{"a write error alone", false, true, true, false}, // it is judged by what fails then
		{"no store any more", true, false, false, true},
		{"nothing wrong", true, false, true, false},
	} {
		w, now := &storeWatch{replica: c.replica}, time.Unix(1_000_000, 0)
		if c.heard {
			w.heard(text, now)
		}
		for range 20 {
			now = now.Add(storeLook)
			if w.stuck(0, c.store, now) {
				t.Errorf("%s: a full disk is no reason for a restart", c.name)
			}
		}
		got := false
		for range 20 {
			now = now.Add(storeLook)
			got = w.stuck(storeRoom, c.store, now) || got
		}
		if got != c.want {
			t.Errorf("%s: restarted %t", c.name, got)
		}
	}
}
