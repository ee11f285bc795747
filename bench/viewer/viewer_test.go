//go:build bench

package viewer

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/bench/rig"
	"boxd/internal/fetch"
	"boxd/internal/fetch/pace"
	"boxd/internal/identity/identitytest"
	"boxd/internal/netlab"
)

// pinger measures the round-trip time from another host of the home, as a call or a game there would see it.
type pinger struct {
	mu   sync.Mutex
	rtts []time.Duration
}

func startPinger(t *testing.T, ctx context.Context, lab *netlab.Lab, b *netlab.Box) *pinger {
	rig.AllowPing(t, b)
	p, err := pace.OpenProbe(lab.FleetIP, b.Do)
	if err != nil {
		t.Fatal(err)
	}
	pi := &pinger{}
	go func() {
		defer p.Close()
		_ = p.Run(ctx, 20*time.Millisecond, func(_ time.Time, d time.Duration) {
			pi.mu.Lock()
			defer pi.mu.Unlock()
			pi.rtts = append(pi.rtts, d)
		}, func(time.Time) {})
	}()
	return pi
}

// take returns the median and the 95th percentile since the last call.
func (p *pinger) take() (median, p95 time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.rtts)
	if n := len(p.rtts); n > 0 {
		median, p95 = p.rtts[n/2], p.rtts[n*95/100]
	}
	p.rtts = nil
	return median, p95
}

// TestViewer prints one line for each client and line.
func TestViewer(t *testing.T) {
	fmt.Println("download from the origin over a line with a 200 ms drop-tail queue; round-trip time from another host of the home")
	fmt.Println("client   line        line used   added to the median   added at p95")
	for _, mbit := range numbers(t, "LINES", 50, 500) {
		clients := []string{"boxd", "curl"}
		if mbit == 50 {
			clients = append(clients, "aria2", "paced")
		}
		for _, client := range clients {
			t.Run(fmt.Sprintf("%s/%g", client, mbit), func(t *testing.T) { alone(t, client, mbit*1e6, 0) })
		}
	}
	for _, percent := range numbers(t, "LOSS", 1) {
		for _, client := range []string{"boxd", "curls"} { // as many connections
			t.Run(fmt.Sprintf("loss%g/%s", percent, client), func(t *testing.T) { alone(t, client, 50e6, percent/100) })
		}
	}
	t.Run("competing", competing)
	t.Run("halved", halved)
	for _, client := range []string{"boxd", "curl"} {
		t.Run("upload/"+client, func(t *testing.T) { upload(t, client) })
	}
}

// numbers reads a list from the environment.
func numbers(t *testing.T, name string, def ...float64) (list []float64) {
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	for _, s := range strings.Split(v, ",") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}

func newLab(t *testing.T, down, loss float64) (*netlab.Lab, *netlab.Home) {
	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{{Boxes: 2, Line: lineOf(down, loss)}}})
	setCC(t, lab.WAN)
	return lab, lab.Homes[0]
}

// mtuOf is the longest packet, in bytes. With packets of 1,500 bytes at 500 Mbit/s the lab's line takes 57 % of this machine,
// and what is measured is the lab. MTU sets another.
func mtuOf(down float64) int {
	if n, err := strconv.Atoi(os.Getenv("MTU")); err == nil {
		return n
	}
	if down > 200e6 {
		return 9000
	}
	return 1500
}

func lineOf(down, loss float64) netlab.LineConfig {
	return netlab.LineConfig{
		Down: int64(down), Up: int64(min(down/5, 100e6)), Delay: 10 * time.Millisecond, Queue: int64(down / 8 / 5), Loss: loss,
		MTU: mtuOf(down),
	}
}

// setCC makes senders use the congestion control that CC names, instead of the machine's.
func setCC(t *testing.T, ns *netlab.NS) {
	cc := os.Getenv("CC")
	if cc == "" {
		return
	}
	if err := ns.SetCongestion(cc); err != nil {
		t.Fatal(err)
	}
}

// trace writes what the controller decides to a file that TRACE names.
func trace(t *testing.T, line *netlab.Line) {
	if name := os.Getenv("TRACE"); name != "" {
		rig.TraceTo(t, name, line)
	}
}

