package registry_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// Whatever a box says on whatever topic, the batch that it is in is taken, and the box next to it is heard.
func FuzzIngest(f *testing.F) {
	tails := []string{"state", "reported", "evt/7", "cmd/c1/ack", "tele"}
	for i, kind := range []string{"state", "reported", "event", "command-ack", "tele"} {
		files, err := filepath.Glob("../../mqttwire/testdata/examples/" + kind + "*.json") // those of docs/mqtt.md
		if err != nil || len(files) == 0 {
			f.Fatal(kind, files, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), data)
		}
	}
	g := open(f, registry.Options{Path: filepath.Join(f.TempDir(), "fleet.db"), Now: clock})
	if err := g.AddCommand(ctx, registry.Command{ID: "c1", Target: "box-a", Name: "verify", Expires: at.Add(time.Hour)},
		map[string][]byte{"box-a": []byte("{}")}); err != nil {
		f.Fatal(err)
	}
	seq := uint64(0)
	f.Fuzz(func(t *testing.T, tail byte, payload []byte) {
		topic, err := mqttwire.ParseTopic(mqttwire.BoxTopic("f", "box-a", tails[int(tail)%len(tails)]))
		if err != nil {
			t.Fatal(err)
		}
		seq++
		out := ingest(t, g, mqttwire.Message{Topic: topic, Payload: payload, Received: at},
			report(t, "box-b", env("epoch-one", 1, seq), func(*mqttwire.Reported) {}))
		heard := false
		for _, s := range out.Seen {
			heard = heard || s.Box == "box-b" && s.Reported
		}
		if !heard || len(out.Dropped) > 0 {
			t.Errorf("%+v", out)
		}
		if _, err := g.Box(ctx, "box-b"); err != nil {
			t.Error(err)
		}
	})
}
