package web_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"boxd/internal/asset"
	"boxd/internal/browsertest"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/mqttwire"
)

const gib = 1 << 30

// scene is a fleet as it might be on an evening: 240 boxes, most online, one campaign done, one under way, one staged.
type scene struct {
	*fleet
	film, series, ads asset.ID
	night             string // campaign that is under way
}

func newScene(t *testing.T) *scene {
	s := &scene{fleet: startFleet(t)}
	s.film, s.ads = s.publish("Tears of Light", "4K", 700_000), s.publish("Spring spots", "12", 90_000)
	s.series = s.publish("Harbour Street", "season 2", 900_000)
	groups := []string{"north", "south", "pilot"}
	in := map[string]string{}
	for n := range 240 {
		in[boxID(n)] = groups[min(n%7/3, 2)]
	}
	must(t, s.reg.PutBoxes(t.Context(), in))
	now := time.Now()
	due := now.Add(7 * time.Hour).Truncate(time.Hour)
	windows := []map[string]any{
		{"from": "01:00", "to": "06:00"},
		{"from": "22:30", "to": "23:30", "days": []string{"sat", "sun"}, "rate_bytes_per_second": 1_000_000},
	}
	spots := s.campaign(map[string]any{"name": "Spring spots", "group": "south", "deadline": now.Add(-2 * time.Hour)}, s.ads)
	s.night = s.campaign(map[string]any{"name": "Friday premiere", "group": "north", "deadline": due, "windows": windows}, s.film)
	staged := s.campaign(map[string]any{
		"name": "Harbour Street, season 2", "group": "south", "deadline": now.Add(40 * time.Hour),
		"staged": map[string]any{"stages": []map[string]any{
			{"per_mille": 100, "hold": "1h"}, {"per_mille": 400, "hold": "4h"}, {"per_mille": 1000},
		}, "stage": 0, "done": false},
	}, s.series)
	s.began(spots, 22*time.Hour)
	s.began(s.night, 6*time.Hour)
	s.began(staged, 50*time.Minute)
	s.speak(in, now)
	found, err := s.reg.FindAlerts(t.Context(), registry.AlertRules{OfflineBefore: now.Add(-time.Hour), MaxSkew: time.Minute, MinFree: gib})
	must(t, err)
	must(t, s.reg.SetAlerts(t.Context(), found))
	return s
}

// speak lets every box report and prove, some of them with trouble.
func (s *scene) speak(in map[string]string, now time.Time) {
	var msgs []mqttwire.Message
	place := map[string]int{}
	for n := range 240 {
		box := boxID(n)
		group := in[box]
		place[group]++
		k := place[group]
		if n%29 == 3 { // long silent
			e := s.envelope(box, now.Add(-9*time.Hour))
			msgs = append(msgs, s.message(box, "state", now.Add(-9*time.Hour), &mqttwire.State{Envelope: e, Online: true, Software: "1.4.1"}))
			e = s.envelope(box, now.Add(-8*time.Hour))
			msgs = append(msgs, s.message(box, "state", now.Add(-8*time.Hour), &mqttwire.State{Envelope: e, Reason: "shutdown"}))
			continue
		}
		if group == "south" {
			at := now.Add(-time.Duration(1320-k*9) * time.Minute)
			lan := int64(k%3) * 100 << 20
			msgs = append(msgs, s.arrival(box, s.ads, 300<<20, at, mqttwire.Traffic{LAN: lan, Peer: 280<<20 - lan, Origin: 20 << 20}))
		}
		done := group == "north" && k < 62
		if done {
			at := now.Add(-time.Duration(350-k*k/14) * time.Minute)
			lan, origin := int64(k%2)*2*gib, int64(max(20-k, 1))<<26
			msgs = append(msgs, s.arrival(box, s.film, 4*gib, at, mqttwire.Traffic{LAN: lan, Peer: 4*gib - lan - origin, Origin: origin}))
		}
		msgs = append(msgs, s.report(box, func(r *mqttwire.Reported) {
			r.Traffic = mqttwire.Traffic{LAN: int64(n%5) * 3 * gib, Peer: int64(20+n%9) * gib, Origin: 2 * gib, SentL: int64(n%4) * gib}
			r.Household = n % 3
			for k := range n % 3 { // the next boxes are in its home
				r.Home = append(r.Home, mqttwire.Shared{Box: boxID(n + k + 1), Got: int64(k+1) * gib, Gave: gib / 2})
			}
			if n%8 == 1 {
				r.Software = "1.4.1"
			}
			if group == "north" && !done {
				r.Assets = []mqttwire.AssetProgress{{
					ID: s.film, State: mqttwire.Fetching, Have: int64(k%9) * gib / 3, Size: 4 * gib, Role: "courier",
					Late:  k%11 == 0,
					Bytes: mqttwire.Traffic{LAN: int64(k%9) * gib / 9, Peer: int64(k%9) * gib / 6, Origin: int64(k%9) * gib / 18},
					Why:   "on its way from 7 peers",
				}}
			}
			if n == 14 || n%83 == 5 {
				r.Health = []mqttwire.Warning{{
					Code: "disk-slow", Severity: "warning", Text: "The disk answers slowly: fetching waits for it.", Since: now.Add(-3 * time.Hour),
				}}
			}
		}))
	}
	s.ingest(msgs...)
}