// download starts a client that downloads the asset in the first box of the home, and returns what ends it.
func download(t *testing.T, client string, fs *rig.FleetSide, b *netlab.Box, line float64) func() {
	if client == "boxd" {
		o := rig.StartOurs(t, identitytest.New(t), fs, b, "box-a", time.Time{}, time.Now().Add(time.Hour), line, fetch.Limits{}, 6880)
		return o.Stop
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	switch client {
	case "paced":
		wg.Go(func() { paced(ctx, fs, b, 0.95*lineOf50) })
	case "aria2":
		run(t, ctx, &wg, b, "aria2c", "-q", "-x16", "-s16", "-d", t.TempDir(), "--file-allocation=none", fs.URL+"/origin/film")
	default:
		n := 1
		if client == "curls" {
			n = 4
		}
		for range n {
			run(t, ctx, &wg, b, "curl", "-s", "-o", "/dev/null", fs.URL+"/origin/film")
		}
	}
	return func() { cancel(); wg.Wait() }
}

func run(t *testing.T, ctx context.Context, wg *sync.WaitGroup, b *netlab.Box, name string, args ...string) {
	cmd := b.Command(ctx, name, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _ = cmd.Wait() })
}

// lineOf50 is what a line of 50 Mbit/s carries besides headers, in bytes per second.
const lineOf50 = 50e6 / 8 * 1448 / 1500

// paced is the client that knows the rate of the line: it reads at its pace, with a receive window to fit.
func paced(ctx context.Context, fs *rig.FleetSide, b *netlab.Box, rate float64) {
	sockets, bucket := pace.NewSockets(), pace.NewBucket(int64(rate))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fs.URL+"/origin/film", http.NoBody)
	if err != nil {
		return
	}
	resp, err := (&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := b.Dial(ctx, network, addr)
			if err == nil {
				sockets.Add(c)
			}
			return c, err
		},
	}}).Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	buf := make([]byte, 64<<10)
	for {
		sockets.Look(time.Now(), rate, 3*time.Millisecond)
		n, err := resp.Body.Read(buf[:bucket.Grant(len(buf))])
		if err != nil || bucket.Take(n, ctx.Done()) != nil {
			return
		}
	}
}

const warm, measured = 15 * time.Second, 15 * time.Second // of a night

func alone(t *testing.T, client string, down, loss float64) {
	lab, home := newLab(t, down, loss)
	size := int(min(down/8*60, 4000<<20)) // more than is fetched in that time
	fs := rig.ServeFleet(t, lab, size, 1<<20)
	if client == "boxd" {
		trace(t, home.Line)
	}
	m := startMeter(t, lab, home)
	m.idle()
	stop := download(t, client, fs, home.Boxes[0], 0)
	defer stop()
	time.Sleep(warm)
	note := os.Getenv("CC")
	if loss > 0 {
		note += fmt.Sprintf(" %.0f%% loss", 100*loss)
	}
	m.report(measured, fmt.Sprintf("%-8s %4g Mbit/s", client, down/1e6), down, downlink, note)
}

func downlink(c netlab.Counters) netlab.Counter { return c.Down }
func uplink(c netlab.Counters) netlab.Counter   { return c.Up }

// meter says how much of the line is used and what that costs another host of the home.
type meter struct {
	*pinger
	line        *netlab.Line
	median, p95 time.Duration // while nobody used the line
}

func startMeter(t *testing.T, lab *netlab.Lab, home *netlab.Home) *meter {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return &meter{pinger: startPinger(t, ctx, lab, home.Boxes[1]), line: home.Line}
}

func (m *meter) idle() {
	time.Sleep(3 * time.Second)
	m.median, m.p95 = m.take()
}

// report measures for d and prints.
func (m *meter) report(d time.Duration, what string, rate float64, way func(netlab.Counters) netlab.Counter, note string) {
	m.take()
	before := m.line.Counters()
	time.Sleep(d)
	c := m.line.Counters().Sub(before)
	median, p95 := m.take()
	late := 1e3 * float64(c.Down.Late+c.Up.Late) / float64(c.Down.Packets+c.Up.Packets)
	fmt.Printf("%-20s %6.1f%%  %15.1f ms  %12.1f ms   idle %.1f/%.1f; of 1,000 packets the lab was late with %.1f %s\n", what,
		100*float64(way(c).Bytes)*8/rate/d.Seconds(), ms(median-m.median), ms(p95-m.p95), ms(m.median), ms(m.p95), late, note)
}

// halved lets the line lose half of its rate while boxd downloads.
func halved(t *testing.T) {
	const down = 50e6
	lab, home := newLab(t, down, 0)
	fs := rig.ServeFleet(t, lab, 200<<20, 1<<20)
	trace(t, home.Line)
	m := startMeter(t, lab, home)
	m.idle()
	stop := download(t, "boxd", fs, home.Boxes[0], 0)
	defer stop()
	time.Sleep(warm)
	home.Line.Set(lineOf(down/2, 0))
	m.report(3*time.Second, "half, first 3 s", down/2, downlink, "")
	time.Sleep(5 * time.Second)
	m.report(10*time.Second, "half, from 8 s on", down/2, downlink, "")
	home.Line.Set(lineOf(down, 0))
	time.Sleep(8 * time.Second)
	m.report(5*time.Second, "whole, from 8 s on", down, downlink, "")
}

