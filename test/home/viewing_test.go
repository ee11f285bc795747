//go:build linux

package home

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"boxd/internal/netlab"
)

// cpu is the processor time that the box has taken, in seconds.
func (b *box) cpu(t *testing.T) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, err1 := strconv.ParseFloat(f[11], 64)
	system, err2 := strconv.ParseFloat(f[12], 64)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return (user + system) / 100
}

// player reads ranges of a file that is here as a player does, 64 KiB every 20 ms at random places, until stop is closed, and
// returns how long each took. The file is dropped from memory first and again before each read.
func (b *box) player(t *testing.T, m media, stop <-chan struct{}) (took []time.Duration) {
	client := http.Client{Transport: &http.Transport{DialContext: b.lab.Dial}}
	defer client.CloseIdleConnections()
	blob := b.blob(t, m)
	defer blob.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return took
		case <-tick.C:
		}
		at := rand.Int64N(m.size - 64<<10)
		if err := unix.Fadvise(int(blob.Fd()), at&^4095, 128<<10, unix.FADV_DONTNEED); err != nil {
			t.Error(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			fmt.Sprintf("http://127.0.0.1:8480/assets/%s/%s", m.id, filepath.Base(m.file)), nil)
		if err != nil {
			t.Error(err)
			return took
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+64<<10-1))
		begin := time.Now()
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return took
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Error(err)
			return took
		}
		took = append(took, time.Since(begin))
	}
}

// blob opens the file in which the box keeps an asset.
func (b *box) blob(t *testing.T, m media) *os.File {
	t.Helper()
	var found string
	_ = filepath.WalkDir(b.dir+"/cache", func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, m.id) {
			if fi, err := d.Info(); err == nil && fi.Size() >= m.size {
				found = path
			}
		}
		return nil
	})
	f, err := os.Open(found)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func percentile(list []time.Duration, p int) time.Duration {
	list = slices.Sorted(slices.Values(list))
	if len(list) == 0 {
		return 0
	}
	return list[(len(list)-1)*p/100]
}

// TestBenchViewing: what a box that fetches as fast as it can costs somebody who begins to watch on it.
func TestBenchViewing(t *testing.T) {
	bench(t)
	for _, from := range []string{"origin", "home"} {
		t.Run(from, func(t *testing.T) {
			boxes := 1
			if from == "home" {
				boxes = 2
			}
			s := newSetup(t, netlab.HomeConfig{Boxes: boxes, Line: netlab.LineConfig{Down: 400e6, Up: 50e6, Delay: 5 * time.Millisecond}})
			b := s.boxes[boxes-1]
			b.configure("\n[limits]\nyield = false\n") // at full speed, whatever else this machine does
			for _, x := range s.boxes {
				x.start()
			}
			atHome(t, s.boxes)
			film := s.publish("film.bin", 192<<20)
			s.campaign("film", film)
			ready(t, 2*time.Minute, s.boxes, film)

			// Without anything else, then while an asset comes and all that is here is read back and hashed.
			play := func(length time.Duration) []time.Duration {
				stop := make(chan struct{})
				time.AfterFunc(length, func() { close(stop) })
				return b.player(t, film, stop)
			}
			alone := play(8 * time.Second)
			next := s.publish("next.bin", 1500<<20)
			if from == "home" {
				b.kill()
				s.campaign("next", next)
				ready(t, 2*time.Minute, s.boxes[:1], next)
				b.start()
			} else {
				s.campaign("next", next)
			}
			eventually(t, "it is fetched", time.Minute, func() error {
				if a := b.asset(next.id); a.Verified < 40<<20 {
					return errors.New(a.Why)
				}
				return nil
			})
			look := func(d time.Duration) (cpu, mb float64) {
				c, n := b.cpu(t), b.asset(next.id).Verified
				time.Sleep(d) // what is measured is this time
				return b.cpu(t) - c, float64(b.asset(next.id).Verified-n) / 1e6 / d.Seconds()
			}
			cpu0, rate0 := look(2 * time.Second)
			stop, played := make(chan struct{}), make(chan []time.Duration)
			go func() { played <- b.player(t, film, stop) }()
			cpu1, rate1 := look(2 * time.Second)
			verify := b.lab.Command(t.Context(), filepath.Join(programs, "boxd"), "--socket", b.socket(), "verify", film.id)
			if err := verify.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second) // the same
			close(stop)
			beside := <-played
			_ = verify.Process.Kill()
			_ = verify.Wait()
			t.Logf("RESULT fetching from the %s: processor %.2f s in 2 s at %.1f MB/s; in the 2 s from when a player begins %.2f s at %.1f MB/s",
				from, cpu0, rate0, cpu1, rate1)
			t.Logf("RESULT a player's reads of 64 KiB from the disk: alone p50 %v p99 %v (%d); beside the fetch and a verify p50 %v p99 %v (%d)",
				percentile(alone, 50).Round(10*time.Microsecond), percentile(alone, 99).Round(10*time.Microsecond), len(alone),
				percentile(beside, 50).Round(10*time.Microsecond), percentile(beside, 99).Round(10*time.Microsecond), len(beside))
		})
	}
}
