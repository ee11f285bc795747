//go:build linux

package home

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"boxd/internal/control"
	"boxd/internal/netlab"
)

// bench keeps the long forms out of `make test`; `make bench-home` runs them.
func bench(t *testing.T) {
	t.Helper()
	if os.Getenv("HOME_BENCH_RUN") == "" {
		t.Skip("optional: make bench-home runs it")
	}
}

// rounds is how often a fault is repeated.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("HOME_ROUNDS")); err == nil {
		return n
	}
	return 10
}

// homes are the homes of TestBenchCopies; HOME_SIZES names others, as "4x1x128 4x6x24": boxes, assets, MiB each.
func homes() (list []homeSize) {
	for _, text := range strings.Fields(cmp.Or(os.Getenv("HOME_SIZES"), "1x1x128 2x1x128 4x1x128 8x1x128 4x6x24")) {
		var h homeSize
		if _, err := fmt.Sscanf(text, "%dx%dx%d", &h.boxes, &h.assets, &h.mib); err == nil {
			list = append(list, h)
		}
	}
	return list
}

type homeSize struct{ boxes, assets, mib int }

// TestBenchCopies: how often assets cross the line, and how long that takes, for homes of several sizes.
func TestBenchCopies(t *testing.T) {
	bench(t)
	for _, c := range homes() {
		t.Run(fmt.Sprintf("%dx%d", c.boxes, c.assets), func(t *testing.T) {
			s := newSetup(t, netlab.HomeConfig{Boxes: c.boxes, Line: line})
			for _, b := range s.boxes {
				if os.Getenv("HOME_YIELD") == "off" { // what the home costs without the controller of the line's queue
					b.configure("[limits]\nyield = false\n")
				}
				b.start()
			}
			atHome(t, s.boxes)
			var films []media
			var base load
			for i := range c.assets {
				films = append(films, s.publish(fmt.Sprintf("film%d.bin", i), int64(c.mib)*mib))
				l := s.curl(films[i])
				base = base.plus(l)
			}
			var known time.Time
			clock := s.watchLine()
			got := s.measure(func() {
				s.campaign("films", films...)
				known = time.Now()
				clock.wait(int64(c.assets*c.mib) * mib)
				ready(t, 10*time.Minute, s.boxes, films...)
			})
			clock.tell(t, known, int64(c.assets*c.mib)*mib)
			ratio := copies(t, fmt.Sprintf("%d boxes, %d assets", c.boxes, c.assets), got, base, int64(c.assets*c.mib)*mib)
			if ratio > 1.01 {
				t.Errorf("%.3f copies, the aim is 1.01", ratio)
			}
			carried := map[int]int{}
			var twice int64
			for _, m := range films {
				twice -= m.size
				for _, b := range s.boxes {
					n := b.asset(m.id).Bytes.WAN()
					if twice += n; n > m.size/2 {
						carried[b.number]++
					}
				}
			}
			t.Logf("assets carried by each box: %v; %d KiB of them came over the line twice", carried, twice>>10)
			s.whoServedWhom(t)
		})
	}
}

// whoServedWhom prints the bytes that each box got from each other one over the LAN.
func (s *setup) whoServedWhom(t *testing.T) {
	t.Helper()
	number := map[string]int{}
	for _, b := range s.boxes {
		number[s.boxID(t, b)] = b.number
	}
	var all, most int64
	given := make([]int64, len(s.boxes))
	for _, b := range s.boxes {
		st, err := b.status()
		must(t, err)
		got := make([]int64, len(s.boxes))
		for _, g := range st.Given {
			if g.Link == "lan" && g.ID != "" {
				got[number[g.ID]] = g.Received >> 20
				given[number[g.ID]] += g.Received
				all += g.Received
			}
		}
		t.Logf("box %d got from each, MiB: %v", b.number, got)
	}
	for _, n := range given {
		most = max(most, n)
	}
	if all > 0 {
		t.Logf("the busiest box gave %.0f %% of the LAN bytes", 100*float64(most)/float64(all))
	}
}

// fault is something that happens to a courier, and how it ends.
type fault struct {
	name      string
	strike    func(t *testing.T, b *box)
	recover   func(t *testing.T, b *box)
	copiesMax float64
}