func TestDashboardInChromium(t *testing.T) {
	b := newBrowser(t)
	s := newScene(t)
	b.Do(chromedp.EmulateViewport(1440, 900), chromedp.Navigate(s.url+"/"))
	b.Until(`document.querySelectorAll('#campaigns .rows > li').length === 3`)
	b.Until(`/of 240 boxes are online/.test(document.querySelector('h1').textContent)`)
	b.looks("overview")

	// Any box in two clicks.
	b.Do(chromedp.Click(`#nav a[href="#/boxes"]`))
	b.Until(`document.querySelectorAll('tbody tr').length === 50`)
	b.looks("boxes")
	b.Do(chromedp.Click(`tbody tr:nth-child(15) a`))
	b.Until(`document.querySelector('h1').textContent === 'box-00014'`)
	b.Until(`!!document.querySelector('#disk svg') && !!document.querySelector('#day svg')`)
	b.Until(`/box-00016 gave this box/.test(document.querySelector('#home svg')?.getAttribute('aria-label'))`)
	b.looks("box")

	b.Do(chromedp.Navigate(s.url + "/#/campaigns/" + s.night))
	b.Until(`document.querySelector('h1').textContent === 'Friday premiere' && !!document.querySelector('#curve path.line')`)
	if browsertest.Eval[bool](b.Browser, `!!document.querySelector('[data-do=pause]')`) {
		t.Error("somebody who has not signed in is offered to pause")
	}
	signInByKeyboard(t, b, s.token)
	b.Until(`!!document.querySelector('[data-do=pause]')`)
	b.looks("campaign")
	publishFromThePage(t, b, s)
	draftFromThePage(t, b, s)
	b.Clean()
}

// tabTo presses Tab until the JavaScript expression about the focused element holds.
func tabTo(t *testing.T, b *browser, js string) {
	t.Helper()
	for range 40 {
		b.Do(chromedp.KeyEvent(kb.Tab))
		if browsertest.Eval[bool](b.Browser, js) {
			if !browsertest.Eval[bool](b.Browser, `getComputedStyle(document.activeElement).outlineStyle !== 'none'`) {
				t.Errorf("%s: the focus is not shown", js)
			}
			return
		}
	}
	t.Fatalf("the keyboard does not reach %s", js)
}

func signInByKeyboard(t *testing.T, b *browser, token string) {
	t.Helper()
	b.Do(chromedp.Focus("#main"))
	browsertest.Eval[bool](b.Browser, `document.querySelector('.skip').focus(), true`)
	tabTo(t, b, `document.activeElement.id === 'sign'`)
	b.Do(chromedp.KeyEvent(kb.Enter))
	b.Until(`document.activeElement.id === 'token'`)
	b.Do(chromedp.KeyEvent("wrong"), chromedp.KeyEvent(kb.Enter))
	b.Until(`/not known/.test(document.querySelector('dialog [role=alert]').textContent)`)
	b.Forgive() // the browser notes the refusal itself
	browsertest.Eval[bool](b.Browser, `document.getElementById('token').value = '', document.getElementById('token').focus(), true`)
	b.Do(chromedp.KeyEvent(token), chromedp.KeyEvent(kb.Enter))
	b.Until(`!document.getElementById('dialog').open && /sign out/.test(document.getElementById('sign').textContent)`)
	if browsertest.Eval[bool](b.Browser, `document.cookie !== '' || Object.keys(localStorage).length + Object.keys(sessionStorage).length > 0`) {
		t.Error("a script can read the session")
	}
}

