package web_test

import (
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

// browser is a Chromium that looks at the dashboard.
type browser struct {
	*browsertest.Browser
	t *testing.T
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	return &browser{browsertest.New(t, "../../../out/screens/fleet-"), t}
}

// looks checks one view at a desk, on a phone and on a television, in both colour schemes, and keeps pictures.
func (b *browser) looks(name string) {
	b.t.Helper()
	for _, v := range []struct {
		name string
		w, h int64
		opts []chromedp.EmulateViewportOption
	}{
		{"desk", 1440, 900, nil},
		{"phone", 390, 844, []chromedp.EmulateViewportOption{chromedp.EmulateMobile, chromedp.EmulateTouch}},
		{"tv", 1920, 1080, nil},
	} {
		for _, scheme := range []string{"dark", "light"} {
			b.Colours(scheme)
			b.Do(chromedp.EmulateViewport(v.w, v.h, v.opts...), chromedp.Sleep(300*time.Millisecond))
			b.Axe(name + ", " + v.name + ", " + scheme)
			b.Shot(name + "-" + v.name + "-" + scheme)
		}
	}
	b.Colours("dark")
	b.Do(chromedp.EmulateViewport(1440, 900))
}
