//go:build linux

package home

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"boxd/internal/browsertest"
	"boxd/internal/netlab"
)

// playLine is twice as fast as the films.
var playLine = netlab.LineConfig{Down: 20e6, Up: 5e6, Delay: 10 * time.Millisecond}

const (
	filmLoop = 20 // seconds that are encoded; films repeat them
	filmBits = 10e6
)

// ffmpeg makes media.
func ffmpeg(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"-loglevel", "error", "-nostdin", "-y"}, args...)
	if out, err := exec.CommandContext(t.Context(), "ffmpeg", args...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg %v: %v\n%s", args, err, out)
	}
}

// loop encodes filmLoop seconds of picture and sound at a constant filmBits.
func loop(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "loop.mp4")
	ffmpeg(t, "-f", "lavfi", "-i", fmt.Sprintf("testsrc2=duration=%d:size=640x360:rate=25,noise=alls=60:allf=t", filmLoop),
		"-f", "lavfi", "-i", fmt.Sprintf("sine=duration=%d", filmLoop), "-c:v", "libx264", "-preset", "ultrafast", "-g", "50",
		"-b:v", "9900k", "-minrate", "9900k", "-maxrate", "9900k", "-bufsize", "5M",
		"-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "64k", "-shortest", file)
	return file
}

// repeat makes a film of so many loops without encoding it anew.
func repeat(t *testing.T, loop, file string, times int, args ...string) string {
	t.Helper()
	args = append([]string{"-stream_loop", strconv.Itoa(times - 1), "-i", loop, "-c", "copy"}, args...)
	ffmpeg(t, append(args, file)...)
	return file
}

// boxes4 lists the boxes of an MP4 file: what they are, and how long.
func boxes4(t *testing.T, file string) (list []string, length map[string]int64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	length = map[string]int64{}
	for at := int64(0); ; {
		var head [16]byte
		if _, err := f.ReadAt(head[:], at); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		n, name := int64(binary.BigEndian.Uint32(head[:4])), string(head[4:8])
		if n == 1 {
			n = int64(binary.BigEndian.Uint64(head[8:]))
		}
		if n < 8 {
			return list, length
		}
		list, length[name], at = append(list, name), n, at+n
	}
}

// evening is a campaign whose window opens in some hours: only playing opens the access line.
func (s *setup) evening(name, id string) {
	s.t.Helper()
	from := time.Now().Add(6 * time.Hour)
	s.fleet.run(nil, "campaign", "create", "--name", name, "--group", "default", "--asset", id,
		"--window", from.Format("15:04")+"-"+from.Add(time.Hour).Format("15:04"))
}

// publishPath publishes what ffmpeg has made, and waits until the box knows it.
func (s *setup) publishPath(path string) (id string) {
	s.t.Helper()
	var p struct{ ID string }
	s.fleet.run(&p, "publish", path)
	s.evening(filepath.Base(path), p.ID)
	eventually(s.t, "the box knows "+path, time.Minute, func() error {
		if a := s.boxes[0].asset(p.ID); a.Length == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if a := s.boxes[0].asset(p.ID); a.Verified != 0 {
		s.t.Fatalf("%d bytes are here before anybody plays", a.Verified)
	}
	return p.ID
}

// another is a file's name that was not used yet.
func (s *setup) another(name string) string {
	s.names++
	return filepath.Join(s.dir, fmt.Sprintf("%d-%s", s.names, name))
}

// door lets programs outside of the box's namespace reach its loopback address.
func (b *box) door() string {
	b.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			out, err := ln.Accept()
			if err != nil {
				return
			}
			in, err := b.lab.Dial(context.Background(), "tcp", "127.0.0.1:8480")
			if err != nil {
				_ = out.Close()
				continue
			}
			go func() { _, _ = io.Copy(in, asked(out)); _ = in.Close() }()
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
		}
	}()
	return "http://" + ln.Addr().String()
}

var doorOpened = time.Now()

// asked prints which bytes are asked for, when HOME_TRACE is set.
func asked(r io.Reader) io.Reader {
	if os.Getenv("HOME_TRACE") == "" {
		return r
	}
	pr, pw := io.Pipe()
	go func() {
		path := ""
		for lines := bufio.NewScanner(pr); lines.Scan(); {
			switch text := lines.Text(); {
			case strings.HasPrefix(text, "GET /assets/"):
				path = filepath.Base(strings.Fields(text)[1])
			case strings.HasPrefix(text, "Range:") || text == "" && path != "":
				fmt.Printf("%7.2f asks for %s %s\n", time.Since(doorOpened).Seconds(), path, text)
				path = ""
			}
		}
		_, _ = io.Copy(io.Discard, pr)
	}()
	return io.TeeReader(r, pw)
}

