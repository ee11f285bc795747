package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"boxd/internal/browsertest"
	"boxd/internal/catalog"
	"boxd/internal/control"
)

// contrastJS lists texts whose contrast is below WCAG 2.1 AA (1.4.3): 4.5, or 3 for large ones. Text in SVG is judged
// against the card that it is drawn on unless it is on a coloured tile.
const contrastJS = `(function () {
  function rgb(s) { var m = s.match(/[\d.]+/g); return m ? m.map(Number) : [0, 0, 0, 0]; }
  function lum(c) { var v = c.slice(0, 3).map(function (x) { x /= 255; return x <= .03928 ? x / 12.92 : Math.pow((x + .055) / 1.055, 2.4); }); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; }
  function back(el) { for (; el; el = el.parentElement) { var c = rgb(getComputedStyle(el).backgroundColor); if (c.length < 4 || c[3] > .99) { return c; } } return [255, 255, 255]; }
  var bad = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), seen = 0;
  while (walk.nextNode()) {
    var el = walk.currentNode.parentElement, st = getComputedStyle(el);
    if (!walk.currentNode.textContent.trim() || !el.getClientRects().length || st.visibility === 'hidden' || el.closest('title,script,noscript,.sr,.skip')) { continue; }
    var svg = el.namespaceURI.indexOf('svg') > 0, fg = rgb(svg ? st.fill : st.color), bg = back(svg ? el.closest('.chart') : el);
    if (svg && el.classList.contains('on')) { continue; }
    var a = lum(fg), z = lum(bg), ratio = (Math.max(a, z) + .05) / (Math.min(a, z) + .05), px = parseFloat(st.fontSize);
    var need = px >= 24 || px >= 18.6 && +st.fontWeight >= 700 ? 3 : 4.5;
    seen++;
    if (ratio < need) { bad.push(ratio.toFixed(2) + ' "' + walk.currentNode.textContent.trim().slice(0, 40) + '" ' + el.tagName + '.' + el.getAttribute('class')); }
  }
  return seen < 20 ? 'only ' + seen + ' texts were looked at' : bad.join('\n');
})()`

// namesJS lists what a screen reader or a keyboard could not make sense of.
const namesJS = `(function () {
  var bad = [], ids = {};
  document.querySelectorAll('[id]').forEach(function (e) { if (ids[e.id]) { bad.push('id twice: ' + e.id); } ids[e.id] = 1; });
  document.querySelectorAll('button, a, input, video, svg[role=img], [role=progressbar], [role=dialog]').forEach(function (e) {
    var by = e.getAttribute('aria-labelledby'), name = e.getAttribute('aria-label') || by && document.getElementById(by) && 'x' || e.textContent.trim() || e.labels && e.labels.length;
    if (!name && e.tagName !== 'VIDEO') { bad.push('no name: ' + e.outerHTML.slice(0, 80)); }
  });
  document.querySelectorAll('img').forEach(function (e) { if (!e.hasAttribute('alt')) { bad.push('no alt: ' + e.src); } });
  var level = 0;
  document.querySelectorAll('h1, h2, h3').forEach(function (e) { if (e.closest('[hidden]')) { return; } var l = +e.tagName[1]; if (l > level + 1) { bad.push('heading skips a level: ' + e.textContent); } level = l; });
  if (document.documentElement.lang === '' || !document.querySelector('main')) { bad.push('no language or no main'); }
  if (document.documentElement.scrollWidth > window.innerWidth) { bad.push('scrolls sideways: ' + document.documentElement.scrollWidth + ' > ' + window.innerWidth); }
  return bad.join('\n');
})()`

