package main

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"boxd/internal/browsertest"
	"boxd/internal/catalog"
	"boxd/internal/control"
)

// encode makes media with ffmpeg, or skips where there is none.
func encode(t *testing.T, args ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("encodes and plays media")
	}
	path, err := exec.LookPath("ffmpeg")
	if err != nil {
		if os.Getenv("BOXD_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args = append([]string{"-loglevel", "error", "-nostdin", "-y"}, args...)
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput() //nolint:gosec // the tests' own words
	if err != nil {
		t.Fatalf("ffmpeg %v: %v\n%s", args, err, out)
	}
}

// film encodes 20 seconds at 2 Mbit/s; the index of an MP4 is at its end, as encoders leave it.
func film(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	encode(t, "-f", "lavfi", "-i", "testsrc2=duration=20:size=640x360:rate=25", "-c:v", "libx264", "-preset", "ultrafast",
		"-g", "50", "-b:v", "2M", "-minrate", "2M", "-maxrate", "2M", "-bufsize", "1M", "-pix_fmt", "yuv420p", file)
	return file
}

// tomorrow is a campaign whose window is closed for hours: only playing opens the access line.
func tomorrow(c *catalog.Campaign) {
	from := time.Now().Add(6 * time.Hour)
	c.Windows = []catalog.Window{{From: from.Format("15:04"), To: from.Add(time.Hour).Format("15:04")}}
	c.Deadline = time.Now().Add(48 * time.Hour)
}

const narrowLine = "[limits]\nwan_down = \"20Mbit/s\"\n"

// TestChromiumPlaysWhatIsNotHere plays a film of which nothing is on the box and whose index is at its end, and seeks.
func TestChromiumPlaysWhatIsNotHere(t *testing.T) {
	file := film(t, "film.mp4")
	f := newFleet(t)
	id := f.publish(file, "The Film", tomorrow)
	box := f.box("one", narrowLine).start()
	s := box.until("knows the film", 30*time.Second, func(s *control.Snapshot) bool {
		_, ok := s.Asset(id.String())
		return ok
	})
	if a, _ := s.Asset(id.String()); a.Verified != 0 {
		t.Fatalf("%d bytes are here before anybody plays", a.Verified)
	}
	b := browsertest.New(t, "../../out/browser/stream-")
	begin := time.Now()
	b.Do(chromedp.Navigate(s.Box.HTTP + "/"))
	browsertest.Eval[bool](b, `(() => { window.film = document.createElement('video'); film.muted = true; film.autoplay = true;
		film.src = '/assets/`+id.String()+`/film.mp4'; document.body.append(film); return true })()`)
	b.Until(`film.readyState >= 2 || film.error !== null`)
	if e := browsertest.Eval[string](b, `film.error ? film.error.message : ''`); e != "" {
		t.Fatal(e)
	}
	t.Logf("first frame after %v", time.Since(begin).Round(time.Millisecond))
	b.Until(`film.currentTime > 0.5`)
	begin = time.Now()
	browsertest.Eval[float64](b, `film.currentTime = 15`)
	b.Until(`!film.seeking && film.currentTime > 15.2`)
	t.Logf("plays %v after a seek", time.Since(begin).Round(time.Millisecond))
	if w := browsertest.Eval[int](b, `film.videoWidth`); w != 640 {
		t.Errorf("the picture is %d wide", w)
	}
}

// TestChromiumOpensMediaItself opens files of an asset as pages of their own: a film plays, and what could be a page can do
// nothing.
func TestChromiumOpensMediaItself(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "package")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Rename(film(t, "film.mp4"), dir+"/film.mp4"))
	const script = `<script>document.documentElement.id = 'ran'</script>`
	for name, text := range map[string]string{
		"page.html": "<!doctype html><html><body>" + script + "</body></html>",
		"image.svg": `<svg xmlns="http://www.w3.org/2000/svg">` + script + `</svg>`,
	} {
		must(t, os.WriteFile(dir+"/"+name, []byte(text), 0o600))
	}
	f := newFleet(t)
	id := f.publish(dir, "The Package", nil)
	s := f.box("one", "").start().has(id, 60*time.Second)
	b := browsertest.New(t, "../../out/browser/media-")
	at := s.Box.HTTP + "/assets/" + id.String() + "/"
	b.Do(chromedp.Navigate(at + "film.mp4"))
	b.Until(`document.querySelector('video').readyState >= 2 && document.querySelector('video').videoWidth == 640`)
	for _, name := range []string{"page.html", "image.svg"} {
		resp, _ := http.Get(at + name) //nolint:noctx // the test ends it
		if resp == nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v", name, resp)
		}
		_ = resp.Body.Close()
		t.Logf("%s is %s", name, resp.Header.Get("Content-Type"))
		if resp.Header.Get("Content-Type") == "application/octet-stream" {
			continue // it is saved, not opened
		}
		b.Do(chromedp.Navigate(at + name))
		if got := browsertest.Eval[string](b, `document.documentElement.id + ' ' + (self.origin || origin)`); got != " null" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestFFmpegPlaysAPackageThatIsNotHere plays an HLS package, many small files, of which nothing is on the box.
func TestFFmpegPlaysAPackageThatIsNotHere(t *testing.T) {
	file := film(t, "film.mp4")
	dir := filepath.Join(t.TempDir(), "package")
	must(t, os.Mkdir(dir, 0o755))
	encode(t, "-i", file, "-c", "copy", "-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod", dir+"/index.m3u8")
	f := newFleet(t)
	id := f.publish(dir, "The Package", tomorrow)
	box := f.box("one", narrowLine).start()
	s := box.until("knows the package", 30*time.Second, func(s *control.Snapshot) bool {
		_, ok := s.Asset(id.String())
		return ok
	})
	begin := time.Now()
	url := s.Box.HTTP + "/assets/" + id.String() + "/index.m3u8"
	resp, body := box.get(url)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s", url, resp.Status, body)
	}
	t.Logf("the playlist came after %v", time.Since(begin).Round(time.Millisecond))
	out := filepath.Join(t.TempDir(), "played.txt")
	encode(t, "-i", url, "-map", "0:v", "-c", "copy", "-f", "framecrc", out)
	played, err := os.ReadFile(out)
	must(t, err)
	if n := countFrames(played); n != 500 {
		t.Errorf("%d frames were played, want 500", n)
	}
	t.Logf("all of it was played after %v", time.Since(begin).Round(time.Millisecond))
}

// TestPlayingBeforeItsTime asks for an asset of a campaign that has not begun: that is no reason to wait.
func TestPlayingBeforeItsTime(t *testing.T) {
	file, _ := mediaFile(t, "film.mp4", 1<<20)
	f := newFleet(t)
	id := f.publish(file, "The Film", func(c *catalog.Campaign) { c.NotBefore = time.Now().Add(time.Hour) })
	box := f.box("one", "").start()
	s := box.until("knows the film", 30*time.Second, func(s *control.Snapshot) bool {
		a, ok := s.Asset(id.String())
		return ok && a.Reason == "not-before"
	})
	resp, body := box.get(s.Box.HTTP + "/assets/" + id.String() + "/film.mp4")
	if resp.StatusCode != http.StatusServiceUnavailable || !bytes.Contains(body, []byte(`"not-before"`)) ||
		resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s: %s", resp.Status, body)
	}
}

func countFrames(framecrc []byte) (n int) {
	for line := range bytes.Lines(framecrc) {
		if line[0] != '#' {
			n++
		}
	}
	return n
}
