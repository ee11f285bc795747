//go:build linux

package home

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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

	"boxd/internal/control"
	"boxd/internal/netlab"
)

var programs string // where boxd and fleetd are

func TestMain(m *testing.M) { os.Exit(run(m)) }

// HOME_TEST_BIN names a directory with boxd and fleetd that are built already.
func run(m *testing.M) int {
	if share, err := strconv.ParseFloat(os.Getenv("HOME_BURN"), 64); err == nil {
		burn(share)
	}
	if programs = os.Getenv("HOME_TEST_BIN"); programs != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "boxd-home-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	return m.Run()
}

// line is the access line of the measurements.
var line = netlab.LineConfig{Down: 50e6, Up: 10e6, Delay: 10 * time.Millisecond}

// fleet is fleetd in the WAN namespace.
type fleet struct {
	t   *testing.T
	lab *netlab.Lab
	ip  netip.Addr
	dir string
}

// at is where boxes reach a port of fleetd.
func (f *fleet) at(port uint16) string { return netip.AddrPortFrom(f.ip, port).String() }

// setup is one home with its fleet.
type setup struct {
	t     *testing.T
	lab   *netlab.Lab
	home  *netlab.Home
	fleet *fleet
	boxes []*box
	dir   string
	names int // that another has given
}

// box is one boxd.
type box struct {
	t      *testing.T
	lab    *netlab.Box
	dir    string
	number int
	cmd    *netlab.Cmd
	done   chan struct{}
}

// newSetup builds the programs once, the home, and starts the fleet manager; boxes are started by the test.
func newSetup(t *testing.T, cfg netlab.HomeConfig) *setup {
	t.Helper()
	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{cfg}})
	return newSetupIn(t, lab, lab.FleetIP)
}

// newSetupIn is newSetup with several homes, and the address of the fleet manager.
func newSetupIn(t *testing.T, lab *netlab.Lab, fleet netip.Addr) *setup {
	t.Helper()
	build(t)
	s := &setup{t: t, lab: lab, home: lab.Homes[0], dir: t.TempDir()}
	s.fleet = startFleet(t, lab, fleet, filepath.Join(s.dir, "fleet"))
	for _, h := range lab.Homes {
		for _, b := range h.Boxes {
			s.boxes = append(s.boxes, s.newBox(b, len(s.boxes)))
		}
	}
	return s
}