var faults = []fault{
	{"killed", func(_ *testing.T, b *box) { b.kill() }, func(_ *testing.T, b *box) { b.start() }, 1.05},
	{
		"frozen", func(_ *testing.T, b *box) { b.signal(syscall.SIGSTOP) },
		func(_ *testing.T, b *box) { b.signal(syscall.SIGCONT) }, 1.05,
	},
	{"unplugged", func(t *testing.T, b *box) { must(t, b.lab.Unplug()) }, func(t *testing.T, b *box) { must(t, b.lab.Plug()) }, 1.05},
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBenchCourier: the courier is killed, frozen, unplugged at random moments; the others finish, and the line tells what
// that cost. The struck box comes back and must complete, too, from the home.
func TestBenchCourier(t *testing.T) {
	bench(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			s := newSetup(t, netlab.HomeConfig{Boxes: 4, Line: line})
			for _, b := range s.boxes {
				b.start()
			}
			atHome(t, s.boxes)
			const size = 48 * mib
			base := s.curl(s.publish("base.bin", size))
			var sum, worst float64
			var slowest time.Duration
			for i := range rounds() {
				film := s.publish(fmt.Sprintf("film%d.bin", i), size)
				var took time.Duration
				share := 0.05 + 0.85*rand.Float64()
				got := s.measure(func() {
					s.campaign(fmt.Sprintf("film%d", i), film)
					struck := courierOf(t, s.boxes, film, share)
					f.strike(t, struck)
					took = s.takeOver(film, struck)
					rest := without(s.boxes, struck)
					ready(t, 2*time.Minute, rest, film)
					f.recover(t, struck)
					ready(t, time.Minute, s.boxes, film)
				})
				c := copies(t, fmt.Sprintf("%s at %.0f %%, take-over %v", f.name, share*100, took.Round(10*time.Millisecond)), got, base, size)
				sum, worst, slowest = sum+c, max(worst, c), max(slowest, took)
				atHome(t, s.boxes)
			}
			n := float64(rounds())
			t.Logf("courier %s at %.0f random moments: %.3f copies on average, %.3f at worst; slowest take-over %v", f.name, n, sum/n, worst, slowest)
			if worst > f.copiesMax || slowest > 5*time.Second {
				t.Errorf("the aim is %.2f copies and 5 s", f.copiesMax)
			}
		})
	}
}

func without(boxes []*box, out *box) []*box {
	return slices.DeleteFunc(slices.Clone(boxes), func(b *box) bool { return b == out })
}

// takeOver waits until another box gets bytes of the asset over the line as its courier.
func (s *setup) takeOver(m media, struck *box) time.Duration {
	s.t.Helper()
	start := time.Now()
	rest := without(s.boxes, struck)
	eventually(s.t, "another courier", 20*time.Second, func() error {
		done := 0
		for _, b := range rest {
			a := b.asset(m.id)
			if a.Bytes.WAN() > 0 && (a.Role == "courier" || a.Role == "alone") {
				return nil
			}
			if a.State == control.Ready || a.State == control.Checked {
				done++
			}
		}
		if done == len(rest) {
			return nil // they had all of it between them
		}
		return fmt.Errorf("nobody took over")
	})
	return time.Since(start)
}

// TestBenchJoiner: a box that arrives when the asset is in the home takes nothing over the line; how fast, and at what cost
// of CPU, beside curl over TLS between the same two namespaces.
func TestBenchJoiner(t *testing.T) {
	bench(t)
	s := newSetup(t, netlab.HomeConfig{Boxes: 2, Line: netlab.LineConfig{Delay: line.Delay}})
	first, late := s.boxes[0], s.boxes[1]
	first.start()
	const size = 512 * mib
	film := s.publish("film.bin", size)
	s.campaign("film", film)
	ready(t, 3*time.Minute, s.boxes[:1], film)
	url := serveTLS(t, first.lab.NS, first.lab.IP.String()+":0", film.file)
	start := time.Now()
	cmd := late.lab.Command(t.Context(), "curl", "-sSk", "--http1.1", "-o", late.dir+"/curl.out", url)
	must(t, cmd.Run())
	base := time.Since(start)
	baseCPU := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	_ = os.Remove(late.dir + "/curl.out")

	before := s.home.Line.Counters()
	st0, err := first.status()
	must(t, err)
	late.start()
	var begin time.Time
	eventually(t, "the first byte", 30*time.Second, func() error {
		if late.asset(film.id).Bytes.LAN == 0 {
			return fmt.Errorf("nothing yet")
		}
		return nil
	})
	begin = time.Now()
	joined, err := late.status()
	must(t, err)
	a, _ := joined.Asset(film.id)
	had := a.Bytes.LAN
	ready(t, 3*time.Minute, s.boxes[1:], film)
	took := time.Since(begin)
	st1, err := first.status()
	must(t, err)
	st, err := late.status()
	must(t, err)
	wan := s.home.Line.Counters().Sub(before).Down.Bytes
	gib := float64(size) / (1 << 30)
	t.Logf("late joiner: %d bytes over the line (enrolment and catalog), %+v; LAN goodput %.0f MB/s (curl %.0f), CPU %.2f s/GiB (curl %.2f) and %.2f s to start and join, serving %.2f s/GiB, peak RSS %d MiB",
		wan, late.asset(film.id).Bytes, float64(size-had)/took.Seconds()/1e6, float64(size)/base.Seconds()/1e6,
		(st.Process.CPUSeconds-joined.Process.CPUSeconds)/(float64(size-had)/(1<<30)), baseCPU/gib, joined.Process.CPUSeconds,
		(st1.Process.CPUSeconds-st0.Process.CPUSeconds)/gib, st.Process.PeakRSS>>20)
	if late.asset(film.id).Bytes.WAN() != 0 || wan > mib {
		t.Errorf("the joiner used the line: %d bytes", wan)
	}
	late.played(film)
}