// labelsJS draws a home of three boxes that gave each other something, as narrow as on a phone, and lists labels on labels.
const labelsJS = `(function () {
  var el = document.createElement('div'), got = function (id, n) { return { id: id, bytes: n * 1048576 }; };
  el.style.width = '320px';
  document.querySelector('main').appendChild(el);
  boxd.home(el, { assets: [], fetch: { bytes: { peer: 0, origin: 268435456 }, rates: { peer: 0, origin: 0 }, courier_of: 1 }, home: [
    { id: 'box-te4mrx75xo', holds: 2, wan_got_bytes: 2201744, courier_of: 0, received_bytes: 1876951, sent_bytes: 203423744, got: [got('box-tzjpkfva7a', 61.6)] },
    { id: 'box-tzjpkfva7a', holds: 2, wan_got_bytes: 0, courier_of: 0, received_bytes: 327680, sent_bytes: 210763776, got: [got('box-te4mrx75xo', 57.2)] }] });
  var list = [].map.call(el.querySelectorAll('text.halo'), function (e) { return { t: e.textContent, r: e.getBoundingClientRect() }; }), bad = [];
  list.forEach(function (p, i) { list.slice(i + 1).forEach(function (q) {
    if (p.r.left < q.r.right && q.r.left < p.r.right && p.r.top + 3 < q.r.bottom && q.r.top + 3 < p.r.bottom) { bad.push(p.t + ' on ' + q.t); }
  }); });
  el.parentNode.removeChild(el);
  return list.length < 4 ? 'only ' + list.length + ' labels' : bad.join(', ');
})()`

func TestStatusPageInChromium(t *testing.T) {
	b := browsertest.New(t, "../../out/screenshots/box-")
	f := newFleet(t)
	pa, pb := freePort(t), freePort(t)
	box := f.box("a",
		"[swarm]\nlisten = \"127.0.0.1:"+pa+"\"\n[http]\nlisten = \"127.0.0.1:0\"\nlan_listen = \"127.0.0.1:0\"\n",
		"127.0.0.1:"+pb).start()
	other := f.box("b", "[swarm]\nlisten = \"127.0.0.1:"+pb+"\"\n", "127.0.0.1:"+pa).start()
	s := box.until("sees the other", 30*time.Second, func(s *control.Snapshot) bool { return len(s.Home) == 1 })
	now := time.Now()
	clip := f.publish("../../media/demo.webm", "Tears of Light", func(c *catalog.Campaign) {
		c.Windows = []catalog.Window{
			{From: now.Add(-time.Hour).Format("15:04"), To: now.Add(3 * time.Hour).Format("15:04")},
			{From: "02:00", To: "05:30"},
		}
	})
	big, _ := mediaFile(t, "series.bin", 48<<20)
	series := f.publish(big, "Harbour Street, season 2", func(c *catalog.Campaign) { c.Deadline = now.Add(9 * time.Hour) })
	b.Do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(s.Box.HTTP+"/"))
	b.Until(`document.querySelectorAll('#assets > li').length === 2`)
	for _, x := range []*testBox{box, other} {
		x.has(clip, 90*time.Second)
		x.has(series, 90*time.Second)
	}
	b.Until(`document.getElementById('state').textContent === 'All is well'`)
	b.Until(`document.querySelectorAll('#home svg rect.node').length === 3 && document.querySelectorAll('#disk .tile.ready').length === 2`)
	looks(t, b)
	if bad := browsertest.Eval[string](b, labelsJS); bad != "" {
		t.Errorf("the picture of a home on a phone: %s", bad)
	}
	playsInPage(t, b)
	pairsAPhone(t, b)
	b.Clean()
	warns(t, b, box)
}

// looks checks every size and both colour schemes, and keeps pictures of them.
func looks(t *testing.T, b *browsertest.Browser) {
	t.Helper()
	for _, v := range []struct {
		name string
		w, h int64
		opts []chromedp.EmulateViewportOption
	}{
		{"desktop", 1280, 900, nil},
		{"phone", 390, 844, []chromedp.EmulateViewportOption{chromedp.EmulateMobile, chromedp.EmulateTouch}},
		{"tv", 1920, 1080, nil},
	} {
		for _, scheme := range []string{"dark", "light"} {
			b.Colours(scheme)
			b.Do(chromedp.EmulateViewport(v.w, v.h, v.opts...), chromedp.Sleep(300*time.Millisecond))
			if bad := browsertest.Eval[string](b, contrastJS); bad != "" {
				t.Errorf("%s %s: contrast:\n%s", v.name, scheme, bad)
			}
			if bad := browsertest.Eval[string](b, namesJS); bad != "" {
				t.Errorf("%s %s: %s", v.name, scheme, bad)
			}
			b.Axe(v.name + " " + scheme)
			b.Shot(v.name + "-" + scheme)
		}
	}
	b.Colours("dark")
	b.Do(chromedp.EmulateViewport(1280, 900))
}

