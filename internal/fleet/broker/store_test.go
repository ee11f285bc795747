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
		return w.stuck(free, now)
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
