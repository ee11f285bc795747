package server_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/server"
	"boxd/internal/identity"
	"boxd/internal/mgmt"
)

const year = 365 * 24 * time.Hour

func (b *box) hold(ids ...asset.ID) {
	b.set(func(r *mgmt.Report) {
		r.Holdings = nil
		for _, id := range ids {
			r.Holdings = append(r.Holdings, mgmt.Holding{ID: id, Name: "film", Publisher: "operator", Size: 1})
		}
	})
}

func (m *manager) proofs(t *testing.T) (list []registry.Proof) {
	t.Helper()
	m.must(t, http.MethodGet, "/api/v1/proofs", nil, &list)
	return list
}

// again starts a manager on the directory and the ports of one that was stopped.
func again(t *testing.T, dir string, urls bundle, change ...func(*server.Options)) *manager {
	t.Helper()
	return startManager(t, dir, append([]func(*server.Options){func(o *server.Options) {
		o.Listen = strings.TrimPrefix(urls.url, "https://")
		o.MQTT = strings.TrimPrefix(urls.broker, "tls://")
	}}, change...)...)
}

// A manager whose clock is wrong by a year is not believed and believes nobody. When it is right again, nothing is missing.
func TestTheManagersClockIsAYearOff(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": year, "behind": -year} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := startManager(t, dir)
			b := startBox(t, m, firmwareToken(t, m))
			id, films := b.id.BoxID(), []asset.ID{publishFilm(t, m, "one"), publishFilm(t, m, "two")}
			b.hold(films[0])
			eventually(t, "a proof is delivered", func() bool { return len(m.proofs(t)) == 1 && b.mg.Status().Outbox == 0 })
			urls, version := configOf(t, filepath.Join(dir, "firmware")), b.cat.Snapshot().Version

			m.stop()
			m = again(t, dir, urls, func(o *server.Options) { o.Now = func() time.Time { return time.Now().Add(off) } })
			b.hold(films...)
			eventually(t, "the box has tried, and keeps its proof until it is taken", func() bool {
				st := b.mg.Status()
				return st.Outbox == 1 && !st.Connected && st.LastError != "" || st.Outbox == 0 && len(m.proofs(t)) == 2
			})
			if err := b.cat.Refresh(t.Context()); err == nil && b.cat.Snapshot().Version < version {
				t.Error("the catalog went back")
			}
			if got := b.cat.Snapshot(); !got.Fresh(time.Now()) || len(got.OperationsKeys) != 1 {
				t.Errorf("the box has lost its catalog: %+v", got)
			}

			m.stop()
			m = again(t, dir, urls)
			eventually(t, "the box is back and has proven the second", func() bool {
				return m.box(t, id).Online && len(m.proofs(t)) == 2 && b.mg.Status().Outbox == 0
			})
			var history []registry.Event
			m.must(t, http.MethodGet, "/api/v1/boxes/"+id+"/history", nil, &history)
			arrived := 0
			for _, e := range history {
				if e.Kind == "arrived" {
					arrived++
				}
			}
			if arrived != 2 {
				t.Errorf("%d arrivals in the history, want 2: %v", arrived, history)
			}
			m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 1000}, nil)
			eventually(t, "it obeys", func() bool { c := b.lastConfig(); return c.WANDown != nil && *c.WANDown == 1000 })
		})
	}
}

// A box whose clock nobody set takes the manager's time; what it proves says so.
func TestABoxsClockIsAYearOff(t *testing.T) {
	m := startManager(t, t.TempDir())
	film := publishFilm(t, m, "film")
	for name, off := range map[string]time.Duration{"ahead": year, "behind": -year} {
		t.Run(name, func(t *testing.T) {
			b := startBox(t, m, firmwareToken(t, m), func(o *identity.Options) {
				o.TimeSyncPath = ""
				o.Clock = func() time.Time { return time.Now().Add(off) }
			})
			id := b.id.BoxID()
			eventually(t, "the box is online", func() bool { return m.box(t, id).Online })
			b.hold(film)
			eventually(t, "the proof is delivered", func() bool { return m.box(t, id).Holdings == 1 && b.mg.Status().Outbox == 0 })
			for _, p := range m.proofs(t) {
				if d := time.Since(p.At); p.Box == id && (d > time.Hour || d < -time.Hour) {
					t.Errorf("the proof is of %s", p.At)
				}
			}
			if skew := m.box(t, id).ClockSkewMS; skew > 60_000 || skew < -60_000 {
				t.Errorf("it reports %d ms off", skew)
			}
			var cmd struct{ ID string }
			m.must(t, http.MethodPost, "/api/v1/commands", map[string]any{"target": id, "name": "refresh", "life": "1h"}, &cmd)
			eventually(t, "the command is done", func() bool {
				var got registry.Command
				m.do(t, m.token, http.MethodGet, "/api/v1/commands/"+cmd.ID, nil, &got)
				return got.Counts["done"] == 1
			})
		})
	}
}
