package server_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/repo"
)

// The campaigns key is not on the server: campaigns and their changes are drafted there and signed elsewhere.
func TestCampaignsAreSignedElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := startManager(t, dir)
	b := startBox(t, m, firmwareToken(t, m))
	film := publishFilm(t, m, "film")
	file := filepath.Join(dir, "keys", "campaigns.pem")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := repo.ParseKey(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	request := map[string]any{"v": 1, "id": "tonight", "name": "Tonight", "assets": nil, "asset_ids": []string{film.String()}}
	if status := m.do(t, m.token, http.MethodPost, "/api/v1/campaigns", request, nil); status == http.StatusOK {
		t.Fatal("it was signed without the key")
	}
	signed := func(path string, in any) {
		t.Helper()
		var out struct{ Draft *repo.Draft }
		m.must(t, http.MethodPost, path+"?draft=true", in, &out)
		if out.Draft == nil {
			t.Fatal("no draft")
		}
		if err := repo.SignDraft(out.Draft, key); err != nil {
			t.Fatal(err)
		}
		back, err := json.Marshal(out.Draft)
		if err != nil {
			t.Fatal(err)
		}
		m.must(t, http.MethodPost, "/data/drafts", json.RawMessage(back), nil)
	}
	signed("/api/v1/campaigns", request)
	eventually(t, "the box has the campaign", func() bool { return b.campaignOf("tonight") != nil })
	eventually(t, "the manager knows that it runs", func() bool {
		var c operate.Campaign
		m.must(t, http.MethodGet, "/api/v1/campaigns/tonight", nil, &c)
		return c.State == operate.CampaignRunning
	})
	signed("/api/v1/campaigns/tonight/state", map[string]string{"state": "paused"})
	eventually(t, "the box knows that it is paused", func() bool { c := b.campaignOf("tonight"); return c != nil && c.Paused })
	signed("/api/v1/campaigns/tonight/state", map[string]string{"state": "aborted"})
	eventually(t, "it is gone from the box", func() bool { return b.campaignOf("tonight") == nil })
}