func build(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(programs, "fleetd")); err == nil {
		return
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", programs+"/", "./cmd/boxd", "./cmd/fleetd")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// logged gives the end of a program's log when the test has failed.
func logged(t *testing.T, cmd *netlab.Cmd, name, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = f, f
	t.Cleanup(func() {
		_ = f.Close()
		if keep := os.Getenv("HOME_LOGS"); keep != "" { // a directory for the logs, whatever comes of the test
			_ = os.Rename(path, filepath.Join(keep, name+".log"))
			return
		}
		if text, err := os.ReadFile(path); err == nil && t.Failed() {
			t.Logf("the end of %s:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
}

func startFleet(t *testing.T, lab *netlab.Lab, ip netip.Addr, dir string) *fleet {
	t.Helper()
	f := &fleet{t: t, lab: lab, ip: ip, dir: dir}
	cmd := lab.WAN.Command(context.Background(), filepath.Join(programs, "fleetd"), "serve", "--dir", dir,
		"--listen", f.at(8443), "--mqtt", f.at(8883), "--api", "127.0.0.1:8088", "--host", ip.String())
	logged(t, cmd, "fleetd", dir+".log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	client := http.Client{Transport: &http.Transport{DialContext: lab.WAN.Dial, DisableKeepAlives: true}}
	eventually(t, "fleetd is ready", 2*time.Minute, func() error {
		resp, err := client.Get("http://127.0.0.1:8088/readyz")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	return f
}

// run runs a fleetd command and reads its JSON.
func (f *fleet) run(into any, args ...string) {
	f.t.Helper()
	args = append(args, "--dir", f.dir, "--api", "http://127.0.0.1:8088", "--json")
	out, err := f.lab.WAN.Exec(f.t.Context(), filepath.Join(programs, "fleetd"), args...)
	if err != nil {
		f.t.Fatal(err)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(out, into); err != nil {
		f.t.Fatalf("fleetd %s: %v: %s", args[0], err, out)
	}
}

// media is a published asset.
type media struct {
	file string
	id   string
	size int64
	sum  [sha256.Size]byte
}

// publish makes a file of random bytes and publishes it.
func (s *setup) publish(name string, size int64) media {
	s.t.Helper()
	m := media{file: filepath.Join(s.dir, name), size: size}
	f, err := os.Create(m.file)
	if err != nil {
		s.t.Fatal(err)
	}
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, h), rand.Reader, size)
	if err = errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
	m.sum = [sha256.Size]byte(h.Sum(nil))
	var p struct{ ID string }
	s.fleet.run(&p, "publish", m.file)
	m.id = p.ID
	return m
}

// campaign sends assets to all boxes.
func (s *setup) campaign(name string, assets ...media) {
	s.t.Helper()
	args := []string{"campaign", "create", "--name", name, "--group", "default"}
	for _, m := range assets {
		args = append(args, "--asset", m.id)
	}
	s.fleet.run(nil, args...)
}

func (s *setup) newBox(b *netlab.Box, number int) *box {
	s.t.Helper()
	x := &box{t: s.t, lab: b, number: number, dir: filepath.Join(s.dir, fmt.Sprintf("box%d", number))}
	if err := os.MkdirAll(x.dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	fw := filepath.Join(s.fleet.dir, "firmware")
	synced := filepath.Join(x.dir, "synced")
	text := fmt.Sprintf(`[paths]
cache = %q
state = %q
socket = %q
timesync = %q
[fleet]
url = "https://%[5]s"
ca = "%[6]s/ca.pem"
root = "%[6]s/root.json"
token_file = "%[6]s/token"
brokers = ["tls://%[7]s"]
[cache]
quota = "8GiB"
reserve = "64MiB"
[swarm]
listen = ":6880"
[http]
listen = "127.0.0.1:8480"
[log]
level = "debug"
`, x.dir+"/cache", x.dir+"/state", x.socket(), synced, s.fleet.at(8443), fw, s.fleet.at(8883))
	err := errors.Join(os.WriteFile(synced, nil, 0o644), os.WriteFile(x.dir+"/boxd.toml", []byte(text), 0o644))
	if err != nil {
		s.t.Fatal(err)
	}
	return x
}

// configure adds to the box's configuration.
func (b *box) configure(text string) {
	b.t.Helper()
	f, err := os.OpenFile(b.dir+"/boxd.toml", os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// change replaces a piece of the box's configuration.
func (b *box) change(old, now string) {
	b.t.Helper()
	file := b.dir + "/boxd.toml"
	text, err := os.ReadFile(file)
	if err == nil && !bytes.Contains(text, []byte(old)) {
		err = fmt.Errorf("%s has no %q", file, old)
	}
	if err == nil {
		err = os.WriteFile(file, bytes.Replace(text, []byte(old), []byte(now), 1), 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) socket() string { return filepath.Join(b.dir, "boxd.sock") }

func (b *box) start() {
	b.t.Helper()
	b.cmd = b.lab.Command(context.Background(), filepath.Join(programs, "boxd"), "run", "--config", b.dir+"/boxd.toml")
	b.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "BOXD_") // boxd refuses those that it does not know, such as the tests' own
	}), "GOMAXPROCS=1")
	logged(b.t, b.cmd, fmt.Sprintf("box %d", b.number), b.dir+"/log")
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	done, cmd := make(chan struct{}), b.cmd
	b.done = done
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	b.t.Cleanup(b.kill)
}

// kill ends the box as a pulled plug would, as far as a process goes.
func (b *box) kill() {
	_ = b.cmd.Process.Signal(syscall.SIGCONT)
	_ = b.cmd.Process.Kill()
	<-b.done
}

func (b *box) signal(s syscall.Signal) {
	b.t.Helper()
	if err := b.cmd.Process.Signal(s); err != nil {
		b.t.Fatal(err)
	}
}

// status asks the box over its socket.
func (b *box) status() (control.Snapshot, error) {
	var st control.Snapshot
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", b.socket())
		},
	}}
	resp, err := client.Get("http://boxd/api/v1/status")
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// asset is what the box says about an asset; the zero Asset when it says nothing.
func (b *box) asset(id string) control.Asset {
	st, err := b.status()
	if err != nil {
		return control.Asset{}
	}
	a, _ := st.Asset(id)
	return a
}

// atHome waits until these boxes are enrolled and see each other.
func atHome(t *testing.T, boxes []*box) {
	t.Helper()
	eventually(t, "all boxes see each other", 2*time.Minute, func() error {
		for _, b := range boxes {
			st, err := b.status()
			if err != nil {
				return err
			}
			if len(st.Home) != len(boxes)-1 {
				return fmt.Errorf("box %d sees %d of %d", b.number, len(st.Home), len(boxes)-1)
			}
		}
		return nil
	})
}

// ready waits until these boxes have these assets.
func ready(t *testing.T, limit time.Duration, boxes []*box, assets ...media) {
	t.Helper()
	begin, last := time.Now(), time.Time{}
	eventually(t, "everything is ready everywhere", limit, func() error {
		if os.Getenv("HOME_TRACE") != "" && time.Since(last) > 450*time.Millisecond {
			last = time.Now()
			t.Logf("%5.1f s line: %d KiB", time.Since(begin).Seconds(), boxes[0].lab.Line().Counters().Down.Bytes>>10)
			for _, b := range boxes {
				for _, m := range assets {
					a := b.asset(m.id)
					t.Logf("%5.1f s box %d: %s %s %d%% of %s, %+v, rates %+v: %s", time.Since(begin).Seconds(), b.number, a.State,
						a.Role, a.Verified*100/m.size, filepath.Base(m.file), a.Bytes, a.Rates, a.Why)
				}
			}
		}
		var errs []error
		for _, b := range boxes {
			st, err := b.status()
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, m := range assets {
				if a, _ := st.Asset(m.id); a.State != control.Ready {
					errs = append(errs, fmt.Errorf("box %d: %s %s %d of %d, %s, bytes %+v: %s", b.number, filepath.Base(m.file),
						a.State, a.Verified, m.size, a.Role, a.Bytes, a.Why))
				}
			}
		}
		return errors.Join(errs...)
	})
}

// played reads the asset as a player on the box does and checks its bytes.
func (b *box) played(m media) {
	b.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: b.lab.Dial, DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:8480/assets/%s/%s", m.id, filepath.Base(m.file)))
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, resp.Body); err != nil {
		b.t.Fatal(err)
	}
	if !bytes.Equal(h.Sum(nil), m.sum[:]) {
		b.t.Errorf("box %d plays wrong bytes of %s", b.number, m.file)
	}
}

func eventually(t *testing.T, what string, limit time.Duration, f func() error) {
	t.Helper()
	end := time.After(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-end:
			t.Fatalf("not in %v: %s: %v", limit, what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// load is what a transfer cost: time, and bytes on the line towards the home and from it.
type load struct {
	took     time.Duration
	down, up int64
	packets  int64 // towards the home
	dropped  int64
	resent   int64 // segments that servers sent again
}

func (l load) plus(o load) load {
	return load{l.took + o.took, l.down + o.down, l.up + o.up, l.packets + o.packets, l.dropped + o.dropped, l.resent + o.resent}
}

// measure runs f and reads the line before and after it.
func (s *setup) measure(f func()) load {
	resent, before, start := s.resent(), s.home.Line.Counters(), time.Now()
	f()
	d := s.home.Line.Counters().Sub(before)
	took := time.Since(start)
	return load{took: took, resent: s.resent() - resent, down: d.Down.Bytes, up: d.Up.Bytes, packets: d.Down.Packets, dropped: d.Down.Dropped}
}

// resent is how many segments the WAN's servers have sent again so far.
func (s *setup) resent() int64 {
	s.t.Helper()
	text, err := s.lab.WAN.Exec(s.t.Context(), "cat", "/proc/net/snmp")
	must(s.t, err)
	var lines [][]string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Tcp:") {
			lines = append(lines, strings.Fields(line))
		}
	}
	if len(lines) != 2 || len(lines[0]) != len(lines[1]) {
		s.t.Fatalf("/proc/net/snmp: %q", text)
	}
	n, err := strconv.ParseInt(lines[1][slices.Index(lines[0], "RetransSegs")], 10, 64)
	must(s.t, err)
	return n
}

// curl downloads as many bytes over TLS to one box.
func (s *setup) curl(m media) load {
	s.t.Helper()
	url := serveTLS(s.t, s.lab.WAN, s.lab.FleetIP.String()+":0", m.file)
	return s.measure(func() { curl(s.t, s.boxes[0].lab.NS, url, m.size) })
}

func curl(t *testing.T, ns *netlab.NS, url string, size int64) {
	t.Helper()
	out, err := ns.Exec(t.Context(), "curl", "-sSk", "--http1.1", "-o", "/dev/null", "-w", "%{size_download}", url)
	if err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(size) {
		t.Fatalf("curl: %v: %q of %d bytes", err, out, size)
	}
}