// publishFromThePage publishes a file, starts a campaign, sees it arrive, pauses, resumes and aborts it.
func publishFromThePage(t *testing.T, b *browser, s *scene) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "late-show.bin")
	must(t, os.WriteFile(path, []byte(strings.Repeat("late show ", 30_000)), 0o600))
	b.Do(chromedp.Click(`#nav a[href="#/publish"]`))
	b.Until(`!!document.querySelector('#preview svg')`)
	b.Do(chromedp.SetUploadFiles("#file", []string{path}))
	b.Until(`document.getElementById('title').value === 'late-show' && document.getElementById('campaign').value === 'late-show'`)
	b.Do(chromedp.Click("#add-window"))
	b.Until(`document.querySelectorAll('fieldset.window').length === 1`)
	b.Until(`/may be used for/.test(document.getElementById('preview-words').textContent)`)
	if !browsertest.Eval[bool](b.Browser, `document.getElementById('key-note').classList.contains('warn')`) {
		t.Error("a key on the server is not shown as a warning")
	}
	browsertest.Eval[bool](b.Browser, `document.getElementById('group').value = 'pilot', true`)
	b.looks("publish")
	b.Do(chromedp.Click("form.publish button[type=submit]"))
	b.Until(`document.querySelector('h1').textContent === 'late-show'`)
	b.Until(`/^0 of \d+ boxes$/.test(document.querySelector('.facts dd small').textContent)`)

	page, err := s.reg.BoxPage(t.Context(), registry.BoxQuery{Group: "pilot", Limit: 200})
	must(t, err)
	var list []struct {
		ID   asset.ID `json:"id"`
		Name string   `json:"name"`
	}
	s.admin("GET", "/api/v1/assets", nil, &list)
	var id asset.ID
	for _, a := range list {
		if a.Name == "late-show" {
			id = a.ID
		}
	}
	arrive := func(from, to int) {
		var msgs []mqttwire.Message
		for _, x := range page.Boxes[from:to] {
			msgs = append(msgs, s.arrival(x.ID, id, 300_000, time.Now(), mqttwire.Traffic{LAN: 200_000, Peer: 90_000, Origin: 10_000}))
		}
		s.ingest(msgs...)
	}
	half := len(page.Boxes) / 2
	arrive(0, half)
	shows := func(n int) {
		t.Helper()
		b.Until(fmt.Sprintf(`document.querySelector('.facts dd small').textContent === '%d of %d boxes'`, n, len(page.Boxes)))
	}
	shows(half)

	b.Do(chromedp.Click("[data-do=pause]"))
	b.Until(`document.getElementById('dialog').open && document.activeElement.id === 'why'`)
	b.Shot("pause")
	b.Do(chromedp.KeyEvent(kb.Escape))
	b.Until(`!document.getElementById('dialog').open`)
	b.Do(chromedp.Click("[data-do=pause]"))
	b.Until(`document.getElementById('dialog').open`)
	b.Do(chromedp.KeyEvent("the caterer is late"), chromedp.KeyEvent(kb.Enter))
	b.Until(`document.querySelector('.headline .pill').textContent === 'paused'`)
	b.Until(`/caterer/.test(document.querySelector('.why').textContent)`)
	b.Do(chromedp.Click("[data-do=resume]"))
	b.Until(`document.getElementById('dialog').open`)
	b.Do(chromedp.KeyEvent(kb.Enter))
	b.Until(`document.querySelector('.headline .pill').textContent === 'running'`)
	arrive(half, len(page.Boxes))
	shows(len(page.Boxes))
	b.Until(`/Complete since/.test(document.getElementById('curve-words').textContent)`)
	// It came within seconds, and can be seen nevertheless.
	b.Until(`(a => a.width >= 9 && a.height > 100)(document.querySelector('#curve path.area').getBBox())`)

	b.Do(chromedp.Click("[data-do=abort]"))
	b.Until(`document.getElementById('dialog').open`)
	b.Do(chromedp.Click("dialog button[type=submit]"))
	b.Until(`/not the same/.test(document.querySelector('dialog [role=alert]').textContent)`)
	b.Shot("abort")
	b.Do(chromedp.SendKeys("#sure", "late-show"), chromedp.Click("dialog button[type=submit]"))
	b.Until(`document.querySelector('.headline .pill').textContent === 'aborted' && !document.querySelector('[data-do=pause]')`)
	audit, err := s.reg.AuditLog(context.Background(), 0, 10)
	must(t, err)
	if audit[0].Action != "campaign-aborted" || audit[0].Who != "admin" {
		t.Errorf("the audit log ends with %+v", audit[0])
	}
}

