package web_test

import (
	"compress/gzip"
	"io"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"boxd/internal/browsertest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// browser is a Chromium with axe at hand, which judges whether everybody can use a page.
type browser struct {
	*browsertest.Browser
	t   *testing.T
	axe string
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	return &browser{browsertest.New(t, "../../../out/screens/fleet-"), t, loadAxe(t)}
}

func loadAxe(t *testing.T) string {
	t.Helper()
	f, err := os.Open("testdata/axe.min.js.gz")
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	src, err := io.ReadAll(z)
	must(t, err)
	return string(src)
}

// axeJS lists violations of WCAG 2.1 A and AA, with where they are.
const axeJS = `axe.run(document, {
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'], resultTypes: ['violations'] }).then(r =>
  r.passes.length < 5 ? 'only ' + r.passes.length + ' rules looked' :
  r.violations.map(v => v.id + ': ' + v.nodes.slice(0, 4).map(n => n.target + ' ' + (n.any[0]?.message || '')).join('; ')).join('\n'))`

// looks checks one view at both sizes in both colour schemes, and keeps pictures.
func (b *browser) looks(name string) {
	b.t.Helper()
	for _, v := range []struct {
		name string
		w, h int64
		opts []chromedp.EmulateViewportOption
	}{
		{"desk", 1440, 900, nil},
		{"phone", 390, 844, []chromedp.EmulateViewportOption{chromedp.EmulateMobile, chromedp.EmulateTouch}},
	} {
		for _, scheme := range []string{"dark", "light"} {
			b.Colours(scheme)
			b.Do(chromedp.EmulateViewport(v.w, v.h, v.opts...), chromedp.Sleep(300*time.Millisecond))
			if v.name == "phone" && scheme == "dark" { // its colours and its size were looked at
				b.Shot(name + "-" + v.name + "-" + scheme)
				continue
			}
			browsertest.Eval[bool](b.Browser, b.axe+"\n;true")
			if bad := browsertest.Eval[string](b.Browser, axeJS); bad != "" {
				b.t.Errorf("%s, %s, %s:\n%s", name, v.name, scheme, bad)
			}
			if browsertest.Eval[bool](b.Browser, `document.documentElement.scrollWidth > innerWidth`) {
				b.t.Errorf("%s, %s: the page scrolls sideways", name, v.name)
			}
			b.Shot(name + "-" + v.name + "-" + scheme)
		}
	}
	b.Colours("dark")
	b.Do(chromedp.EmulateViewport(1440, 900))
}
