package mgmt

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// Whatever a broker sends on whatever topic, signed or not, the session goes on, and what the box keeps stays bounded.
func FuzzReceive(f *testing.F) {
	files, err := filepath.Glob("../mqttwire/testdata/examples/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	const own = "boxd/v1/f1/box-a/"
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, tail := range []string{"desired", "cmd/c1", "evt/204/ack", "state"} {
			f.Add(own+tail, data)
		}
		for _, m := range []Message{{Kind: "desired", To: "box-a", Payload: data}, {Kind: "command", ID: "c1", To: "box-a", Payload: data}} {
			if raw, err := json.Marshal(m); err == nil {
				f.Add(own+"desired", raw)
				f.Add(own+"cmd/c1", raw)
				f.Add("boxd/v1/f1/group/living/desired", raw)
			}
		}
	}
	f.Add("#", []byte("forged"))
	db, err := bbolt.Open(filepath.Join(f.TempDir(), "state.db"), 0o600, &bbolt.Options{Timeout: time.Second, NoSync: true})
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	m, err := New(options(newFakeBox(), db))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		s := &session{m: m, fleet: "f1", box: "box-a", sent: map[uint64]time.Time{7: {}}}
		if err := s.receive(t.Context(), inbound{topic: topic, payload: payload}); err != nil {
			t.Fatal(err)
		}
		for _, queue := range []chan Message{m.cmds.queue, m.cmds.slow} {
			for len(queue) > 0 {
				if err := m.cmds.handle(t.Context(), <-queue); err != nil {
					t.Fatal(err)
				}
			}
		}
		acks, err := m.outbox.after(0, 1000) // the manager would acknowledge at once
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range acks {
			if r.Answer != nil {
				err = m.outbox.remove([]uint64{r.Answer.Evt})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if len(m.desired.wishes) > maxTargets || len(m.desired.waiting) > maxTargets || len(s.acked) > 1 {
			t.Errorf("%d wishes, %d waiting, %d acknowledged", len(m.desired.wishes), len(m.desired.waiting), len(s.acked))
		}
	})
}
