//go:build bench

package fetch

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // BEP 3
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	ln, err := net.Listen("tcp", host+":0")
	must(t, err)
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}}
	srv.Start()
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

// choice reads a list from the environment.
func choice(env, def string) []string {
	if v := os.Getenv(env); v != "" {
		def = v
	}
	return strings.Split(def, ",")
}

// TestFetch prints one line for each client and source: one fast peer, 16 peers, the origin, a peer on a slow line.
func TestFetch(t *testing.T) {
	w := newWorld(t)
	fmt.Printf("asset %d MiB on loopback; CPU seconds per GiB (user+sys), memory in MiB\n", w.size>>20)
	for _, source := range choice("SOURCES", "peer,origin,slow,peers16") {
		for _, client := range choice("CLIENTS", clients) {
			other := client == "boxd-tls" || client == "boxd-stock" // ways to talk to peers
			if other && source == "origin" || source == "peers16" && !strings.HasPrefix(client, "boxd") {
				continue
			}
			t.Run(source+"/"+client, func(t *testing.T) { w.measure(t, client, source) })
		}
	}
}

// clients are ours, plain and with mutual TLS, ours as it talks to stock clients, and stock clients.
const clients = "boxd,boxd-tls,boxd-stock,aria2c,transmission,libtorrent"

// options are what our roles need to play a client.
func options(client string) []string {
	switch client {
	case "boxd":
		return []string{fmt.Sprint("BLOCK=", 64<<10)}
	case "boxd-tls":
		return []string{"TLS=1", fmt.Sprint("BLOCK=", 64<<10)}
	}
	return nil
}

// slowLine is 100 Mbit/s.
const slowLine = 12_500_000

// box is how the daemon's process is set up (see the daemon's run command).
var box = []string{"GOMAXPROCS=" + env("PROCS", "1"), "GOGC=" + env("GC", "50"), "GOMEMLIMIT=64MiB"}

func env(name, def string) string { return choice(name, def)[0] }

func freePort() int { return 20_000 + os.Getpid()%20_000 }

// measure downloads once.
func (w *world) measure(t *testing.T, client, source string) {
	ours := options(client)
	torrent := w.fromOrigin
	var seeder *exec.Cmd
	var where []string
	if source != "origin" {
		torrent = w.fromPeer
		where = append([]string{fmt.Sprint("PORT=", freePort())}, ours...)
		switch source {
		case "slow":
			where = append(where, fmt.Sprint("RATE=", slowLine))
		case "peers16":
			where = append(where, "SEEDS=16", fmt.Sprint("RATE=", slowLine))
		}
		seeder = role("seed", append(where, "TORRENT="+torrent, "FILE="+w.file)...)
		must(t, seeder.Start())
		defer end(seeder)
		_, err := w.track.Announce(tracker.Announce{
			ID: w.id, Box: "seed", Addr: netip.AddrPortFrom(netip.MustParseAddr(host), uint16(freePort())),
		})
		must(t, err)
		time.Sleep(time.Second)
	}
	dir := t.TempDir()
	var cmd *exec.Cmd
	switch client {
	case "boxd", "boxd-tls", "boxd-stock":
		cmd = role("leech", slices.Concat(box, ours, where, []string{"TORRENT=" + torrent, "DIR=" + dir, "RATE="})...)
	case "aria2c":
		cmd = exec.Command("aria2c", "-q", "--seed-time=0", "--enable-dht=false", "--bt-enable-lpd=false",
			"--file-allocation=none", "-d", dir, torrent)
	case "transmission":
		script := filepath.Join(dir, "done.sh")
		must(t, os.WriteFile(script, []byte("#!/bin/sh\nkill $(cat "+dir+"/pid)\n"), 0o700)) //nolint:gosec // it is run
		must(t, os.MkdirAll(dir+"/conf", 0o700))
		must(t, os.WriteFile(dir+"/conf/settings.json", []byte(`{"utp-enabled":false,"dht-enabled":false}`), 0o600)) // TCP at once
		cmd = exec.Command("transmission-cli", "-g", dir+"/conf", "-w", dir, "-M", "-f", script, torrent)
	case "libtorrent":
		cmd = exec.Command("/usr/bin/python3", "-c", libtorrentScript, torrent, dir, "0")
	default:
		t.Fatalf("no client %q", client)
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
	timer := time.AfterFunc(90*time.Second, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("not complete after 90 s")
	}
	if err != nil && client != "transmission" {
		t.Fatalf("%v: %s", err, out.String())
	}
	took := time.Since(began)
	st := cmd.ProcessState
	usage := st.SysUsage().(*syscall.Rusage)
	rss, anon := peak()
	fmt.Printf("%-8s %-13s cpu %5.2f s/GiB (%4.2f sys)  rss %5d (anonymous %3d)  %6.1f s  switches %7.0f/GiB  "+
		"written %.2f bytes/byte\n",
		source, client, w.perGiB((st.UserTime() + st.SystemTime()).Seconds()), w.perGiB(st.SystemTime().Seconds()), rss, anon,
		took.Seconds(), w.perGiB(float64(usage.Nvcsw+usage.Nivcsw)), float64(usage.Oublock)*512/float64(w.size))
}

func (w *world) perGiB(x float64) float64 { return x * float64(1<<30) / float64(w.size) }

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
}

