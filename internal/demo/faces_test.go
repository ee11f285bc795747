package demo

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"boxd/internal/browsertest"
)

// TestEveningInABrowser is an operator's evening and a viewer's: sign in at the dashboard, publish a film from the page,
// see it arrive on every box, then watch it on a box's own page. All programs are real, nothing comes from elsewhere.
func TestEveningInABrowser(t *testing.T) {
	o := options(t)
	o.NoCampaign = true
	began := time.Now()
	took := func(what string) { t.Logf("%5.1f s: %s", time.Since(began).Seconds(), what) }
	b := browsertest.New(t, "../../out/screens/evening-")
	took("a browser")
	h := start(t, o)
	took("a fleet")
	b.Do(chromedp.EmulateViewport(1440, 900), chromedp.Navigate(h.Fleet.API()+"/"))
	b.Until(`/All 3 boxes are online/.test((document.querySelector('h1') || {}).textContent)`)
	took("three boxes on the page")
	signIn(b, strings.TrimPrefix(h.Fleet.auth().Get("Authorization"), "Bearer "))
	took("signed in")
	publishFromThePage(b, h)
	took("the film is on every box")
	b.Shot("arrived")
	playOnABox(t, b, h.Boxes[2])
	took("it was watched")
	b.Clean()
}

func signIn(b *browsertest.Browser, token string) {
	b.Do(chromedp.Click("#sign"))
	b.Until(`document.getElementById('dialog').open && document.activeElement.id === 'token'`)
	b.Do(chromedp.KeyEvent(token), chromedp.KeyEvent(kb.Enter))
	b.Until(`!document.getElementById('dialog').open && /sign out/.test(document.getElementById('sign').textContent)`)
}

// publishFromThePage drags the film onto the page, publishes it for the group "default" and waits until every box has it.
func publishFromThePage(b *browsertest.Browser, h *Home) {
	b.Do(chromedp.Click(`#nav a[href="#/publish"]`))
	b.Until(`!!document.querySelector('#preview svg')`)
	b.Drop("#drop", h.Media)
	b.Until(`document.getElementById('title').value === 'demo' && document.getElementById('campaign').value === 'demo'`)
	b.Until(`document.getElementById('group').value = 'default', document.getElementById('group').value === 'default'`)
	b.Do(chromedp.Click("form.publish button[type=submit]"))
	b.Until(`document.querySelector('h1').textContent === 'demo' && location.hash.indexOf('#/campaigns/') === 0`)
	b.Until(`document.querySelector('.facts dd').firstChild.data === '100 %' &&
		document.querySelector('.facts dd small').textContent === '3 of 3 boxes'`)
	b.Until(`/Complete since/.test(document.getElementById('curve-words').textContent)`)
}

// playOnABox presses play on the box's page, sees time pass, and goes to another place in the film.
func playOnABox(t *testing.T, b *browsertest.Browser, box *Box) {
	t.Helper()
	const video = `document.getElementById('video')`
	b.Do(chromedp.Navigate(box.URL() + "/"))
	b.Until(`!!document.querySelector('#assets button[aria-label="Play demo"]')`)
	b.Do(chromedp.Click(`#assets button[aria-label="Play demo"]`))
	b.Until(video + `.currentTime > 0.3`)
	first := browsertest.Eval[float64](b, video+`.currentTime`)
	b.Until(fmt.Sprintf(video+`.currentTime > %f`, first+0.5))
	if browsertest.Eval[int](b, video+`.videoWidth`) == 0 {
		t.Error("there is no picture")
	}
	to := 0.6 * browsertest.Eval[float64](b, video+`.duration`)
	browsertest.Eval[float64](b, fmt.Sprintf(video+`.currentTime = %f`, to))
	b.Until(fmt.Sprintf(`!%s.seeking && %s.currentTime > %f`, video, video, to+0.2))
	b.Shot("playing")
	b.Do(chromedp.KeyEvent(kb.Escape))
	b.Until(`document.getElementById('player').hidden`)
}
