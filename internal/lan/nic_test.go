package lan

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhatIsARadio(t *testing.T) {
	dir := t.TempDir()
	for name, mark := range map[string]string{"wlan0": "phy80211", "ath1": "wireless", "eth0": "queues"} {
		if err := os.MkdirAll(filepath.Join(dir, name, mark), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"wlan0": true, "ath1": true, "eth0": false, "gone0": false} {
		if isRadio(dir, name) != want {
			t.Errorf("%s: radio %v", name, !want)
		}
	}
}
