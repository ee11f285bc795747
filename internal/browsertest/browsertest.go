// Package browsertest drives a real Chromium in tests of the pages that we serve.
//
// Invariants: the browser is ours alone and ends with the test; every complaint on its console and every request to
// another host than this one is noted, from the first page on; nothing but tests imports it.
package browsertest

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

const chromium = "/usr/bin/chromium"

// stepTime bounds one step; a machine that runs other tests beside may be slow.
const stepTime = 3 * time.Minute

// Browser is a real Chromium that notes what must not happen.
type Browser struct {
	t     *testing.T
	ctx   context.Context //nolint:containedctx // chromedp keeps the browser in it
	shots string          // where pictures go, and how their names begin
	axe   string          // the source of axe-core, once it was asked for

	mu       sync.Mutex // guards the fields below
	faults   []string
	foreign  []string
	requests int
}

// New starts a browser that ends with the test. Pictures go to files that begin with shots, or below BOXD_SHOTS.
func New(t *testing.T, shots string) *Browser {
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
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.WSURLReadTimeout(stepTime))
	// The browser outlives t.Context(), which ends before the cleanups that may still look at it.
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	b := &Browser{t: t, ctx: ctx, shots: shots}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	b.watch()
	return b
}

// watch subscribes before it returns, so that nothing of the first page is missed.
func (b *Browser) watch() {
	console, sent := chromedp.Console(b.ctx), chromedp.Events(b.ctx, network.RequestWillBeSent)
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
}

func (b *Browser) note(list *[]string, s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*list = append(*list, s)
}

// Do takes steps; when one fails it keeps a picture and ends the test.
func (b *Browser) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, stepTime)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.Shot("failed")
		b.t.Fatal(err)
	}
}

// Eval returns what a JavaScript expression is, or comes to be.
func Eval[T any](b *Browser, js string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, stepTime)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.200s: %v", js, err)
	}
	return v
}

// Until waits for a JavaScript expression to be true, also over a change of page.
func (b *Browser) Until(js string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, stepTime)
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
			b.Shot("failed")
			b.t.Fatalf("%s: %v", js, err)
		case <-tick.C:
		}
	}
}

// Drop drags a file from outside of the browser over an element and lets it go there.
func (b *Browser) Drop(selector, file string) {
	b.t.Helper()
	middle := Eval[[]float64](b, `(r => [r.left + r.width / 2, r.top + r.height / 2])(document.querySelector(`+
		strconv.Quote(selector)+`).getBoundingClientRect())`)
	ctx, cancel := context.WithTimeout(b.ctx, stepTime)
	defer cancel()
	for _, step := range []input.DispatchDragEventType{
		input.DispatchDragEventTypeDragEnter, input.DispatchDragEventTypeDragOver, input.DispatchDragEventTypeDrop,
	} {
		_, err := chromedp.Call(ctx, input.DispatchDragEvent, input.DispatchDragEventParams{
			Type: step, X: middle[0], Y: middle[1],
			Data: &input.DragData{Items: []*input.DragDataItem{}, Files: []string{file}, DragOperationsMask: 1},
		})
		if err != nil {
			b.t.Fatalf("%s %s: %v", step, file, err)
		}
	}
}

// Shot keeps a picture as build output.
func (b *Browser) Shot(name string) {
	b.t.Helper()
	file := b.shots + name + ".png"
	if dir := os.Getenv("BOXD_SHOTS"); dir != "" {
		file = filepath.Join(dir, filepath.Base(file))
	}
	ctx, cancel := context.WithTimeout(b.ctx, stepTime)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Error(err)
		return
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // build output
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, png, 0o644); err != nil { //nolint:gosec // build output
		b.t.Fatal(err)
	}
}

// Colours chooses the colour scheme that pages are asked for: dark or light.
func (b *Browser) Colours(scheme string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, stepTime)
	defer cancel()
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// Forgive forgets what the console has said so far: the browser itself notes an answer such as 401 that a test wants.
func (b *Browser) Forgive() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = nil
}

// Clean fails the test when a page complained or asked somebody else.
func (b *Browser) Clean() {
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
