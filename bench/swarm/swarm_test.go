//go:build bench

package swarm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/bench/rig"
	"boxd/internal/fetch"
	"boxd/internal/fetch/portmap"
	"boxd/internal/identity/identitytest"
	"boxd/internal/netlab"
)

// scale divides the lines and the asset (SCALE=4), so that many homes are no more than the machine can carry.
var scale = max(number(os.Getenv("SCALE")), 1)

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

var (
	size  = 64 << 20 / scale
	piece = 512 << 10 / scale
	down  = 50e6 / float64(scale) // bit/s
	up    = 10e6 / float64(scale)
)

// floorSeconds is size in bits, with TCP/IP and Ethernet headers, over the line's rate.
var floorSeconds = float64(size) * 8 * 1.045 / down

// floor is how long the line needs for the asset alone, headers included.
var floor = time.Duration(floorSeconds * float64(time.Second))

func list(env, def string) []string {
	if v := os.Getenv(env); v != "" {
		def = v
	}
	return strings.Split(def, ",")
}

const swarmPort = 6880

// behindNAT puts every home behind a router that maps ports for who asks (NAT=upnp), instead of open addresses.
func behindNAT() bool { return os.Getenv("NAT") == "upnp" }

func routers() netlab.PortMapping {
	if behindNAT() {
		return netlab.UPnP
	}
	return ""
}

