package api

import (
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
)

// An export that breaks in the middle does not look complete to its reader.
func TestABrokenExportIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	g, err := registry.Open(t.Context(), registry.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const rows = 2500
	var values []string
	for i := range rows {
		id := fmt.Sprintf("%040x", i+1)
		if i == rows-100 {
			id = "unreadable" // stands for any fault of the database in the middle
		}
		values = append(values, fmt.Sprintf("('box', 'e', %d, 'arrived', '%s', 'n', 'p', 'c', 1, 0, 0, 0, %d, 1, '', %d)", i, id, i, i))
	}
	if _, err := db.Exec("INSERT INTO proofs VALUES " + strings.Join(values, ",")); err != nil {
		t.Fatal(err)
	}
	token := strings.Repeat("a", 48)
	srv := httptest.NewServer(New(Options{Fleet: operate.New(operate.Options{ID: "f", Registry: g}), Token: token}))
	defer srv.Close()
	read := func(query string) (string, error) {
		req, err := http.NewRequest(http.MethodGet, srv.URL+"/api/v1/proofs?"+query, nil)
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
		return string(data), err
	}
	for _, format := range []string{"csv", "json"} {
		if data, err := read("format=" + format); err == nil {
			t.Errorf("%s: %d lines, and the reader believes that they are all", format, strings.Count(data, "\n"))
		}
		data, err := read("limit=10&format=" + format)
		if lines := strings.Count(data, "\n"); err != nil || lines < 10 || lines > 11 {
			t.Errorf("%s: %d lines of 10 proofs, %v", format, lines, err)
		}
	}
}