// watchJS plays an address and notes the first frame, and each time that the picture stands still.
const watchJS = `(() => { document.querySelectorAll('video').forEach(v => { v.src = ''; v.remove() });
	const v = document.createElement('video'); window.film = v;
	v.muted = true; v.autoplay = true; v.first = 0; v.stalls = 0; v.stalled = 0; v.since = 0; v.begin = performance.now();
	const again = () => { if (v.since) { v.stalled += performance.now() - v.since; v.since = 0 } };
	v.requestVideoFrameCallback(() => { v.first = performance.now() - v.begin });
	v.addEventListener('waiting', () => { if (v.first && !v.seeking && !v.since) { v.stalls++; v.since = performance.now() } });
	v.addEventListener('playing', again); v.addEventListener('timeupdate', () => { if (v.readyState > 2) again() });
	v.jump = at => { v.currentTime = at; v.stalls = 0; v.stalled = 0; v.since = 0; v.begin = performance.now(); v.first = 0;
		v.addEventListener('seeked', () => v.requestVideoFrameCallback(() => { v.first = performance.now() - v.begin }), {once: true}) };
	v.src = %q; document.body.append(v); return true })()`

// watched is what a viewer sees.
type watched struct {
	First   float64 // milliseconds to the first frame
	Stalls  int
	Stalled float64 // milliseconds
	Error   string
}

func see(b *browsertest.Browser) watched {
	return browsertest.Eval[watched](b, `({First: film.first, Stalls: film.stalls, Stalled: film.stalled +
		(film.since ? performance.now() - film.since : 0), Error: film.error ? film.error.message : ''})`)
}

// watch plays an address from the beginning and from its middle.
func watch(t *testing.T, b *browsertest.Browser, url string, play time.Duration) (start, middle watched) {
	t.Helper()
	look := func(what string, from float64) watched {
		b.Until(`film.first > 0 || film.error !== null`)
		b.Until(fmt.Sprintf(`film.currentTime > %g || film.error !== null`, from+play.Seconds()))
		w := see(b)
		if w.Error != "" {
			t.Fatalf("%s: %s", what, w.Error)
		}
		return w
	}
	if os.Getenv("HOME_TRACE") != "" {
		fmt.Println("plays", url)
	}
	browsertest.Eval[bool](b, fmt.Sprintf(watchJS, url))
	start = look("from the beginning", 0)
	length := browsertest.Eval[float64](b, `isFinite(film.duration) ? film.duration : 60`)
	if os.Getenv("HOME_TRACE") != "" {
		fmt.Println("seeks")
	}
	browsertest.Eval[any](b, fmt.Sprintf(`film.jump(%g)`, length/2))
	middle = look("from the middle", length/2)
	browsertest.Eval[bool](b, `(film.src = '', film.remove(), true)`)
	return start, middle
}