// TestMain plays a box's port mapper in its network namespace until its standard input ends.
func TestMain(m *testing.M) {
	if os.Getenv("MAPPER") == "" {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	mapper := portmap.Mapper{
		Port: swarmPort, Name: os.Getenv("MAPPER"), Changed: func(m portmap.Mapping) { fmt.Println(m.External, m.Err) },
	}
	_ = mapper.Run(ctx)
}

// mapPort has the home's router map the swarm's port, and returns what gives it back.
func mapPort(t *testing.T, b *netlab.Box, name string) (end func()) {
	cmd := b.Command(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "MAPPER="+name)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Fscan(out, &port); err != nil || port != swarmPort {
		t.Fatalf("the router maps port %d, %v", port, err)
	}
	return func() { _ = in.Close(); _ = cmd.Wait() }
}

// TestSwarm prints one line for each client and number of homes.
func TestSwarm(t *testing.T) {
	fmt.Printf("asset %d MiB, %g/%g Mbit/s lines, floor %.1f s; ours remembers the line's rate from nights before\n",
		size>>20, down/1e6, up/1e6, floor.Seconds())
	fmt.Println("client        homes  deadline  origin copies  from peers  first box  last box  last/floor  on time")
	for _, h := range list("HOMES", "4,8") {
		homes, err := strconv.Atoi(h)
		if err != nil {
			t.Fatal(err)
		}
		for _, client := range list("CLIENTS", "boxd:8,boxd:6,boxd:1.3,libtorrent,transmission") {
			t.Run(client+"/"+h, func(t *testing.T) { one(t, client, homes) })
		}
	}
}

func one(t *testing.T, client string, homes int) {
	var cfg netlab.Config
	for range homes {
		cfg.Homes = append(cfg.Homes, netlab.HomeConfig{
			Boxes: 1, Open: !behindNAT(), Maps: routers(),
			Line: netlab.LineConfig{
				Down: int64(down), Up: int64(up), Delay: 10 * time.Millisecond, Queue: int64(200 * down / 8 / 1000),
			},
		})
	}
	lab := netlab.Start(t, cfg)
	fs := rig.ServeFleet(t, lab, size, piece)
	name, factor, _ := strings.Cut(client, ":")
	begin := time.Now()
	var times []time.Duration
	var deadline time.Duration
	if name == "boxd" {
		f, err := strconv.ParseFloat(factor, 64)
		if err != nil {
			t.Fatal(err)
		}
		deadline = time.Duration(f * float64(floor))
		times = runOurs(t, lab, fs, deadline)
	} else {
		times = runStock(t, name, lab, fs, begin)
	}
	var first, last time.Duration
	for i, d := range times {
		if i == 0 || d < first {
			first = d
		}
		last = max(last, d)
	}
	var line int64
	for _, h := range lab.Homes {
		line += h.Line.Counters().Down.Bytes
	}
	copies := float64(fs.Sent.Load()) / float64(size)
	onTime := "-"
	if deadline > 0 {
		onTime = fmt.Sprint(last <= deadline)
	}
	fmt.Printf("%-13s %5d  %8s  %13.2f  %9.0f%%  %8.1fs  %7.1fs  %10.2f  %s\n", name, homes,
		func() string {
			if factor == "" {
				return "-"
			}
			return factor + "x"
		}(), copies, 100*(1-copies/float64(homes)), first.Seconds(), last.Seconds(), last.Seconds()/floor.Seconds(), onTime)
}

func runOurs(t *testing.T, lab *netlab.Lab, fs *rig.FleetSide, deadline time.Duration) []time.Duration {
	fl := identitytest.New(t)
	begin := time.Now().Add(time.Duration(len(lab.Homes)) * 400 * time.Millisecond) // all are up by then
	var boxes []*rig.Ours
	for i, h := range lab.Homes {
		if behindNAT() {
			defer mapPort(t, h.Boxes[0], fmt.Sprintf("box-%d", i))()
		}
		if dir := os.Getenv("TRACE"); dir != "" { // a file for each box
			rig.TraceTo(t, filepath.Join(dir, fmt.Sprintf("box-%d", i)), h.Line)
		}
		boxes = append(boxes, rig.StartOurs(t, fl, fs, h.Boxes[0], fmt.Sprintf("box-%d", i), begin, begin.Add(deadline), 0.93*down/8,
			fetch.Limits{UploadRatio: 4}, swarmPort))
	}
	defer func() {
		var wg sync.WaitGroup
		for _, b := range boxes {
			wg.Go(b.Stop)
		}
		wg.Wait()
	}()
	time.Sleep(time.Until(begin))
	used := busy(t)
	if os.Getenv("VERBOSE") != "" {
		stop := make(chan struct{})
		defer close(stop)
		go trace(boxes, begin, stop)
	}
	var wg sync.WaitGroup
	for _, b := range boxes {
		wg.Go(func() { b.Wait(t, begin, 5*time.Minute) })
	}
	wg.Wait()
	var late, packets int64
	for _, h := range lab.Homes {
		c := h.Line.Counters()
		late, packets = late+c.Down.Late+c.Up.Late, packets+c.Down.Packets+c.Up.Packets
	}
	fmt.Printf("  (%.1f of the machine's %d processors used from the start to the last box; %.2f %% of the packets late on the lines)\n",
		(busy(t)-used).Seconds()/time.Since(begin).Seconds(), runtime.NumCPU(), 100*float64(late)/float64(max(packets, 1)))
	var times []time.Duration
	for i, b := range boxes {
		times = append(times, b.Done)
		if os.Getenv("VERBOSE") != "" {
			s := b.Fetcher.Status()
			t.Logf("home %d: %.1fs %+v wasted %d sent %+v peers %d", i, b.Done.Seconds(), s.Bytes, s.Wasted, s.Sent, len(s.Peers))
		}
	}
	return times
}

// busy is the time that the machine's processors have worked so far, for whomever.
func busy(t *testing.T) time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	var ticks int64
	first, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(first)[1:9] {
		if n, err := strconv.ParseInt(f, 10, 64); err == nil && i != 3 && i != 4 { // idle, and waiting for a disk
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// trace prints every few seconds what each box has, in MiB: verified, of it from the origin, and what
// it may ask of it; then its peers, and in Mbit/s what it sends and what it takes for its line's rate.
func trace(boxes []*rig.Ours, begin time.Time, stop chan struct{}) {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		line := fmt.Sprintf("%5.1fs", time.Since(begin).Seconds())
		for _, b := range boxes {
			s := b.Fetcher.Status()
			for _, a := range s.Assets {
				line += fmt.Sprintf("  %4.1f/%4.1f %s p%d u%.1f l%.0f", float64(a.Verified)/(1<<20), float64(a.Bytes.Origin)/(1<<20),
					a.Origin, a.Peers, float64(a.SentRates.Peer)*8/1e6, s.LineRate*8/1e6)
			}
		}
		fmt.Println(line)
	}
}

const libtorrentScript = `
import libtorrent as lt, sys, time
ses = lt.session({'listen_interfaces': '0.0.0.0:6881', 'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False,
  'enable_natpmp': False, 'alert_mask': 0})
h = ses.add_torrent({'ti': lt.torrent_info(sys.argv[1]), 'save_path': sys.argv[2]})
while not h.status().is_seeding:
    time.sleep(0.1)
open(sys.argv[3], 'w').close()
time.sleep(100000)
`

// runStock runs a stock client in every home until all are complete; all go on seeding meanwhile.
func runStock(t *testing.T, name string, lab *netlab.Lab, fs *rig.FleetSide, begin time.Time) []time.Duration {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := t.TempDir()
	tor := filepath.Join(dir, "film.torrent")
	script := filepath.Join(dir, "lt.py")
	for path, b := range map[string][]byte{tor: fs.Torrent, script: []byte(libtorrentScript)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var flags []string
	for i, h := range lab.Homes {
		own := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(own, 0o700); err != nil {
			t.Fatal(err)
		}
		flag := filepath.Join(own, "done")
		flags = append(flags, flag)
		var cmd *netlab.Cmd
		switch name {
		case "libtorrent":
			cmd = h.Boxes[0].Command(ctx, "/usr/bin/python3", script, tor, own, flag)
		case "transmission":
			done := filepath.Join(own, "done.sh")
			if err := os.WriteFile(done, []byte("#!/bin/sh\ntouch "+flag+"\n"), 0o700); err != nil { //nolint:gosec // it is run
				t.Fatal(err)
			}
			cmd = h.Boxes[0].Command(ctx, "transmission-cli", "-g", own+"/conf", "-w", own, "-p", "6881", "-M", "-f", done, tor)
			cmd.Env = append(os.Environ(), "HOME="+own)
		default:
			t.Fatalf("no client %q", name)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cancel(); _ = cmd.Wait() }()
	}
	times := make([]time.Duration, len(flags))
	left := len(flags)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		for i, f := range flags {
			if _, err := os.Stat(f); err == nil && times[i] == 0 {
				times[i] = time.Since(begin)
				left--
			}
		}
		if left == 0 {
			return times
		}
		if time.Since(begin) > 10*time.Minute {
			t.Fatalf("%d of %d not complete after 10 min", left, len(flags))
		}
	}
	return nil
}
