package server_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"boxd/internal/asset"
	"boxd/internal/fleet/server"
)

// user makes a user and returns its token.
func (m *manager) user(t *testing.T, name, role, publisher string) string {
	t.Helper()
	var out struct{ Token string }
	m.must(t, http.MethodPost, "/api/v1/users", map[string]string{"name": name, "role": role, "publisher": publisher}, &out)
	return out.Token
}

// upload publishes bytes; chunked hides how many they are.
func (m *manager) upload(t *testing.T, token, query, content string, chunked bool) (status int, answer string) {
	t.Helper()
	var body io.Reader = strings.NewReader(content)
	if chunked {
		body = io.MultiReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, m.api+"/api/v1/assets/upload?"+query, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// The origin is for everybody's eyes: no path that a user gives may lead into the manager's own directory.
func TestNobodyPublishesTheManagersKeys(t *testing.T) {
	t.Parallel()
	dir, media, other := t.TempDir(), t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		filepath.Join(media, "film"): "film", filepath.Join(media, "set", "a"): "a", filepath.Join(other, "elsewhere"): "elsewhere",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := startManager(t, dir, func(o *server.Options) { o.Imports = []string{media} })
	operator, admin := m.user(t, "op", "operator", ""), m.token
	for link, to := range map[string]string{
		"token": filepath.Join(dir, "api-token"), "ca": filepath.Join(dir, "ca"), "set/key": filepath.Join(dir, "ca", "root.key"),
		"out": filepath.Join(other, "elsewhere"),
	} {
		if err := os.Symlink(to, filepath.Join(media, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		who, token, path string
		want             int
	}{
		{"operator", operator, filepath.Join(dir, "api-token"), http.StatusForbidden},
		{"operator", operator, filepath.Join(other, "elsewhere"), http.StatusForbidden},
		{"operator", operator, media + "/../" + filepath.Base(other) + "/elsewhere", http.StatusForbidden},
		{"operator", operator, filepath.Join(media, "token"), http.StatusBadRequest},
		{"operator", operator, filepath.Join(media, "out"), http.StatusBadRequest},
		{"operator", operator, filepath.Join(media, "ca", "root.key"), http.StatusBadRequest},
		{"operator", operator, filepath.Join(media, "set"), http.StatusBadRequest},
		{"operator", operator, filepath.Join(media, "film"), http.StatusOK},
		{"admin", admin, filepath.Join(dir, "api-token"), http.StatusBadRequest},
		{"admin", admin, filepath.Join(dir, "ca"), http.StatusBadRequest},
		{"admin", admin, filepath.Join(media, "token"), http.StatusBadRequest},
		{"admin", admin, filepath.Join(media, "set"), http.StatusBadRequest},
		{"admin", admin, filepath.Join(other, "elsewhere"), http.StatusOK},
	} {
		if got := m.do(t, c.token, http.MethodPost, "/api/v1/assets", map[string]string{"path": c.path}, nil); got != c.want {
			t.Errorf("%s publishes %s: %d, want %d", c.who, c.path, got, c.want)
		}
	}
	if err := os.Remove(filepath.Join(media, "set", "key")); err != nil {
		t.Fatal(err)
	}
	set := map[string]string{"path": filepath.Join(media, "set")}
	if got := m.do(t, operator, http.MethodPost, "/api/v1/assets", set, nil); got != http.StatusOK {
		t.Errorf("a directory without a link: %d", got)
	}
}

func TestAnImportDirectoryIsApartFromTheManagers(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "fleet")
	if err := server.Init(onAnyPort(dir)); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{parent, dir, filepath.Join(dir, "ca"), link, filepath.Join(parent, "none")} {
		o := onAnyPort(dir)
		o.Imports = []string{bad}
		s, err := server.Open(t.Context(), o)
		if err == nil {
			t.Errorf("%s is taken", bad)
			_ = s.Close()
		}
	}
}

// The operator's list of regions is read when the manager starts; one with faults is refused, with the line.
func TestAListOfRegionsIsReadAtTheStart(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(t.TempDir(), "regions")
	for text, want := range map[string]string{"203.0.113.0/24 north\n": "", "203.0.113.0/24\n": "line 1"} {
		if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o := onAnyPort(dir)
		o.Regions = list
		s, err := server.Open(t.Context(), o)
		if err == nil {
			err = s.Close()
		}
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A user of the role publisher moves nothing but its own, and brings no more than its quota.
func TestAPublisherIsKeptToItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := startManager(t, dir)
	for name, quota := range map[string]int{"aaa": 100, "victim": 0} {
		m.must(t, http.MethodPost, "/api/v1/publishers", map[string]any{"name": name, "quota": quota}, nil)
	}
	mine, theirs := m.user(t, "a", "publisher", "aaa"), m.user(t, "v", "publisher", "victim")
	var film struct{ ID asset.ID }
	status, data := m.upload(t, theirs, "file=film", "the film", false)
	if err := json.Unmarshal([]byte(data), &film); status != http.StatusOK || err != nil {
		t.Fatal(status, data, err)
	}
	id := film.ID.String()
	m.must(t, http.MethodPost, "/api/v1/campaigns", map[string]any{"id": "x", "name": "x", "v": 1, "assets": nil, "asset_ids": []string{id}}, nil)
	for query, want := range map[string]int{
		"file=b&replaces=" + id:                                 http.StatusNotFound,
		"file=b&replaces=" + strings.Repeat("ab", len(film.ID)): http.StatusNotFound,
		"file=b&publisher=victim":                               http.StatusForbidden,
	} {
		if got, data := m.upload(t, mine, query, "another", false); got != want {
			t.Errorf("%s: %d %s, want %d", query, got, data, want)
		}
	}
	for _, path := range []string{"/withdraw", "/readmit", "/withdraw?publisher=victim"} {
		if got := m.do(t, mine, http.MethodPost, "/api/v1/assets/"+id+path, map[string]any{}, nil); got != http.StatusForbidden {
			t.Errorf("%s of another's: %d", path, got)
		}
	}
	var c struct{ Assets []struct{ ID asset.ID } }
	m.must(t, http.MethodGet, "/api/v1/campaigns/x", nil, &c)
	if len(c.Assets) != 1 || c.Assets[0].ID != film.ID {
		t.Errorf("the campaign has %+v", c.Assets)
	}
	// The same bytes in its own name do not open the other's.
	if got, data := m.upload(t, mine, "file=film", "the film", false); got != http.StatusOK {
		t.Fatal(got, data)
	}
	m.must(t, http.MethodGet, "/api/v1/assets/"+id+"?publisher=victim", nil, nil)
	if got := m.do(t, mine, http.MethodDelete, "/api/v1/assets/"+id, nil, nil); got != http.StatusOK {
		t.Errorf("its own: %d", got)
	}
	m.must(t, http.MethodGet, "/api/v1/assets/"+id, nil, nil)
	for _, chunked := range []bool{false, true} {
		got, data := m.upload(t, mine, "file=big", string(bytes.Repeat([]byte("x"), 101)), chunked)
		if got != http.StatusForbidden || !strings.Contains(data, "quota") {
			t.Errorf("more than the quota, chunked %t: %d %s", chunked, got, data)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "origin"))
	if err != nil || len(entries) != 1 {
		t.Errorf("the origin has %v, %v", entries, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "staging")); err != nil || len(left) != 0 {
		t.Errorf("staging has %v, %v", left, err)
	}
}