// TestBenchPlay plays, in Chromium and ffmpeg, what is not on the box, over a line of 20 Mbit/s.
func TestBenchPlay(t *testing.T) {
	bench(t)
	play := 15 * time.Second
	if v, err := time.ParseDuration(os.Getenv("PLAY")); err == nil {
		play = v
	}
	mib := 1100
	if v, err := strconv.Atoi(os.Getenv("FILM_MIB")); err == nil {
		mib = v
	}
	s := newSetup(t, netlab.HomeConfig{Boxes: 1, Line: playLine})
	s.boxes[0].start()
	known := s.publish("known.bin", 24<<20) // so that the box knows its line
	s.campaign("known", known)
	base := loop(t, s.dir)
	times := mib << 20 * 8 / filmBits / filmLoop
	s.boxes[0].until(t, known)
	b := browsertest.New(t, filepath.Join(s.dir, "play-"))
	door := s.boxes[0].door()
	b.Do(chromedp.Navigate(door + "/"))
	if os.Getenv("HOME_TRACE") != "" {
		s.traceLine(t)
	}
	only := os.Getenv("ONLY")
	chromium := func(name string, id, file string, aim string) {
		start, middle := watch(t, b, door+"/assets/"+id+"/"+file, play)
		t.Logf("RESULT %-30s first frame %4.0f ms%s, %d stalls, %.0f ms in %v; after a seek to the middle %4.0f ms, %d stalls, %.0f ms",
			name, start.First, aim, start.Stalls, start.Stalled, play, middle.First, middle.Stalls, middle.Stalled)
	}
	cases := []struct {
		name string
		run  func(name string)
	}{
		{"mp4-front", func(name string) {
			file := repeat(t, base, s.another("front.mp4"), times, "-movflags", "+faststart")
			defer os.Remove(file)
			chromium(name, s.publishPath(file), filepath.Base(file), " (aim 1000)")
		}},
		{"mp4-end", func(name string) {
			file := repeat(t, base, s.another("end.mp4"), times)
			list, length := boxes4(t, file)
			if list[len(list)-1] != "moov" {
				t.Fatalf("the boxes are %v", list)
			}
			aim := float64(length["moov"]+2<<20) * 8 / float64(playLine.Down) * 1000 // two pieces of 1 MiB
			defer os.Remove(file)
			chromium(name, s.publishPath(file), filepath.Base(file), fmt.Sprintf(" (index %d KiB; aim %.0f)", length["moov"]>>10, aim))
		}},
		{"webm", func(name string) {
			one := s.dir + "/loop.webm"
			ffmpeg(t, "-i", base, "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "9M", "-minrate", "9M",
				"-maxrate", "9M", "-c:a", "libvorbis", one)
			file := repeat(t, one, s.dir+"/film.webm", 15)
			defer os.Remove(file)
			chromium(name, s.publishPath(file), "film.webm", "")
		}},
		{"hls", func(name string) {
			dir := s.dir + "/hls"
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			repeat(t, base, dir+"/index.m3u8", 15, "-f", "hls", "-hls_time", "4", "-hls_playlist_type", "vod")
			id := s.publishPath(dir)
			chromium(name, id, "index.m3u8", "")
		}},
		{"hls-ffmpeg", func(name string) {
			dir := s.dir + "/hls2"
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			repeat(t, base, dir+"/index.m3u8", 16, "-f", "hls", "-hls_time", "4", "-hls_playlist_type", "vod")
			id := s.publishPath(dir)
			first, late := s.boxes[0].ffmpegPlays(t, id+"/index.m3u8", 30*time.Second)
			t.Logf("RESULT %-30s first frame %4d ms, in 30 s at most %v later than due", name, first.Milliseconds(), late.Round(time.Millisecond))
		}},
		{"mpv-mp4", func(name string) {
			file := repeat(t, base, s.another("end.mp4"), times)
			defer os.Remove(file)
			s.boxes[0].mpvPlays(t, name, s.publishPath(file)+"/"+filepath.Base(file), play)
		}},
		{"mpv-hls", func(name string) {
			dir := s.another("hls")
			must(t, os.Mkdir(dir, 0o755))
			repeat(t, base, dir+"/index.m3u8", 16, "-f", "hls", "-hls_time", "4", "-hls_playlist_type", "vod")
			s.boxes[0].mpvPlays(t, name, s.publishPath(dir)+"/index.m3u8", play)
		}},
	}
	if only == "" {
		for _, c := range cases {
			c.run(c.name)
		}
	}
	for name := range strings.SplitSeq(only, ",") { // one may be named several times
		for _, c := range cases {
			if c.name == name {
				c.run(name)
			}
		}
	}
}

// traceLine prints what crosses the line, four times a second.
func (s *setup) traceLine(t *testing.T) {
	begin, last := time.Now(), s.home.Line.Counters()
	tick := time.NewTicker(250 * time.Millisecond)
	done := make(chan struct{})
	t.Cleanup(func() { tick.Stop(); close(done) })
	go func() {
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			c := s.home.Line.Counters()
			d := c.Sub(last)
			last = c
			fmt.Printf("%7.2f line %5.2f Mbit/s, dropped %d\n", time.Since(begin).Seconds(), float64(d.Down.Bytes)*32/1e6, d.Down.Dropped)
		}
	}()
}

// until waits for assets.
func (b *box) until(t *testing.T, assets ...media) { ready(t, time.Minute, []*box{b}, assets...) }

// ffmpegPlays has ffmpeg read at the speed of playing, and says when the first frame came, and by how much a later one
// missed its time at worst.
func (b *box) ffmpegPlays(t *testing.T, path string, length time.Duration) (first, late time.Duration) {
	t.Helper()
	cmd := b.lab.Command(t.Context(), "ffmpeg", "-loglevel", "error", "-nostdin", "-re", "-t", fmt.Sprint(length.Seconds()), "-i",
		"http://127.0.0.1:8480/assets/"+path, "-map", "0:v", "-c", "copy", "-flush_packets", "1", "-f", "framecrc", "-")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.Second / 25
	n := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		text := lines.Text()
		if rest, ok := strings.CutPrefix(text, "#tb 0: 1/"); ok {
			if hz, err := strconv.Atoi(rest); err == nil {
				tick = time.Second / time.Duration(hz)
			}
		}
		f := strings.Split(text, ",")
		if strings.HasPrefix(text, "#") || len(f) < 3 {
			continue
		}
		dts, err := strconv.ParseInt(strings.TrimSpace(f[1]), 10, 64)
		if err != nil {
			t.Fatal(text)
		}
		at := time.Since(begin)
		if n++; n == 1 {
			first = at - time.Duration(dts)*tick
		}
		late = max(late, at-first-time.Duration(dts)*tick)
	}
	if err := cmd.Wait(); err != nil || n < int(length.Seconds())*20 {
		t.Fatalf("ffmpeg: %v, %d frames", err, n)
	}
	return first, late
}
