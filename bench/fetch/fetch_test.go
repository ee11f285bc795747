//go:build bench

package fetch

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // BEP 3
	"fmt"
	mrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"boxd/internal/asset"
	"boxd/internal/fleet/tracker"
)

const piece = 1 << 20

// world is an asset on disk, an origin and a tracker on loopback.
type world struct {
	dir, file, fromPeer, fromOrigin string // .torrent files with only a tracker, and with only a web seed
	size                            int
	track                           *tracker.Tracker
	id                              asset.ID
}

func newWorld(t *testing.T) *world {
	size := 1 << 30
	if v, err := strconv.Atoi(os.Getenv("MIB")); err == nil {
		size = v << 20
	}
	w := &world{dir: t.TempDir(), size: size}
	w.file = filepath.Join(w.dir, "film")
	data := make([]byte, size)
	_, _ = mrand.NewChaCha8([32]byte{1}).Read(data)
	must(t, os.WriteFile(w.file, data, 0o600))
	var hashes []byte
	for off := 0; off < size; off += piece {
		h := sha1.Sum(data[off:min(off+piece, size)]) //nolint:gosec // BEP 3
		hashes = append(hashes, h[:]...)
	}
	w.track = tracker.New(tracker.Options{Anonymous: true})
	mux := http.NewServeMux()
	mux.Handle("/announce", w.track)
	mux.HandleFunc("/film", func(rw http.ResponseWriter, r *http.Request) { http.ServeFile(rw, r, w.file) })
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	info := map[string]any{"name": "film", "piece length": piece, "length": size, "pieces": string(hashes), "private": 1}
	for _, f := range []struct {
		path *string
		name string
		dict map[string]any
	}{
		{&w.fromPeer, "peer.torrent", map[string]any{"announce": srv.URL + "/announce"}},
		{&w.fromOrigin, "origin.torrent", map[string]any{"url-list": []string{srv.URL + "/"}}},
	} {
		f.dict["info"] = info
		b, err := bencode.Marshal(f.dict)
		must(t, err)
		*f.path = filepath.Join(w.dir, f.name)
		must(t, os.WriteFile(*f.path, b, 0o600))
		in, err := asset.ParseTorrent(b)
		must(t, err)
		w.id = in.ID
	}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFetch prints one line for each client and source.
func TestFetch(t *testing.T) {
	w := newWorld(t)
	fmt.Printf("asset %d MiB on loopback; CPU seconds per GiB (user+sys), peak RSS in MiB, time\n", w.size>>20)
	for _, source := range []string{"peer", "origin"} {
		for _, client := range []string{"boxd", "boxd-tls", "aria2c", "transmission", "libtorrent"} {
			if source == "origin" && client == "boxd-tls" {
				continue
			}
			t.Run(source+"/"+client, func(t *testing.T) { w.measure(t, client, source) })
		}
	}
}

// measure downloads once.
func (w *world) measure(t *testing.T, client, source string) {
	port := 20_000 + os.Getpid()%20_000
	tls := ""
	if client == "boxd-tls" {
		tls = "1"
	}
	torrent := w.fromOrigin
	var seeder *exec.Cmd
	if source == "peer" {
		torrent = w.fromPeer
		seeder = role("seed", "TORRENT="+torrent, "FILE="+w.file, fmt.Sprint("PORT=", port), "TLS="+tls)
		must(t, seeder.Start())
		defer func() { _ = seeder.Process.Kill(); _ = seeder.Wait() }()
		_, err := w.track.Announce(tracker.Announce{
			ID: w.id, Box: "seed", Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)),
		})
		must(t, err)
		time.Sleep(time.Second)
	}
	dir := t.TempDir()
	var cmd *exec.Cmd
	switch client {
	case "boxd", "boxd-tls":
		peer := ""
		if source == "peer" {
			peer = fmt.Sprintf("PEER=127.0.0.1:%d", port)
		}
		cmd = role("leech", "TORRENT="+torrent, "DIR="+dir, "TLS="+tls, peer, "GOGC=50", "GOMAXPROCS=1", "GOMEMLIMIT=48MiB")
	case "aria2c":
		cmd = exec.Command("aria2c", "-q", "--seed-time=0", "--enable-dht=false", "--bt-enable-lpd=false",
			"--file-allocation=none", "-d", dir, torrent)
	case "transmission":
		script := filepath.Join(dir, "done.sh")
		must(t, os.WriteFile(script, []byte("#!/bin/sh\nkill $(cat "+dir+"/pid)\n"), 0o700)) //nolint:gosec // it is run
		cmd = exec.Command("transmission-cli", "-g", dir+"/conf", "-w", dir, "-M", "-f", script, torrent)
	case "libtorrent":
		cmd = exec.Command("/usr/bin/python3", "-c", libtorrentScript, torrent, dir)
	}
	var out bytes.Buffer
	cmd.Stderr = &out
	if cmd.Env == nil {
		cmd.Env = append(os.Environ(), "HOME="+dir)
	}
	began := time.Now()
	must(t, cmd.Start())
	must(t, os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600))
	peak := watchRSS(cmd.Process.Pid)
	timer := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("not complete after 3 min")
	}
	if err != nil && client != "transmission" {
		t.Fatalf("%v: %s", err, out.String())
	}
	took := time.Since(began)
	st := cmd.ProcessState
	cpu := (st.UserTime() + st.SystemTime()).Seconds() * float64(1<<30) / float64(w.size)
	rss := peak() >> 10
	line := fmt.Sprintf("%-7s %-13s cpu %5.2f s/GiB   rss %5d MiB   %5.1f s   block writes %.2f bytes/byte",
		source, client, cpu, rss, took.Seconds(),
		float64(st.SysUsage().(*syscall.Rusage).Oublock)*512/float64(w.size))
	if seeder != nil {
		line += "   seeder cpu " + cpuOf(seeder.Process.Pid, w.size)
	}
	fmt.Println(line)
}

// watchRSS follows the peak of a process's memory; ru_maxrss would count what it inherited from this one.
func watchRSS(pid int) (peak func() int) {
	stop, result := make(chan struct{}), make(chan int)
	go func() {
		best := 0
		for {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if _, after, ok := strings.Cut(string(b), "VmHWM:"); ok {
				kib, _ := strconv.Atoi(strings.Fields(after)[0])
				best = max(best, kib)
			}
			select {
			case <-stop:
				result <- best
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int { close(stop); return <-result }
}

// cpuOf reads what a running process has used, per GiB.
func cpuOf(pid, size int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "?"
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return fmt.Sprintf("%.2f s/GiB", float64(u+s)/100*float64(1<<30)/float64(size))
}

func role(name string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "ROLE="+name), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

const libtorrentScript = `
import libtorrent as lt, sys, time
ses = lt.session({'listen_interfaces': '127.0.0.1:0', 'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False,
  'enable_natpmp': False, 'alert_mask': 0})
h = ses.add_torrent({'ti': lt.torrent_info(sys.argv[1]), 'save_path': sys.argv[2]})
while not h.status().is_seeding:
    time.sleep(0.05)
`
