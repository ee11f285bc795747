package web_test

import (
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

const chromium = "/usr/bin/chromium"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// browser is a real Chromium that notes what must not happen.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // chromedp keeps the browser in it
	axe string

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
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.WSURLReadTimeout(60*time.Second))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx, axe: loadAxe(t)}
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
			if u := e.Request.URL; !strings.HasPrefix(u, "http://127.0.0.1:") && !strings.HasPrefix(u, "data:") && u != "about:blank" {
				b.note(&b.foreign, u)
			}
		}
	}()
	return b
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
		b.t.Fatalf("%.200s: %v", js, err)
	}
	return v
}

// until waits for a JavaScript expression to be true.
func (b *browser) until(js string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
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
		dir = "../../../out/screens"
	}
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Error(err)
		return
	}
	must(b.t, os.MkdirAll(dir, 0o755))
	must(b.t, os.WriteFile(filepath.Join(dir, "fleet-"+name+".png"), png, 0o644))
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
			b.colours(scheme)
			b.do(chromedp.EmulateViewport(v.w, v.h, v.opts...), chromedp.Sleep(300*time.Millisecond))
			if v.name == "phone" && scheme == "dark" { // its colours and its size were looked at
				b.shot(name + "-" + v.name + "-" + scheme)
				continue
			}
			eval[bool](b, b.axe+"\n;true")
			if bad := eval[string](b, axeJS); bad != "" {
				b.t.Errorf("%s, %s, %s:\n%s", name, v.name, scheme, bad)
			}
			if eval[bool](b, `document.documentElement.scrollWidth > innerWidth`) {
				b.t.Errorf("%s, %s: the page scrolls sideways", name, v.name)
			}
			b.shot(name + "-" + v.name + "-" + scheme)
		}
	}
	b.colours("dark")
	b.do(chromedp.EmulateViewport(1440, 900))
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
