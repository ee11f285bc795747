package server_test

import (
	"io"
	"net/http"
	"path/filepath"
	"testing"

	"boxd/internal/asset"
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
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	there := filepath.Join(t.TempDir(), "fleet")
	if err := server.Restore(there, resp.Body); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
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
		return c.WANDown != nil && *c.WANDown == 2000 && m.box(t, id).Desired == 2
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
