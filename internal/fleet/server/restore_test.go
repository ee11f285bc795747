package server_test

import (
	"bytes"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"testing"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/server"
)

// A backup is unpacked on another machine: the boxes find their manager again, all that was proven is there, and every key
// still signs what boxes believe.
func TestABackupOnANewMachine(t *testing.T) {
	dir := t.TempDir()
	m := startManager(t, dir)
	b := startBox(t, m, firmwareToken(t, m))
	id, film := b.id.BoxID(), publishFilm(t, m, "film")
	b.hold(film)
	eventually(t, "a proof is delivered", func() bool { return len(m.proofs(t)) == 1 && b.mg.Status().Outbox == 0 })
	m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 1000}, nil)
	eventually(t, "the wish is applied", func() bool { return m.box(t, id).Desired == 1 })
	there := filepath.Join(t.TempDir(), "fleet")
	if err := server.Restore(there, m.backup(t)); err != nil {
		t.Fatal(err)
	}
	token, urls, version := m.token, configOf(t, filepath.Join(dir, "firmware")), b.cat.Snapshot().Version
	m.stop()

	b.hold(film, asset.ID{7}) // while there is no manager
	m = again(t, there, urls)
	if m.token != token {
		t.Error("the API's token is another one")
	}
	eventually(t, "the box is back and proves what came meanwhile", func() bool {
		return m.box(t, id).Online && len(m.proofs(t)) == 2 && b.mg.Status().Outbox == 0
	})
	m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 2000}, nil)
	eventually(t, "the operations key is the same, and the wish newer", func() bool {
		c := b.lastConfig()
		return c.WANDown != nil && *c.WANDown == 2000 && m.box(t, id).Desired > 1
	})
	m.must(t, http.MethodPost, "/api/v1/assets/"+film.String()+"/withdraw", map[string]any{}, nil)
	eventually(t, "the catalog's keys are the same, and it goes forward", func() bool {
		s := b.cat.Snapshot()
		return s.Version > version && len(s.Withdrawn) == 1
	})
	startBox(t, m, firmwareToken(t, m)) // the certificate authority enrols
	m.must(t, http.MethodPost, "/api/v1/boxes/"+id+"/revoke", map[string]string{"reason": "test"}, nil)
	eventually(t, "and revokes", func() bool { return !b.mg.Status().Connected })
}

// A backup of yesterday: since then wishes were changed, a box got its first own one, and a film was published. The boxes obey
// the restored manager, follow its catalog, and keep to what it wishes.
func TestBoxesObeyAManagerThatIsOlderThanTheyAre(t *testing.T) {
	dir := t.TempDir()
	m := startManager(t, dir)
	b, other := startBox(t, m, firmwareToken(t, m)), startBox(t, m, firmwareToken(t, m))
	id, later := b.id.BoxID(), other.id.BoxID()
	eventually(t, "the boxes are known", func() bool { return m.box(t, id).Online && m.box(t, later).Online })
	m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 1000}, nil)
	eventually(t, "the wish is applied", func() bool { return m.box(t, id).Desired == 1 })
	there := filepath.Join(t.TempDir(), "fleet")
	if err := server.Restore(there, m.backup(t)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // after the backup
		m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 1001 + i}, nil)
		m.must(t, http.MethodPut, "/api/v1/config/"+later, map[string]any{"wan_down": 5001 + i}, nil)
	}
	publishFilm(t, m, "film")
	eventually(t, "the wishes are applied", func() bool { return m.box(t, id).Desired == 4 && m.box(t, later).Desired == 3 })
	version, urls := b.cat.Snapshot().Version, configOf(t, filepath.Join(dir, "firmware"))
	m.stop()

	m = again(t, there, urls)
	wan := func(b *box, want int64) bool {
		c := b.lastConfig()
		return c.WANDown != nil && *c.WANDown == want
	}
	eventually(t, "what the manager wishes holds again", func() bool { return wan(b, 1000) })
	m.must(t, http.MethodPut, "/api/v1/config/"+id, map[string]any{"wan_down": 2000}, nil)
	eventually(t, "a new wish is obeyed", func() bool { return wan(b, 2000) })
	eventually(t, "a wish that the manager has forgotten is gone", func() bool { return other.lastConfig().WANDown == nil })
	eventually(t, "the operator is told", func() bool {
		var alerts []registry.Alert
		m.must(t, http.MethodGet, "/api/v1/alerts", nil, &alerts)
		return slices.ContainsFunc(alerts, func(a registry.Alert) bool { return a.Code == "wishes-ahead" && a.Box == later })
	})
	publishFilm(t, m, "another")
	eventually(t, "the catalog goes forward", func() bool { return b.cat.Snapshot().Version > version })
}

// backup asks for one.
func (m *manager) backup(t *testing.T) io.Reader {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.api+"/api/v1/backup", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+m.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	return bytes.NewReader(data)
}