// upload lets a box send to one in another home over an uplink of 10 Mbit/s, or curl to a server.
func upload(t *testing.T, client string) {
	const up = 10e6
	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{
		{Boxes: 2, Open: true, Line: netlab.LineConfig{Down: 200e6, Up: up, Delay: 10 * time.Millisecond, Queue: up / 8 / 5}},
		{Boxes: 1, Open: true, Line: netlab.LineConfig{Down: 100e6, Up: 100e6, Delay: 5 * time.Millisecond}},
	}})
	home := lab.Homes[0]
	setCC(t, home.Boxes[0].NS)
	fs := rig.ServeFleet(t, lab, 80<<20, 1<<20)
	m := startMeter(t, lab, home)
	send := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		run(t, ctx, &wg, home.Boxes[1], "curl", "-s", "-o", "/dev/null", "-T", "/dev/zero", fs.URL+"/sink")
		return func() { cancel(); wg.Wait() }
	}
	if client == "curl" {
		m.idle()
		defer send()()
		time.Sleep(5 * time.Second)
		m.report(10*time.Second, "curl, 10 Mbit/s up", up, uplink, "")
		return
	}
	fl := identitytest.New(t)
	later := time.Now().Add(time.Hour)
	trace(t, home.Line)
	a := rig.StartOurs(t, fl, fs, home.Boxes[0], "box-a", time.Time{}, later, 0, fetch.Limits{}, 6880)
	defer a.Stop()
	a.Wait(t, time.Now(), time.Minute)
	time.Sleep(time.Second)
	m.take()
	m.idle()
	fs.Closed.Store(true)
	rig.Trace = nil
	b := rig.StartOurs(t, fl, fs, lab.Homes[1].Boxes[0], "box-b", time.Time{}, later, 0, fetch.Limits{}, 6880)
	defer b.Stop()
	time.Sleep(12 * time.Second)
	m.report(15*time.Second, "boxd, 10 Mbit/s up", up, uplink, "")
	stop := send()
	time.Sleep(2 * time.Second)
	theirs, all := fs.Sunk.Load(), home.Line.Counters().Up.Bytes
	time.Sleep(6 * time.Second)
	share := func(n int64) float64 { return 100 * float64(n) * 8 / up / 6 }
	got := share((fs.Sunk.Load() - theirs) * 1500 / 1448)
	fmt.Printf("beside curl's upload, from 2 s after its start: boxd keeps %.1f%% of the uplink (curl has %.1f%%)\n",
		max(0, share(home.Line.Counters().Up.Bytes-all)-got), got)
	stop()
	time.Sleep(5 * time.Second)
	m.report(5*time.Second, "from 5 s after", up, uplink, "")
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// competing starts a TCP download beside boxd's, and then ends it.
func competing(t *testing.T) {
	const down = 50e6
	lab, home := newLab(t, down, 0)
	fs := rig.ServeFleet(t, lab, 400<<20, 1<<20)
	trace(t, home.Line)
	stop := download(t, "boxd", fs, home.Boxes[0], 0)
	defer stop()
	time.Sleep(warm)
	share := func(d time.Duration, sent func() int64) float64 {
		n := sent()
		time.Sleep(d)
		return float64(sent()-n) * 8 / down / d.Seconds()
	}
	// The box that competes counts what it received; the rest of the line is ours.
	other := rig.ServeFleet(t, lab, 400<<20, 1<<20)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := home.Boxes[1].Command(ctx, "curl", "-s", "-o", "/dev/null", other.URL+"/origin/film")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	for _, d := range []time.Duration{6 * time.Second, 14 * time.Second} { // BBR lets the queue run empty every ten seconds
		begin := home.Line.Counters().Down.Bytes
		theirs := share(d, func() int64 { return other.Sent.Load() * 1500 / 1448 })
		all := float64(home.Line.Counters().Down.Bytes-begin) * 8 / down / d.Seconds()
		fmt.Printf("beside a TCP download, for %s after 2 s: boxd keeps %.1f%% of the line (the download has %.1f%%)\n",
			d, 100*max(0, all-theirs), 100*theirs)
	}
	cancel()
	_ = cmd.Wait()
	time.Sleep(5 * time.Second)
	back := share(5*time.Second, func() int64 { return home.Line.Counters().Down.Bytes })
	fmt.Printf("from 5 s after its end: boxd uses %.1f%% of the line\n", 100*back)
}
