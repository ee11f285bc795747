package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"boxd/internal/catalog"
	"boxd/internal/control"
)

const chromium = "/usr/bin/chromium"

// browser is a real Chromium that notes what must not happen.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // chromedp keeps the browser in it

	mu       sync.Mutex // guards the fields below
	faults   []string
	foreign  []string
	requests int
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Chromium and takes some seconds")
	}
	if _, err := os.Stat(chromium); err != nil {
		if os.Getenv("BOXD_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip("no Chromium: ", err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox,
		chromedp.Flag("autoplay-policy", "no-user-gesture-required"), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WSURLReadTimeout(60*time.Second))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx}
	must(t, chromedp.Do(ctx, chromedp.Navigate("about:blank")))
	console, sent := chromedp.Console(ctx), chromedp.Events(ctx, network.RequestWillBeSent)
	go func() {
		for m, err := range console {
			if err != nil {
				return
			}
			if m.IsException() || m.Type == "error" || m.Type == "warning" {
				b.note(&b.faults, m.String()+" "+m.URL)
			}
		}
	}()
	go func() {
		for e, err := range sent {
			if err != nil {
				return
			}
			b.mu.Lock()
			b.requests++
			b.mu.Unlock()
			if u := e.Request.URL; !strings.HasPrefix(u, "http://127.0.0.1:") && !strings.HasPrefix(u, "data:") &&
				u != "about:blank" {
				b.note(&b.foreign, u)
			}
		}
	}()
	return b
}

func (b *browser) note(list *[]string, s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*list = append(*list, s)
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.shot("failed")
		b.t.Fatal(err)
	}
}

func eval[T any](b *browser, js string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// until waits for a JavaScript expression to be true, also over a change of page.
func (b *browser) until(js string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 45*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		good, err := chromedp.Run(ctx, chromedp.Evaluate[bool](js))
		if err == nil && good {
			return
		}
		select {
		case <-ctx.Done():
			b.shot("failed")
			b.t.Fatalf("%s: %v", js, err)
		case <-tick.C:
		}
	}
}

// shot keeps a picture as build output.
func (b *browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("BOXD_SHOTS")
	if dir == "" {
		dir = "../../out/screenshots"
	}
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Error(err)
		return
	}
	must(b.t, os.MkdirAll(dir, 0o755))
	must(b.t, os.WriteFile(filepath.Join(dir, "box-"+name+".png"), png, 0o644))
}

func (b *browser) colours(scheme string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	must(b.t, err)
}

// clean fails the test when the page complained or asked somebody else.
func (b *browser) clean() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) > 0 {
		b.t.Errorf("console: %s", strings.Join(b.faults, "\n"))
	}
	if len(b.foreign) > 0 {
		b.t.Errorf("requests to others: %s", strings.Join(b.foreign, "\n"))
	}
	if b.requests == 0 {
		b.t.Error("no request was seen: the check for foreign ones checks nothing")
	}
}

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

func TestStatusPageInChromium(t *testing.T) {
	b := newBrowser(t)
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
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(s.Box.HTTP+"/"))
	b.until(`document.querySelectorAll('#assets > li').length === 2`)
	for _, x := range []*testBox{box, other} {
		x.has(clip, 90*time.Second)
		x.has(series, 90*time.Second)
	}
	b.until(`document.getElementById('state').textContent === 'All is well'`)
	b.until(`document.querySelectorAll('#home svg circle').length === 2 && document.querySelectorAll('#disk .tile.ready').length === 2`)
	looks(t, b)
	playsInPage(t, b)
	pairsAPhone(t, b)
	b.clean()
	warns(t, b, box)
}