// TestBenchSplit: the home falls in two for a minute; each half has a courier then. After the heal one is left within 10 s.
func TestBenchSplit(t *testing.T) {
	bench(t)
	slow := line
	slow.Down = 8e6
	s := newSetup(t, netlab.HomeConfig{Boxes: 4, Line: slow})
	for _, b := range s.boxes {
		b.start()
	}
	atHome(t, s.boxes)
	film := s.publish("film.bin", 96*mib)
	start := s.home.Line.Counters()
	s.campaign("film", film)
	courierOf(t, s.boxes, film, 0.1)
	must(t, s.home.Partition(2))
	cut := s.home.Line.Counters()
	time.Sleep(time.Minute)
	must(t, s.home.Partition(0))
	split := s.home.Line.Counters().Sub(cut)
	healed := time.Now()
	eventually(t, "one courier after the heal", 20*time.Second, func() error {
		n := 0
		for _, b := range s.boxes {
			if r := b.asset(film.id).Role; r == "courier" || r == "alone" {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%d couriers", n)
		}
		return nil
	})
	took := time.Since(healed)
	ready(t, 4*time.Minute, s.boxes, film)
	all := s.home.Line.Counters().Sub(start)
	t.Logf("split for a minute: one courier %v after the heal; %.3f copies in all, of which %.3f while split", took.Round(10*time.Millisecond),
		float64(all.Down.Bytes)/float64(film.size), float64(split.Down.Bytes)/float64(film.size))
	if took > 10*time.Second {
		t.Errorf("two couriers for %v", took)
	}
	for _, b := range s.boxes {
		b.played(film)
	}
}

// TestBenchSlowCourier: the courier's own way to the WAN is bad; another box takes over.
func TestBenchSlowCourier(t *testing.T) {
	bench(t)
	s := newSetup(t, netlab.HomeConfig{Boxes: 3, Line: line})
	for _, b := range s.boxes {
		b.start()
	}
	atHome(t, s.boxes)
	s.everyBoxCarries(t)
	film := s.publish("film.bin", 128*mib)
	base := s.curl(film)
	got := s.measure(func() {
		s.campaign("film", film)
		slow := courierOf(t, s.boxes, film, 0.1)
		must(t, slow.lab.LimitWAN(200_000))
		defer func() { must(t, slow.lab.LimitWAN(0)) }()
		t.Logf("the courier has 200 kB/s; another took over after %v", s.takeOver(film, slow).Round(100*time.Millisecond))
		ready(t, 5*time.Minute, s.boxes, film)
	})
	copies(t, "slow courier", got, base, film.size)
}

// everyBoxCarries lets each box be a courier once, so that all know what they can get over the line.
func (s *setup) everyBoxCarries(t *testing.T) {
	t.Helper()
	for i := range 20 {
		trailer := s.publish(fmt.Sprintf("trailer%d.bin", i), 16*mib)
		s.campaign(fmt.Sprintf("trailer%d", i), trailer)
		ready(t, time.Minute, s.boxes, trailer)
		idle := 0
		for _, b := range s.boxes {
			st, err := b.status()
			must(t, err)
			if st.Fetch.Bytes.WAN() < 8*mib {
				idle++
			}
		}
		if idle == 0 {
			return
		}
	}
	t.Fatal("20 assets, and one box carried none")
}
