//go:build bench

package viewer

import (
	"context"
	"fmt"
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
	lines := []float64{50}
	if v := os.Getenv("LINES"); v != "" {
		lines = nil
		for _, s := range strings.Split(v, ",") {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, f)
		}
	}
	losses := []float64{0}
	if os.Getenv("LOSS") != "" {
		losses = []float64{0.01}
	}
	fmt.Println("download from the origin over a line with a 200 ms drop-tail queue; round-trip time from another host of the home")
	fmt.Println("client   line        line used   added to the median   added at p95")
	for _, mbit := range lines {
		for _, loss := range losses {
			for _, client := range []string{"boxd", "curl", "aria2"} {
				t.Run(fmt.Sprintf("%s/%g", client, mbit), func(t *testing.T) { alone(t, client, mbit*1e6, loss) })
			}
		}
	}
	t.Run("competing", competing)
}

func newLab(t *testing.T, down, loss float64) (*netlab.Lab, *netlab.Home) {
	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{{
		Boxes: 2, Line: netlab.LineConfig{
			Down: int64(down), Up: int64(min(down/5, 100e6)), Delay: 10 * time.Millisecond, Queue: int64(down / 8 / 5), Loss: loss,
		},
	}}})
	if cc := os.Getenv("CC"); cc != "" {
		if err := lab.WAN.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte(cc), 0o600)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return lab, lab.Homes[0]
}

// trace writes what the controller decides to a file that TRACE names.
func trace(t *testing.T, line *netlab.Line) {
	name := os.Getenv("TRACE")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	last := line.Counters()
	rig.Trace = func(e fetch.Trace) {
		c := line.Counters()
		d := c.Sub(last)
		last = c
		fmt.Fprintf(f, "%7.2f %-9s %-5s rate %6.2f line %6.2f arrived %6.2f read %6.2f MB/s queue %5.1f ms down %6.2f dropped %d\n",
			e.At.Sub(begin).Seconds(), e.Phase, e.Signal, float64(e.Rate)/1e6, e.Line/1e6, float64(e.Arrived)*20/1e6,
			float64(e.Read)*20/1e6, ms(e.Queue), float64(d.Down.Bytes)*20/1e6, d.Down.Dropped)
	}
	t.Cleanup(func() { rig.Trace = nil; _ = f.Close() })
}

// download starts a client that downloads the asset in the first box of the home, and returns what ends it.
func download(t *testing.T, client string, fs *rig.FleetSide, b *netlab.Box, line float64) func() {
	if client == "boxd" {
		o := rig.StartOurs(t, identitytest.New(t), fs, b, "box-a", time.Time{}, time.Now().Add(time.Hour), line, fetch.Limits{}, 6880)
		return o.Stop
	}
	ctx, cancel := context.WithCancel(context.Background())
	args := []string{"-s", "-o", "/dev/null", fs.URL + "/origin/film"}
	name := "curl"
	if client == "aria2" {
		name = "aria2c"
		args = []string{"-q", "-x16", "-s16", "-d", t.TempDir(), "--file-allocation=none", fs.URL + "/origin/film"}
	}
	cmd := b.Command(ctx, name, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() { cancel(); _ = cmd.Wait() }
}

const warm, measured = 8 * time.Second, 15 * time.Second

func alone(t *testing.T, client string, down, loss float64) {
	lab, home := newLab(t, down, loss)
	size := int(min(down/8*(warm+measured+4*time.Second).Seconds(), 1500<<20))
	fs := rig.ServeFleet(t, lab, size, 1<<20)
	if client == "boxd" {
		trace(t, home.Line)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := startPinger(t, ctx, lab, home.Boxes[1])
	time.Sleep(3 * time.Second)
	m0, q0 := p.take()
	stop := download(t, client, fs, home.Boxes[0], 0)
	defer stop()
	time.Sleep(warm)
	p.take()
	before := home.Line.Counters()
	time.Sleep(measured)
	crossed := home.Line.Counters().Sub(before)
	used := crossed.Down.Bytes
	m1, q1 := p.take()
	share := float64(used) * 8 / down / measured.Seconds()
	note := ""
	if loss > 0 {
		note = fmt.Sprintf(" (%.0f%% loss)", 100*loss)
	}
	note += fmt.Sprintf("; the lab itself was late with %.1f of 1,000 packets",
		1e3*float64(crossed.Down.Late+crossed.Up.Late)/float64(crossed.Down.Packets+crossed.Up.Packets))
	fmt.Printf("%-8s %4g Mbit/s  %8.1f%%  %15.1f ms  %12.1f ms   idle %.1f/%.1f%s\n", client, down/1e6, 100*share,
		ms(m1-m0), ms(q1-q0), ms(m0), ms(q0), note)
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
	begin := home.Line.Counters().Down.Bytes
	theirs := share(6*time.Second, other.Sent.Load)
	all := float64(home.Line.Counters().Down.Bytes-begin) * 8 / down / 6
	cancel()
	_ = cmd.Wait()
	time.Sleep(5 * time.Second)
	back := share(5*time.Second, func() int64 { return home.Line.Counters().Down.Bytes })
	fmt.Printf("beside a TCP download, from 2 s after its start: boxd keeps %.1f%% of the line (the download has %.1f%%)\n",
		100*max(0, all-theirs), 100*theirs)
	fmt.Printf("from 5 s after its end: boxd uses %.1f%% of the line\n", 100*back)
}