// looks checks every size and both colour schemes, and keeps pictures of them.
func looks(t *testing.T, b *browser) {
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
			b.colours(scheme)
			b.do(chromedp.EmulateViewport(v.w, v.h, v.opts...), chromedp.Sleep(300*time.Millisecond))
			if bad := eval[string](b, contrastJS); bad != "" {
				t.Errorf("%s %s: contrast:\n%s", v.name, scheme, bad)
			}
			if bad := eval[string](b, namesJS); bad != "" {
				t.Errorf("%s %s: %s", v.name, scheme, bad)
			}
			b.shot(v.name + "-" + scheme)
		}
	}
	b.colours("dark")
	b.do(chromedp.EmulateViewport(1280, 900))
}

// playsInPage uses the keyboard alone: to the play button, play, seek, close.
func playsInPage(t *testing.T, b *browser) {
	t.Helper()
	reached := false
	for range 12 {
		b.do(chromedp.KeyEvent(kb.Tab))
		if reached = eval[bool](b,
			`(document.activeElement.getAttribute('aria-label') || '') === 'Play Tears of Light'`); reached {
			break
		}
	}
	if !reached {
		t.Fatal("the play button cannot be reached by keyboard")
	}
	if !eval[bool](b, `getComputedStyle(document.activeElement).outlineStyle !== 'none'`) {
		t.Error("the focus is not shown")
	}
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until(`!document.getElementById('player').hidden && document.getElementById('video').currentTime > 0.3`)
	first := eval[float64](b, `document.getElementById('video').currentTime`)
	b.until(fmt.Sprintf(`document.getElementById('video').currentTime > %f`, first+0.5))
	if w := eval[int](b, `document.getElementById('video').videoWidth`); w == 0 {
		t.Error("there is no picture")
	}
	length := eval[float64](b, `document.getElementById('video').duration`)
	eval[float64](b, fmt.Sprintf(`document.getElementById('video').currentTime = %f`, length*0.6))
	b.until(fmt.Sprintf(`!document.getElementById('video').seeking && document.getElementById('video').currentTime > %f`, length*0.6+0.2))
	b.shot("playing")
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until(`document.getElementById('player').hidden`)
	if !eval[bool](b, `document.activeElement.getAttribute('aria-label') === 'Play Tears of Light'`) {
		t.Error("closing the player does not give the focus back")
	}
}

// pairsAPhone reads the code from the box's page and uses it on the page for the home.
func pairsAPhone(t *testing.T, b *browser) {
	t.Helper()
	page := eval[string](b, `location.href`)
	b.do(chromedp.Click("#pair"))
	b.until(`!document.getElementById('pairing').hidden && document.getElementById('pairing-code').textContent.length === 7`)
	b.shot("pairing")
	code := strings.ReplaceAll(eval[string](b, `document.getElementById('pairing-code').textContent`), " ", "")
	port := eval[int](b,
		`fetch('/api/v1/pairing').then(function (r) { return r.json(); }).then(function (p) { return p.port; })`)
	lan := fmt.Sprintf("http://127.0.0.1:%d/", port)
	b.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile), chromedp.Navigate(lan))
	b.until(`location.pathname === '/pair'`)
	b.shot("pair-phone")
	b.do(chromedp.SendKeys("#code", code), chromedp.Click("button[type=submit]"))
	b.until(`location.pathname === '/' && document.querySelectorAll('#assets > li').length === 2`)
	if eval[bool](b, `document.getElementById('pair').hidden === false`) {
		t.Error("a phone is offered to pair phones")
	}
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(page))
}

// warns shows what a fault looks like.
func warns(t *testing.T, b *browser, box *testBox) {
	t.Helper()
	must(t, os.Remove(box.dir+"/synced"))
	if out, code := box.boxd("pause"); code != 0 {
		t.Fatal(out)
	}
	b.until(`document.getElementById('state').textContent === 'Paused'`)
	b.do(chromedp.EmulateViewport(1280, 900))
	b.shot("paused")
	box.boxd("resume")
	b.until(`document.getElementById('state').textContent !== 'Paused'`)
	box.end()
	b.until(`document.getElementById('link').textContent.indexOf('not answer') > 0`)
}