// playsInPage uses the keyboard alone: to the play button, play, seek, close.
func playsInPage(t *testing.T, b *browsertest.Browser) {
	t.Helper()
	reached := false
	for range 12 {
		b.Do(chromedp.KeyEvent(kb.Tab))
		if reached = browsertest.Eval[bool](b,
			`(document.activeElement.getAttribute('aria-label') || '') === 'Play Tears of Light'`); reached {
			break
		}
	}
	if !reached {
		t.Fatal("the play button cannot be reached by keyboard")
	}
	if !browsertest.Eval[bool](b, `getComputedStyle(document.activeElement).outlineStyle !== 'none'`) {
		t.Error("the focus is not shown")
	}
	b.Do(chromedp.KeyEvent(kb.Enter))
	b.Until(`!document.getElementById('player').hidden && document.getElementById('video').currentTime > 0.3`)
	first := browsertest.Eval[float64](b, `document.getElementById('video').currentTime`)
	b.Until(fmt.Sprintf(`document.getElementById('video').currentTime > %f`, first+0.5))
	if w := browsertest.Eval[int](b, `document.getElementById('video').videoWidth`); w == 0 {
		t.Error("there is no picture")
	}
	length := browsertest.Eval[float64](b, `document.getElementById('video').duration`)
	browsertest.Eval[float64](b, fmt.Sprintf(`document.getElementById('video').currentTime = %f`, length*0.6))
	b.Until(fmt.Sprintf(`!document.getElementById('video').seeking && document.getElementById('video').currentTime > %f`, length*0.6+0.2))
	b.Shot("playing")
	b.Do(chromedp.KeyEvent(kb.Escape))
	b.Until(`document.getElementById('player').hidden`)
	if !browsertest.Eval[bool](b, `document.activeElement.getAttribute('aria-label') === 'Play Tears of Light'`) {
		t.Error("closing the player does not give the focus back")
	}
}

// pairsAPhone reads the code from the box's page and uses it on the page for the home.
func pairsAPhone(t *testing.T, b *browsertest.Browser) {
	t.Helper()
	page := browsertest.Eval[string](b, `location.href`)
	b.Do(chromedp.Click("#pair"))
	b.Until(`!document.getElementById('pairing').hidden && document.getElementById('pairing-code').textContent.length === 7`)
	b.Shot("pairing")
	code := strings.ReplaceAll(browsertest.Eval[string](b, `document.getElementById('pairing-code').textContent`), " ", "")
	port := browsertest.Eval[int](b,
		`fetch('/api/v1/pairing').then(function (r) { return r.json(); }).then(function (p) { return p.port; })`)
	lan := fmt.Sprintf("http://127.0.0.1:%d/", port)
	b.Do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile), chromedp.Navigate(lan))
	b.Until(`location.pathname === '/pair'`)
	b.Shot("pair-phone")
	b.Do(chromedp.SendKeys("#code", code), chromedp.Click("button[type=submit]"))
	b.Until(`location.pathname === '/' && document.querySelectorAll('#assets > li').length === 2`)
	if browsertest.Eval[bool](b, `document.getElementById('pair').hidden === false`) {
		t.Error("a phone is offered to pair phones")
	}
	b.Do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(page))
}

// warns shows what a fault looks like.
func warns(t *testing.T, b *browsertest.Browser, box *testBox) {
	t.Helper()
	must(t, os.Remove(box.dir+"/synced"))
	if out, code := box.boxd("pause"); code != 0 {
		t.Fatal(out)
	}
	b.Until(`document.getElementById('state').textContent === 'Paused'`)
	b.Do(chromedp.EmulateViewport(1280, 900))
	b.Shot("paused")
	box.boxd("resume")
	b.Until(`document.getElementById('state').textContent !== 'Paused'`)
	box.end()
	b.Until(`document.getElementById('link').textContent.indexOf('not answer') > 0`)
}
