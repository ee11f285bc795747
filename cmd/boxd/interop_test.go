package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/control"
	"boxd/internal/fleet/tracker"
)

// TestTransmission: a box of a test fleet whose transport security is off fetches from a stock transmission, and a stock
// transmission fetches from it.
func TestTransmission(t *testing.T) {
	if testing.Short() {
		t.Skip("runs transmission-daemon")
	}
	if _, err := exec.LookPath("transmission-daemon"); err != nil && os.Getenv("BOXD_REQUIRE") == "" {
		t.Skip(err)
	}
	if os.Getenv("IN_NAMESPACE") == "" {
		inNamespace(t)
		return
	}
	f := newFleet(t)
	track := tracker.New(tracker.Options{Anonymous: true, MinInterval: time.Second})
	ln, err := net.Listen("tcp", outside+":0")
	must(t, err)
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: track, ReadHeaderTimeout: 10 * time.Second}}
	srv.Start()
	defer srv.Close()
	file, content := mediaFile(t, "film.bin", 6<<20+123)
	id := f.publish(file, "film", func(c *catalog.Campaign) { c.Origin.Never = true }) // only the swarm can bring it
	torrent := f.stockTorrent(id, srv.URL+"/announce")

	seeder := startTransmission(t, torrent, file)
	waitForPeer(t, track, id)
	port := freePort(t)
	box := f.box("plain", fmt.Sprintf("prefixes = [\"192.0.2.0/24\"]\n[swarm]\nlisten = \"%s:%s\"\ninsecure = true\n", boxAddress, port))
	t.Setenv("BOXD_FLEET_TRACKER", srv.URL+"/announce")
	box.start()
	s := box.has(id, time.Minute)
	a, _ := s.Asset(id.String())
	if a.Bytes.Origin != 0 || a.Bytes.Total() < a.Length {
		t.Errorf("%d bytes came as %+v", a.Length, a.Bytes)
	}
	warned := false
	for _, w := range s.Health {
		warned = warned || w.Code == "swarm-insecure"
	}
	if !warned {
		t.Error("nothing warns of the lack of transport security")
	}
	seeder.end()

	dir := startTransmission(t, torrent, "").dir // knows of the box by the tracker
	_, err = track.Announce(tracker.Announce{
		ID: id, Box: "plain", Addr: netip.MustParseAddrPort(boxAddress + ":" + port),
	})
	must(t, err)
	deadline := time.Now().Add(patience)
	for {
		got, err := os.ReadFile(filepath.Join(dir, filepath.Base(file)))
		if err == nil && bytes.Equal(got, content) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("transmission has not fetched it: %d bytes, %v\n%s", len(got), err, box.log)
		}
		time.Sleep(100 * time.Millisecond) // another program is waited for
	}
	box.until("counts what it sent", 10*time.Second, func(s *control.Snapshot) bool {
		return s.Fetch.Sent.Total() >= int64(len(content))
	})
}

// outside is an address that transmission takes for a peer's; it refuses those of loopback. It knows one port of an address,
// the first that it hears of, so that the box has an address of its own.
const (
	outside    = "192.0.2.1"
	boxAddress = "192.0.2.2"
)

// inNamespace runs the test that calls it once more, in a network namespace of its own that has the address outside.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv("BOXD_REQUIRE") == "" {
		t.Skip("network namespaces need root")
	}
	script := "ip link set lo up && ip addr add " + outside + "/32 dev lo && ip addr add " + boxAddress +
		"/32 dev lo && exec \"$0\" \"$@\""
	cmd := exec.Command("unshare", "-n", "sh", "-c", script, os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "IN_NAMESPACE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// stockTorrent is the published .torrent with a tracker and without web seeds, as stock clients cannot show a certificate.
func (f *testFleet) stockTorrent(id asset.ID, announce string) string {
	f.t.Helper()
	list, err := filepath.Glob(f.dir + "/tuf/targets/assets/acme/*" + id.String() + ".torrent")
	must(f.t, err)
	if len(list) != 1 {
		f.t.Fatalf("%d published torrents of %s", len(list), id)
	}
	b, err := os.ReadFile(list[0])
	must(f.t, err)
	var dict map[string]bencode.Bytes
	must(f.t, bencode.Unmarshal(b, &dict))
	delete(dict, "url-list")
	dict["announce"] = bencode.MustMarshal(announce)
	b, err = bencode.Marshal(dict)
	must(f.t, err)
	name := filepath.Join(f.t.TempDir(), "stock.torrent")
	must(f.t, os.WriteFile(name, b, 0o600))
	return name
}

// waitForPeer waits until somebody has announced the asset.
func waitForPeer(t *testing.T, track *tracker.Tracker, id asset.ID) {
	t.Helper()
	for range 1200 {
		res, err := track.Announce(tracker.Announce{
			ID: id, Box: "spy", Addr: netip.MustParseAddrPort("192.0.2.9:9"), Want: 50,
		})
		must(t, err)
		if len(res.Peers) > 0 {
			return
		}
		time.Sleep(100 * time.Millisecond) // another program is waited for
	}
	t.Fatal("transmission has not announced itself")
}

type transmission struct {
	dir string
	end func()
}

// startTransmission runs Debian's daemon on loopback; it seeds file, or fetches the torrent when there is none.
func startTransmission(t *testing.T, torrent, file string) transmission {
	t.Helper()
	conf, dir := t.TempDir(), t.TempDir()
	if file != "" {
		must(t, os.Link(file, filepath.Join(dir, filepath.Base(file))))
	}
	port := freePort(t)
	must(t, os.WriteFile(filepath.Join(conf, "settings.json"), fmt.Appendf(nil, `{"peer-port":%s,"rpc-enabled":false,
"bind-address-ipv4":"192.0.2.1","bind-address-ipv6":"::1","dht-enabled":false,"lpd-enabled":false,"pex-enabled":false,
"utp-enabled":false,"port-forwarding-enabled":false,"download-dir":%q,"watch-dir":%q,"watch-dir-enabled":true,
"ratio-limit-enabled":false,"preallocation":0}`, port, dir, conf+"/watch"), 0o600))
	must(t, os.Mkdir(conf+"/watch", 0o700))
	b, err := os.ReadFile(torrent)
	must(t, err)
	must(t, os.WriteFile(conf+"/watch/stock.torrent", b, 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "transmission-daemon", "-f", "-g", conf, "--log-info")
	var out bytes.Buffer
	cmd.Stderr = &out
	must(t, cmd.Start())
	ended := false
	end := func() {
		if ended {
			return
		}
		ended = true
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("transmission: %s", out.Bytes())
		}
	}
	t.Cleanup(end)
	return transmission{dir: dir, end: end}
}