// TestSeed prints what serving the asset to the least leecher costs, and to four of them.
func TestSeed(t *testing.T) {
	w := newWorld(t)
	fmt.Printf("asset %d MiB on loopback; CPU seconds per GiB sent (user+sys), memory in MiB\n", w.size>>20)
	for _, n := range choice("LEECHERS", "1,4,slow") {
		leechers, err := strconv.Atoi(n)
		rate := "RATE="
		if n == "slow" {
			leechers, err, rate = 1, nil, fmt.Sprint("RATE=", slowLine)
		}
		must(t, err)
		for _, client := range choice("CLIENTS", clients) {
			t.Run(n+"/"+client, func(t *testing.T) { w.serve(t, client, leechers, rate) })
		}
	}
}

func (w *world) serve(t *testing.T, client string, leechers int, rate string) {
	port, ours := fmt.Sprint(freePort()), options(client)
	var cmd *exec.Cmd
	dir := t.TempDir()
	switch client {
	case "boxd-tls", "boxd", "boxd-stock":
		cmd = role("seed", slices.Concat([]string{"PORT=" + port, "TORRENT=" + w.fromPeer, "FILE=" + w.file}, ours, box)...)
	case "aria2c":
		cmd = exec.Command("aria2c", "-q", "--seed-ratio=0", "--enable-dht=false", "--bt-enable-lpd=false", "--listen-port="+port,
			"--check-integrity=true", "--bt-seed-unverified=false", "-d", w.dir, w.fromPeer)
	case "transmission":
		conf := `{"peer-port":` + port + `,"rpc-enabled":false,"utp-enabled":false,"encryption":0,"upload-slots-per-torrent":20,"cache-size-mb":4}`
		must(t, os.MkdirAll(dir+"/conf", 0o700))
		must(t, os.WriteFile(dir+"/conf/settings.json", []byte(conf), 0o600))
		cmd = exec.Command("transmission-cli", "-g", dir+"/conf", "-w", w.dir, "-M", "-p", port, w.fromPeer)
	case "libtorrent":
		cmd = exec.Command("/usr/bin/python3", "-c", libtorrentScript, w.fromPeer, w.dir, port)
	}
	if cmd.Env == nil {
		cmd.Env = append(os.Environ(), "HOME="+dir)
	}
	must(t, cmd.Start())
	defer end(cmd)
	settled(cmd.Process.Pid)
	peak := watchRSS(cmd.Process.Pid)
	before := cpuOf(cmd.Process.Pid)
	var list []*exec.Cmd
	outs := make([]bytes.Buffer, leechers)
	for i := range leechers {
		l := role("drain", append(ours, "PORT="+port, "TORRENT="+w.fromPeer, fmt.Sprint("N=", i), rate)...)
		l.Stdout = &outs[i]
		must(t, l.Start())
		timer := time.AfterFunc(time.Minute, func() { _ = l.Process.Kill() })
		defer timer.Stop()
		list = append(list, l)
	}
	for _, l := range list {
		must(t, l.Wait())
	}
	var sent, speed float64
	for i := range outs {
		var bytes int64
		var seconds float64
		if _, err := fmt.Sscan(outs[i].String(), &bytes, &seconds); err != nil {
			t.Fatal(err)
		}
		sent += float64(bytes)
		speed += float64(bytes) / seconds
	}
	cpu := (cpuOf(cmd.Process.Pid) - before) / sent * (1 << 30)
	rss, anon := peak()
	fmt.Printf("seed to %d %-13s cpu %5.2f s/GiB  rss %5d (anonymous %3d)  %6.1f MB/s\n", leechers, client, cpu, rss, anon, speed/1e6)
}

// settled waits until a client has checked its file and does nothing any more.
func settled(pid int) {
	time.Sleep(time.Second)
	for last := -1.0; ; {
		now := cpuOf(pid)
		if now-last < 0.02 {
			return
		}
		last = now
		time.Sleep(time.Second)
	}
}

// watchRSS follows the peak of a process's memory, and of the part that no file backs, in MiB; ru_maxrss would count what
// it inherited from this one.
func watchRSS(pid int) (peak func() (rss, anon int)) {
	stop, done := make(chan struct{}), make(chan struct{})
	var rss, anon int
	go func() {
		defer close(done)
		for {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			for _, f := range []struct {
				key string
				val *int
			}{{"VmHWM:", &rss}, {"RssAnon:", &anon}} {
				if _, after, ok := strings.Cut(string(b), f.key); ok {
					kib, _ := strconv.Atoi(strings.Fields(after)[0])
					*f.val = max(*f.val, kib)
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() (int, int) { close(stop); <-done; return rss >> 10, anon >> 10 }
}

// cpuOf reads the seconds that a running process has used.
func cpuOf(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return float64(u+s) / 100
}

func role(name string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "ROLE="+name), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// libtorrentScript fetches and ends, or serves when it is given a port.
const libtorrentScript = `
import libtorrent as lt, sys, time
ses = lt.session({'listen_interfaces': '192.0.2.1:' + sys.argv[3], 'enable_dht': False, 'enable_lsd': False,
  'enable_upnp': False, 'enable_natpmp': False, 'alert_mask': 0, 'unchoke_slots_limit': 20,
  'allow_multiple_connections_per_ip': True})
h = ses.add_torrent({'ti': lt.torrent_info(sys.argv[1]), 'save_path': sys.argv[2]})
while sys.argv[3] != '0' or not h.status().is_seeding:
    time.sleep(0.05 if sys.argv[3] == '0' else 1)
`
