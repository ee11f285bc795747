package pace

import (
	"math/rand/v2"
	"sort"
	"testing"
	"time"
)

// line is a drop-tail queue that is fed by us, at our pace, and by somebody's TCP download, which fills what is there.
type line struct {
	rate   float64 // bytes per second
	queue  float64 // bytes that wait
	limit  float64 // bytes
	other  bool    // a TCP download competes
	window float64 // of it, as a rate
	rnd    *rand.Rand
	base   time.Duration
	noise  time.Duration
}

// step passes dt and returns how many of our bytes came through, and a round-trip time.
func (l *line) step(dt time.Duration, ours float64) (int64, time.Duration) {
	s := dt.Seconds()
	var others float64
	if l.other {
		l.window = min(l.window*1.1+100_000, l.rate*1.05)
		others = l.window
	} else {
		l.window = 0
	}
	in := (ours + others) * s
	share := 1.0
	if in > 0 {
		share = ours * s / in
	}
	l.queue = max(0, l.queue+in-l.rate*s)
	if l.queue > l.limit {
		l.queue = l.limit
		l.window *= 0.7
	}
	through := min(in, l.rate*s) * share
	return int64(through), l.base + time.Duration(l.queue/l.rate*float64(time.Second)) +
		time.Duration(l.rnd.Float64()*float64(l.noise))
}

func TestYieldFillsTheLineKeepsItsQueueEmptyAndGetsOutOfTheWay(t *testing.T) {
	for name, c := range map[string]struct{ mbit, known float64 }{
		"50 Mbit/s": {50, 0}, "50 Mbit/s, known": {50, 45}, "500 Mbit/s": {500, 0}, "8 Mbit/s": {8, 0}, "wrongly known": {50, 200},
	} {
		t.Run(name, func(t *testing.T) {
			l := &line{
				rate: c.mbit * 1e6 / 8, limit: c.mbit * 1e6 / 8 * 0.2, rnd: rand.New(rand.NewPCG(1, 2)), //nolint:gosec // a test
				base: 20 * time.Millisecond, noise: 600 * time.Microsecond,
			}
			y := NewYield(c.known * 1e6 / 8)
			now := time.Unix(1000, 0)
			run := func(d time.Duration) (share float64, added []time.Duration) {
				var sum int64
				for end := now.Add(d); now.Before(end); {
					now = now.Add(Interval)
					moved, rtt := l.step(Interval, y.rate)
					sum += moved
					y.Sample(now, rtt)
					y.Tick(now, moved, false)
					added = append(added, time.Duration(l.queue/l.rate*float64(time.Second)))
				}
				return float64(sum) / l.rate / d.Seconds(), added
			}
			run(15 * time.Second)
			share, added := run(30 * time.Second)
			sort.Slice(added, func(i, j int) bool { return added[i] < added[j] })
			p95 := added[len(added)*95/100]
			t.Logf("alone: %.1f%% of the line, %v added at p95", 100*share, p95)
			if share < 0.90 || p95 > 6*time.Millisecond {
				t.Errorf("alone: %.1f%% of the line, %v added at p95", 100*share, p95)
			}
			l.other = true
			run(2 * time.Second)
			share, _ = run(5 * time.Second)
			t.Logf("beside a TCP download: %.1f%%", 100*share)
			if share > 0.10 {
				t.Errorf("%.1f%% kept beside a TCP download", 100*share)
			}
			l.other = false
			run(5 * time.Second)
			share, _ = run(3 * time.Second)
			t.Logf("five seconds after its end: %.1f%%", 100*share)
			if share < 0.85 {
				t.Errorf("only %.1f%% taken back", 100*share)
			}
			l.rate /= 2
			l.limit /= 2
			run(8 * time.Second)
			share, added = run(20 * time.Second)
			sort.Slice(added, func(i, j int) bool { return added[i] < added[j] })
			t.Logf("half the rate: %.1f%%, %v added at p95", 100*share, added[len(added)*95/100])
			if share < 0.85 || added[len(added)*95/100] > 12*time.Millisecond {
				t.Errorf("after the rate halved: %.1f%%, %v", 100*share, added[len(added)*95/100])
			}
		})
	}
}

func TestYieldWithoutSamplesIsNoFasterThanTheLineEverWas(t *testing.T) {
	y := NewYield(1e6)
	now := time.Unix(1000, 0)
	for range 1000 {
		now = now.Add(Interval)
		y.Tick(now, int64(y.rate*Interval.Seconds()), false)
	}
	if y.Rate() > 1e6 {
		t.Fatalf("%d bytes/s", y.Rate())
	}
}
