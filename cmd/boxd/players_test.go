package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"boxd/internal/control"
)

// footprint is what must stay flat.
type footprint struct {
	goroutines, descriptors int
	heap                    int64
}

func measure(t *testing.T) footprint {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return footprint{runtime.NumGoroutine(), len(fds), int64(m.HeapAlloc)} //nolint:gosec // far below 2^63
}

// TestPlayersComeAndGo opens, stops reading, seeks and disconnects 10,000 times, on an asset that is here and on one of
// which nothing is.
func TestPlayersComeAndGo(t *testing.T) {
	players := 10_000
	if testing.Short() {
		players = 500
	}
	f := newFleet(t)
	file, data := mediaFile(t, "film.mp4", 24<<20)
	here := f.publish(file, "The Film", nil)
	box := f.box("one", "").start()
	s := box.has(here, 60*time.Second)
	other, _ := mediaFile(t, "later.mp4", 25<<20)
	later := f.publish(other, "Later", tomorrow)
	box.until("knows the other", 30*time.Second, func(s *control.Snapshot) bool {
		_, ok := s.Asset(later.String())
		return ok
	})
	must(t, os.RemoveAll(f.dir+"/origin")) // so that nothing of it ever comes
	urls := []string{
		s.Box.HTTP + "/assets/" + here.String() + "/film.mp4",
		s.Box.HTTP + "/assets/" + later.String() + "/later.mp4",
	}

	play(t, urls, len(data), 300)
	settled := func() footprint {
		box.until("nobody plays", 60*time.Second, func(s *control.Snapshot) bool { return s.Fetch.Players == 0 })
		return measure(t)
	}
	before := settled()
	start := time.Now()
	play(t, urls, len(data), players)
	took := time.Since(start)
	after := settled()
	t.Logf("%d players in %v: before %+v, after %+v", players, took.Round(time.Millisecond), before, after)
	if after.goroutines > before.goroutines+20 || after.descriptors > before.descriptors+10 ||
		after.heap > before.heap+8<<20 {
		t.Errorf("not flat: before %+v, after %+v", before, after)
	}
}

func play(t *testing.T, urls []string, size, n int) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	var faults atomic.Pointer[error]
	for range 24 {
		wg.Go(func() {
			tr := &http.Transport{DisableKeepAlives: true}
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr}
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := onePlayer(t.Context(), client, urls[i%2], size, i%2 == 1); err != nil {
					faults.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := faults.Load(); err != nil {
		t.Error(*err)
	}
}

// onePlayer opens at a random place and reads a little, or, where nothing comes, waits a moment; then it goes away in the
// middle. Now and then it looks at another place, as after a seek.
func onePlayer(ctx context.Context, client *http.Client, url string, size int, waits bool) error {
	for range 1 + rand.IntN(2) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if waits {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(1+rand.IntN(20))*time.Millisecond)
			defer cancel()
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", rand.IntN(size-1)))
		resp, err := client.Do(req)
		if waits && err != nil {
			continue // it went away
		}
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusPartialContent {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		_, err = io.CopyN(io.Discard, resp.Body, int64(rand.IntN(300<<10)))
		_ = resp.Body.Close() // in the middle
		if err != nil && !waits && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// TestStateIsToldToSystemd is sd_notify(3) as systemd sees it, and SIGHUP.
func TestStateIsToldToSystemd(t *testing.T) {
	path := t.TempDir() + "/notify"
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "400000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	next := func() string {
		t.Helper()
		must(t, l.SetReadDeadline(time.Now().Add(patience)))
		buf := make([]byte, 4096)
		n, err := l.Read(buf)
		must(t, err)
		return string(buf[:n])
	}
	wait := func(prefix string) {
		t.Helper()
		for range 200 {
			if got := next(); len(got) >= len(prefix) && got[:len(prefix)] == prefix {
				return
			}
		}
		t.Fatalf("no %s", prefix)
	}
	f := newFleet(t)
	box := f.box("one", "[limits]\nwan_down = \"8Mbit/s\"\n").start()
	wait("READY=1")
	wait("WATCHDOG=1")
	text, err := os.ReadFile(box.file)
	must(t, err)
	must(t, os.WriteFile(box.file, []byte(string(text)+"[log]\nlevel = \"debug\"\n"), 0o600))
	must(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	wait("RELOADING=1")
	wait("READY=1")
	s := box.until("limited", time.Second, func(s *control.Snapshot) bool { return s.Fetch.Limits.WANDown != nil })
	if *s.Fetch.Limits.WANDown != 1_000_000 {
		t.Errorf("limit %d", *s.Fetch.Limits.WANDown)
	}
	box.end()
	wait("STOPPING=1")
}
