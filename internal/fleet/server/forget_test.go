package server_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"boxd/internal/fleet/registry"
)

// A box that was revoked counts no more, and can be forgotten; a new one of its name counts again.
func TestARevokedBoxIsForgotten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := startManager(t, dir)
	b := startBox(t, m, firmwareToken(t, m))
	id := b.id.BoxID()
	eventually(t, "the box is known", func() bool { return m.box(t, id).Online })
	if got := m.do(t, m.token, http.MethodDelete, "/api/v1/boxes/"+id, nil, nil); got != http.StatusConflict {
		t.Errorf("a member is forgotten: %d", got)
	}
	uploads := filepath.Join(dir, "uploads", id)
	if err := os.MkdirAll(uploads, 0o700); err != nil {
		t.Fatal(err)
	}
	m.must(t, http.MethodPost, "/api/v1/boxes/"+id+"/revoke", map[string]string{"reason": "test"}, nil)
	boxes := func() (n int) {
		var list []registry.GroupCount
		m.must(t, http.MethodGet, "/api/v1/groups", nil, &list)
		for _, g := range list {
			n += g.Boxes
		}
		return n
	}
	if n := boxes(); n != 0 {
		t.Errorf("%d boxes are counted", n)
	}
	eventually(t, "its connections are closed", func() bool { return !b.mg.Status().Connected })
	eventually(t, "its end is known", func() bool { return !m.box(t, id).Online })
	listed := func(query string) (list []registry.Box) {
		m.must(t, http.MethodGet, "/api/v1/boxes?"+query, nil, &list)
		return list
	}
	page := func(state string) (p registry.BoxPage) {
		m.must(t, http.MethodGet, "/data/boxes?state="+state, nil, &p)
		return p
	}
	if list := listed("brief=true"); len(list) != 0 || page("").Total != 0 {
		t.Errorf("it is listed among the members: %v", list)
	}
	list, out := listed("revoked=true&brief=true"), page("revoked")
	if len(list) != 1 || len(out.Boxes) != 1 || list[0].Revoked.IsZero() || out.Boxes[0].Revoked.IsZero() || m.box(t, id).Revoked.IsZero() {
		t.Errorf("nothing says that it was revoked: %+v, %+v", list, out)
	}
	m.must(t, http.MethodDelete, "/api/v1/boxes/"+id, nil, nil)
	if got := m.do(t, m.token, http.MethodGet, "/api/v1/boxes/"+id, nil, nil); got != http.StatusNotFound {
		t.Errorf("it is still there: %d", got)
	}
	if _, err := os.Stat(uploads); !os.IsNotExist(err) {
		t.Errorf("what it uploaded: %v", err)
	}
	var tok struct{ Token string }
	m.must(t, http.MethodPost, "/api/v1/tokens", map[string]any{"box": id, "replace": true}, &tok)
	next := startBox(t, m, tok.Token)
	eventually(t, "one of its name is known and counts", func() bool { return next.id.BoxID() == id && m.box(t, id).Online && boxes() == 1 })
}
