package server_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// What cannot work is refused with a reason, and what was there stays as it was.
func TestTheAPIRefusesWhatCannotWork(t *testing.T) {
	m := startManager(t, t.TempDir())
	m.must(t, http.MethodPost, "/api/v1/users", map[string]string{"name": "alice", "role": "admin"}, nil)
	for _, c := range []struct {
		method, path string
		in           any
		want         int
	}{
		{http.MethodPost, "/api/v1/users", map[string]string{"name": "alice", "role": "viewer"}, http.StatusConflict},
		{
			http.MethodPost, "/api/v1/users",
			map[string]string{"name": "bob", "role": "publisher", "publisher": "nobody"},
			http.StatusBadRequest,
		},
		{http.MethodPost, "/api/v1/tokens", map[string]string{"group": "north", "box": "group"}, http.StatusBadRequest},
		{http.MethodPost, "/api/v1/boxes/box-1/group", map[string]string{"group": ""}, http.StatusBadRequest},
		{http.MethodPost, "/api/v1/boxes/box-1/group", map[string]string{"group": "-n"}, http.StatusBadRequest},
		{http.MethodGet, "/api/v1/boxes/nosuch/history", nil, http.StatusNotFound},
		{http.MethodGet, "/api/v1/config/nosuch", nil, http.StatusNotFound},
	} {
		if got := m.do(t, m.token, c.method, c.path, c.in, nil); got != c.want {
			t.Errorf("%s %s %v: status %d, want %d", c.method, c.path, c.in, got, c.want)
		}
	}
	var fleet struct {
		Roles []struct{ Role string } `json:"catalog_roles"`
	}
	m.must(t, http.MethodGet, "/api/v1/fleet", nil, &fleet)
	if len(fleet.Roles) < 6 {
		t.Errorf("the expiry of %d roles", len(fleet.Roles))
	}
	if err := os.Remove(filepath.Join(m.dir, "keys", "targets.pem")); err != nil {
		t.Fatal(err)
	}
	if got := m.do(t, m.token, http.MethodPost, "/api/v1/publishers", map[string]string{"name": "bob"}, nil); got == http.StatusOK {
		t.Error("added without the targets key")
	}
	if _, err := os.Stat(filepath.Join(m.dir, "keys", "publisher-bob.pem")); err == nil {
		t.Error("a publisher that was not added left its key")
	}
}
