package web_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"boxd/internal/fleet/repo"
)

// signIn returns the cookie and the second half of a session.
func (f *fleet) signIn(token string) (cookie, csrf string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.url+"/sign-in", strings.NewReader(`{"token":"`+token+`"}`))
	must(f.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	must(f.t, err)
	defer resp.Body.Close()
	var me struct {
		CSRF string `json:"csrf"`
	}
	must(f.t, json.NewDecoder(resp.Body).Decode(&me))
	if resp.StatusCode != http.StatusOK || len(resp.Cookies()) != 1 {
		f.t.Fatalf("sign-in: %d, %d cookies", resp.StatusCode, len(resp.Cookies()))
	}
	c := resp.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || strings.Contains(c.Value, token) || c.MaxAge <= 0 {
		f.t.Errorf("cookie %+v", c)
	}
	return c.Name + "=" + c.Value, me.CSRF
}

func TestASessionChangesThingsOnlyFromOurOwnPages(t *testing.T) {
	f := startFleet(t)
	cookie, csrf := f.signIn(f.token)
	const path, body = "/api/v1/users", `{"name":"eve","role":"admin"}`
	for name, c := range map[string]struct {
		headers map[string]string
		want    int
	}{
		"a foreign form":            {map[string]string{"Cookie": cookie, "Sec-Fetch-Site": "cross-site"}, http.StatusUnauthorized},
		"another site that guesses": {map[string]string{"Cookie": cookie, "X-Csrf-Token": "guess"}, http.StatusUnauthorized},
		"another port of this host": {
			map[string]string{"Cookie": cookie, "X-Csrf-Token": csrf, "Sec-Fetch-Site": "same-site"}, http.StatusUnauthorized,
		},
		"a cookie that was changed": {map[string]string{"Cookie": cookie[:len(cookie)-2] + "AA", "X-Csrf-Token": csrf}, http.StatusUnauthorized},
		"no JSON": {
			map[string]string{"Cookie": cookie, "X-Csrf-Token": csrf, "Content-Type": "text/plain"}, http.StatusBadRequest,
		},
		"our own page": {map[string]string{"Cookie": cookie, "X-Csrf-Token": csrf, "Sec-Fetch-Site": "same-origin"}, http.StatusOK},
	} {
		if c.headers["Content-Type"] == "" {
			c.headers["Content-Type"] = "application/json"
		}
		if status, data := f.call("POST", path, body, c.headers); status != c.want {
			t.Errorf("%s: %d %s, want %d", name, status, data, c.want)
		}
	}
	if status, _ := f.call("GET", "/data/me", "", map[string]string{"Host": "x"}); status != http.StatusOK {
		t.Errorf("reading on loopback: %d", status)
	}
}

func TestAViewerLooksAndAnOperatorActs(t *testing.T) {
	f := startFleet(t)
	var made struct {
		Token string `json:"token"`
	}
	for role, want := range map[string]int{"viewer": http.StatusForbidden, "operator": http.StatusNotFound} { // there is no such campaign
		f.admin("POST", "/api/v1/users", map[string]string{"name": role + "-1", "role": role}, &made)
		cookie, csrf := f.signIn(made.Token)
		headers := map[string]string{"Cookie": cookie, "X-Csrf-Token": csrf, "Content-Type": "application/json"}
		if status, data := f.call("POST", "/api/v1/campaigns/none/state", `{"state":"paused"}`, headers); status != want {
			t.Errorf("%s: %d %s, want %d", role, status, data, want)
		}
		status, data := f.call("GET", "/data/me", "", headers)
		if status != http.StatusOK || !strings.Contains(string(data), `"role":"`+role+`"`) {
			t.Errorf("%s: %d %s", role, status, data)
		}
		// A session ends with its user.
		f.admin("DELETE", "/api/v1/users/"+role+"-1", nil, nil)
		if status, _ := f.call("POST", "/api/v1/campaigns/none/state", `{"state":"paused"}`, headers); status != http.StatusUnauthorized {
			t.Errorf("%s that was deleted: %d", role, status)
		}
	}
}

func TestPagesAllowNothingForeign(t *testing.T) {
	f := startFleet(t)
	for _, path := range []string{"/", "/static/app.js", "/static/fleet.css", "/static/style.css", "/static/charts.js"} {
		resp, err := http.Get(f.url + path)
		must(t, err)
		_ = resp.Body.Close()
		policy := resp.Header.Get("Content-Security-Policy")
		strict := strings.Contains(policy, "default-src 'none'") && !strings.Contains(policy, "unsafe")
		if resp.StatusCode != http.StatusOK || !strict || resp.Header.Get("ETag") == "" {
			t.Errorf("%s: %d, policy %q", path, resp.StatusCode, policy)
		}
	}
	for _, path := range []string{"/static/page.go", "/static/../web.go", "/static/nothing.js"} {
		if status, _ := f.call("GET", path, "", nil); status == http.StatusOK {
			t.Errorf("%s is served", path)
		}
	}
	page, err := os.ReadFile("static/index.html")
	must(t, err)
	for _, bad := range []string{"<style", "style=", " onclick", "http://", "https://"} {
		if strings.Contains(string(page), bad) {
			t.Errorf("index.html has %q", bad)
		}
	}
}

func TestADraftIsSignedElsewhere(t *testing.T) {
	f := startFleet(t)
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	pemPub, err := repo.MarshalPublicKey(pub)
	must(t, err)
	f.admin("POST", "/api/v1/publishers", map[string]string{"name": "acme", "public_key": string(pemPub)}, nil)
	var keys []struct {
		Name    string `json:"name"`
		KeyHere bool   `json:"key_here"`
	}
	f.admin("GET", "/data/publishers", nil, &keys)
	for _, k := range keys {
		if k.KeyHere != (k.Name == "operator") {
			t.Errorf("%+v", k)
		}
	}
	bearer := map[string]string{"Authorization": "Bearer " + f.token, "Content-Type": "application/json"}
	upload := "/api/v1/assets/upload?file=a.bin&name=Alpha&publisher=acme&draft=true"
	status, data := f.call("PUT", upload, strings.Repeat("alpha ", 9000), bearer)
	var out struct {
		ID    string      `json:"id"`
		Draft *repo.Draft `json:"draft"`
	}
	must(t, json.Unmarshal(data, &out))
	if status != http.StatusOK || out.Draft == nil {
		t.Fatalf("%d %s", status, data)
	}
	unsigned, err := json.Marshal(out.Draft)
	must(t, err)
	if status, _ := f.call("POST", "/data/drafts", string(unsigned), bearer); status != http.StatusConflict {
		t.Errorf("a draft that nobody signed: %d", status)
	}
	if status, _ := f.call("GET", "/api/v1/assets/"+out.ID, "", bearer); status != http.StatusNotFound {
		t.Errorf("an asset that is only drafted: %d", status)
	}
	must(t, repo.SignDraft(out.Draft, key))
	f.admin("POST", "/data/drafts", out.Draft, nil)
	if status, _ := f.call("GET", "/api/v1/assets/"+out.ID, "", bearer); status != http.StatusOK {
		t.Errorf("after the draft came back signed: %d", status)
	}
}
