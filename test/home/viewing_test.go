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

// reads is how long a player's reads took.
type reads struct{ disk, memory []time.Duration }

func (r reads) String() string {
	show := func(list []time.Duration) string {
		return fmt.Sprintf("p50 %v p99 %v (%d)", percentile(list, 50).Round(10*time.Microsecond),
			percentile(list, 99).Round(10*time.Microsecond), len(list))
	}
	return "from the disk " + show(r.disk) + ", from memory " + show(r.memory)
}

// player reads ranges of films that are here as a player does, 64 KiB every 20 ms at random places, for so long, and returns
// how long each took. Every other read is of the cold film, whose bytes are dropped from memory first: the others, which
// no disk can delay, tell what waiting for the processor and the way through loopback HTTP cost.
func (b *box) player(t *testing.T, cold, warm media, length time.Duration) (took reads) {
	client := http.Client{Transport: &http.Transport{DialContext: b.lab.Dial}}
	defer client.CloseIdleConnections()
	blob := b.blob(t, cold)
	defer blob.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); {
		<-tick.C
		at := rand.Int64N(cold.size - 64<<10)
		if err := unix.Fadvise(int(blob.Fd()), at&^4095, 128<<10, unix.FADV_DONTNEED); err != nil {
			t.Error(err)
		}
		took.disk = append(took.disk, b.readRange(t, &client, cold, at))
		if d := took.disk[len(took.disk)-1]; d > 8*time.Millisecond && os.Getenv("HOME_TRACE") != "" {
			fmt.Printf("%7.3f s: a read took %v\n", length.Seconds()-time.Until(end).Seconds(), d)
		}
		<-tick.C
		took.memory = append(took.memory, b.readRange(t, &client, warm, rand.Int64N(warm.size-64<<10)))
	}
	return took
}

// readRange reads 64 KiB.
func (b *box) readRange(t *testing.T, client *http.Client, m media, at int64) time.Duration {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		fmt.Sprintf("http://127.0.0.1:8480/assets/%s/%s", m.id, filepath.Base(m.file)), nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+64<<10-1))
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return 0
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Error(err)
	}
	return time.Since(begin)
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
			boxes, size := 1, int64(700<<20)
			if from == "home" { // it is an order of magnitude faster
				boxes, size = 2, 1300<<20
			}
			s := newSetup(t, netlab.HomeConfig{Boxes: boxes, Line: netlab.LineConfig{Down: 400e6, Up: 50e6, Delay: 5 * time.Millisecond}})
			b := s.boxes[boxes-1]
			for _, x := range s.boxes {
				x.configure("\n[limits]\nyield = false\n") // at full speed, whatever else this machine does
				x.start()
			}
			atHome(t, s.boxes)
			film, warm := s.publish("film.bin", 192<<20), s.publish("warm.bin", 8<<20)
			s.campaign("films", film, warm)
			ready(t, 2*time.Minute, s.boxes, film, warm)

			// Without anything else, then while an asset comes, then while all that is here is read back and hashed, too.
			alone := b.player(t, film, warm, 8*time.Second)
			next := s.publish("next.bin", size)
			eventually(t, "nobody watches", time.Minute, func() error {
				if st, err := b.status(); err != nil || st.Fetch.Playback {
					return fmt.Errorf("somebody does: %w", err)
				}
				return nil
			})
			if from == "home" {
				b.kill()
				s.campaign("next", next)
				ready(t, 4*time.Minute, s.boxes[:1], next) // over the line of this machine's user space
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
			played := make(chan reads)
			go func() { played <- b.player(t, film, warm, 8*time.Second) }()
			cpu1, rate1 := look(2 * time.Second)
			fetching := <-played
			verify := b.lab.Command(t.Context(), filepath.Join(programs, "boxd"), "--socket", b.socket(), "verify", film.id)
			if err := verify.Start(); err != nil {
				t.Fatal(err)
			}
			verifying := b.player(t, film, warm, 8*time.Second)
			_ = verify.Process.Kill()
			_ = verify.Wait()
			if from == "origin" {
				s.controls(t, b, film, warm, cpu1/2)
			}
			t.Logf("RESULT fetching from the %s: processor %.2f s in 2 s at %.1f MB/s; in the 2 s from when a player begins %.2f s at %.1f MB/s",
				from, cpu0, rate0, cpu1, rate1)
			t.Logf("RESULT a player's reads of 64 KiB, nothing else: %v", alone)
			t.Logf("RESULT beside the fetch: %v", fetching)
			t.Logf("RESULT beside the fetch and a verify: %v", verifying)
			if a := b.asset(next.id); a.Verified == a.Length {
				t.Errorf("all of it was here before the end of the measurement")
			}
		})
	}
}

// controls say what of that boxd has caused: while it rests, somebody else takes as much of a processor, and then a plain
// program fetches and writes as fast as boxd did.
func (s *setup) controls(t *testing.T, b *box, cold, warm media, share float64) {
	boxd := func(args ...string) *netlab.Cmd {
		return b.lab.Command(t.Context(), filepath.Join(programs, "boxd"), append([]string{"--socket", b.socket()}, args...)...)
	}
	must(t, boxd("pause").Run())
	time.Sleep(2 * time.Second) // what is under way ends
	t.Logf("RESULT boxd rests: %v", b.player(t, cold, warm, 8*time.Second))
	burn := b.lab.Command(t.Context(), os.Args[0])
	burn.Env = append(os.Environ(), fmt.Sprintf("HOME_BURN=%g", share), "GOMAXPROCS=1")
	must(t, burn.Start())
	burning := b.player(t, cold, warm, 8*time.Second)
	_ = burn.Process.Kill()
	_ = burn.Wait()
	t.Logf("RESULT beside %.0f %% of a processor that somebody else takes: %v", share*100, burning)
	server := s.lab.WAN.Command(t.Context(), "python3", "-m", "http.server", "--bind", s.lab.FleetIP.String(), "--directory", s.dir, "8099")
	must(t, server.Start())
	for _, to := range []string{"/dev/null", b.dir + "/curl.out"} {
		curl := b.lab.Command(t.Context(), "curl", "-sS", "--retry", "5", "--retry-connrefused", "--limit-rate", "8700k", "-o", to,
			fmt.Sprintf("http://%s:8099/next.bin", s.lab.FleetIP))
		must(t, curl.Start())
		fetching := b.player(t, cold, warm, 8*time.Second)
		_ = curl.Process.Kill()
		_ = curl.Wait()
		t.Logf("RESULT beside curl at 8.9 MB/s, without TLS, to %s: %v", filepath.Base(to), fetching)
	}
	_ = server.Process.Kill()
	_ = server.Wait()
	must(t, boxd("resume").Run())
}

// burn takes a share of a processor in slices of a millisecond, as a box that fetches does.
func burn(share float64) {
	for {
		for begin := time.Now(); time.Since(begin) < time.Millisecond; {
			continue
		}
		time.Sleep(time.Duration(float64(time.Millisecond) * (1/share - 1)))
	}
}