// draftFromThePage starts a campaign while the campaigns key is elsewhere: the page gives a draft, and takes it signed.
func draftFromThePage(t *testing.T, b *browser, s *scene) {
	t.Helper()
	file := filepath.Join(s.dir, "keys", "campaigns.pem")
	data, err := os.ReadFile(file)
	must(t, err)
	key, err := repo.ParseKey(data)
	must(t, err)
	must(t, os.Remove(file))
	b.Do(chromedp.Click(`#nav a[href="#/publish"]`))
	b.Until(`!!document.querySelector('#preview svg') && document.getElementById('asset').options.length > 1`)
	browsertest.Eval[bool](b.Browser, `window.drafts = [], (make => { URL.createObjectURL = x => (x.text().then(d => drafts.push(d)), make(x)); })(URL.createObjectURL.bind(URL)), true`)
	browsertest.Eval[bool](b.Browser, `(a => { a.value = a.options[1].value; a.dispatchEvent(new Event('change', { bubbles: true })); return true; })(document.getElementById('asset'))`)
	browsertest.Eval[bool](b.Browser, `(c => { c.value = 'Signed elsewhere'; c.dispatchEvent(new Event('input', { bubbles: true })); return true; })(document.getElementById('campaign'))`)
	b.Do(chromedp.Click("form.publish button[type=submit]"))
	b.Until(`document.activeElement.id === 'draft-file' && drafts.length === 1`)
	b.Axe("a draft of a campaign")
	b.Shot("draft")
	back := signDraft(t, b, 0, key)
	b.Do(chromedp.SetUploadFiles("#signed", []string{back}))
	b.Until(`(h => h && h.textContent === 'Signed elsewhere')(document.querySelector('.headline h1'))`)
	b.Until(`document.querySelector('.headline .pill').textContent === 'running'`)
	signLater(t, b, s, key)
}

// signDraft signs the page's draft number n and returns the file that it is then in.
func signDraft(t *testing.T, b *browser, n int, key ed25519.PrivateKey) string {
	t.Helper()
	d, err := repo.ParseDraft([]byte(browsertest.Eval[string](b.Browser, fmt.Sprintf(`drafts[%d]`, n))))
	must(t, err)
	must(t, repo.SignDraft(d, key))
	data, err := json.Marshal(d)
	must(t, err)
	back := filepath.Join(t.TempDir(), "signed.json")
	must(t, os.WriteFile(back, data, 0o600))
	return back
}

// signLater finds a campaign that waits for its signature, cancels the signing of it, which changes nothing, and signs it then.
func signLater(t *testing.T, b *browser, s *scene, key ed25519.PrivateKey) {
	t.Helper()
	var c struct {
		ID string `json:"id"`
	}
	s.admin("POST", "/api/v1/campaigns?draft=true", map[string]any{
		"v": 1, "name": "Signed later", "group": "pilot", "asset_ids": []asset.ID{s.film},
	}, &c)
	browsertest.Eval[bool](b.Browser, fmt.Sprintf(`drafts = [], location.hash = '#/campaigns/%s', true`, c.ID))
	pill := func(state string) string {
		return fmt.Sprintf(`(p => p && p.textContent === '%s')(document.querySelector('.headline .pill'))`, state)
	}
	b.Until(`(h => h && h.textContent === 'Signed later')(document.querySelector('.headline h1'))`)
	b.Until(pill("drafted"))
	for n := 1; n <= 2; n++ {
		b.Do(chromedp.Click("[data-do=sign]"))
		b.Until(`document.getElementById('dialog').open && document.activeElement.id === 'why'`)
		b.Do(chromedp.KeyEvent(kb.Enter))
		b.Until(fmt.Sprintf(`drafts.length === %d && document.getElementById('dialog').open && `+
			`document.getElementById('dialog-title').textContent === 'Sign the change'`, n))
		if n == 1 {
			b.Axe("the signing of a change")
			b.Shot("sign")
			b.Do(chromedp.KeyEvent(kb.Escape))
			b.Until(`!document.getElementById('dialog').open`)
			b.Until(pill("drafted"))
			if said := browsertest.Eval[string](b.Browser, `document.getElementById('toast').textContent`); said == "Signed." {
				t.Error("a change whose signing was cancelled is called signed")
			}
		}
	}
	b.Do(chromedp.SetUploadFiles("#signed", []string{signDraft(t, b, 1, key)}), chromedp.Click("dialog button[type=submit]"))
	b.Until(pill("running"))
}
