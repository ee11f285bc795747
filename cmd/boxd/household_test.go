package main

import (
	"bytes"
	"net/http"
	"os"
	"testing"
	"time"

	"boxd/internal/cache"
	"boxd/internal/control"
)

func TestSpaceClass(t *testing.T) {
	const gib = 1 << 30
	for name, c := range map[string]struct {
		usage cache.Usage
		want  int
	}{
		"empty":                  {cache.Usage{Quota: 20 * gib, Reserve: gib, Free: 100 * gib}, 0},
		"quota nearly taken":     {cache.Usage{Used: 19 * gib, Quota: 20 * gib, Reserve: gib, Free: 100 * gib}, 1},
		"half full":              {cache.Usage{Used: 10 * gib, Quota: 20 * gib, Reserve: gib, Free: 100 * gib}, 0},
		"others fill the disk":   {cache.Usage{Used: 10 * gib, Quota: 20 * gib, Reserve: gib, Free: 3 * gib / 2}, 1},
		"no room at all":         {cache.Usage{Quota: 20 * gib, Reserve: gib, Free: gib / 2}, 1},
		"no quota":               {cache.Usage{Used: 10 * gib, Reserve: gib, Free: 100 * gib}, 0},
		"the disk does not tell": {cache.Usage{Used: gib, Quota: 20 * gib, Free: -1, Total: -1}, 0},
	} {
		if got := spaceClass(c.usage); got != c.want {
			t.Errorf("%s: class %d, want %d", name, got, c.want)
		}
	}
}

// TestPlaysFromTheOtherBox: what has no room on one box is played from the other, and crosses the access line once.
func TestPlaysFromTheOtherBox(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	f := newFleet(t)
	pa, pb := freePort(t), freePort(t)
	a := f.box("a", "[swarm]\nlisten = \"127.0.0.1:"+pa+"\"\n", "127.0.0.1:"+pb).start()
	b := f.box("b", "[swarm]\nlisten = \"127.0.0.1:"+pb+"\"\n", "127.0.0.1:"+pa)
	text, err := os.ReadFile(b.file)
	must(t, err)
	must(t, os.WriteFile(b.file, bytes.Replace(text, []byte(`"1GiB"`), []byte(`"16MiB"`), 1), 0o600))
	b.start()
	for _, box := range []*testBox{a, b} {
		box.until("sees the other", 30*time.Second, func(s *control.Snapshot) bool { return len(s.Home) == 1 })
	}
	file, data := mediaFile(t, "film.mp4", 24<<20)
	id := f.publish(file, "The Film", nil)
	a.has(id, 90*time.Second)
	s := b.until("refuses it", 30*time.Second, func(s *control.Snapshot) bool {
		x, _ := s.Asset(id.String())
		return x.State == control.Rejected && len(s.Home) == 1 && s.Home[0].Holds == 1
	})
	x, _ := s.Asset(id.String())
	if resp, body := b.get(s.Box.HTTP + x.Files[0].URL); resp.StatusCode != http.StatusOK || !bytes.Equal(body, data) {
		t.Errorf("playout from the other box: %s, %d bytes", resp.Status, len(body))
	}
	if sent := f.origin.Sent(id).Bytes; float64(sent) > 1.02*float64(len(data)) {
		t.Errorf("the origin sent %.3f copies", float64(sent)/float64(len(data)))
	}
}
