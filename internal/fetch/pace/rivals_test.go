package pace

import (
	"slices"
	"testing"
	"time"
)

// bbr is somebody's download whose sender keeps the queue short (BBR): it sends at what it got at best in its last ten
// round trips, a quarter more and then a quarter less in every eighth, holds no more than a round trip's worth in the
// queue, and lets it run empty every few seconds to see how long the way is.
type bbr struct {
	began, turn time.Duration // since its start, and of the round
	best        [10]float64   // of the last round trips, bytes per second
	got         float64       // bytes in this round
	waits, now  float64       // bytes in the queue, bytes per second that come through
	rounds      int
	full        bool // it has found what it may get
}

const bbrRests, bbrRest = 5 * time.Second, 200 * time.Millisecond

// sends is its rate now; it gets what the line has let through since.
func (b *bbr) sends(l *line) float64 {
	b.began += simStep
	b.turn += simStep
	bw := max(slices.Max(b.best[:]), 10*1448/l.base.Seconds())
	gain := 1.0
	switch {
	case !b.full:
		gain = 2.9
	case b.rounds%8 == 0:
		gain = 1.25
	case b.rounds%8 == 1:
		gain = 0.75
	}
	rate := gain * bw
	switch {
	case b.began%bbrRests < bbrRest && b.began > bbrRests:
		rate = 0.05 * bw
	case b.waits > bw*l.base.Seconds():
		rate = min(rate, b.now)
	}
	b.waits += rate * simStep.Seconds()
	return rate
}

func (b *bbr) gets(l *line, bytes float64) {
	b.got += bytes
	b.waits = max(0, b.waits-bytes)
	b.now = bytes / simStep.Seconds()
	if b.turn < l.base+l.waits() {
		return
	}
	if got := b.got / b.turn.Seconds(); b.began%bbrRests > 2*bbrRest || b.began < bbrRests {
		b.full = b.full || b.rounds > 5 && got < 1.05*b.best[(b.rounds-3)%len(b.best)]
		b.best[b.rounds%len(b.best)] = got
	}
	b.rounds++
	b.got, b.turn = 0, 0
}

func TestYieldBesideASenderThatKeepsTheQueueShort(t *testing.T) {
	const never = time.Hour
	for _, mbit := range []float64{50, 10} {
		s := newSim(mbit, 0)
		s.run(8 * time.Second)
		s.rival = &bbr{}
		s.other = true
		s.run(2 * time.Second)
		s.expect(t, "beside BBR", 6*time.Second, 0, 0.10, never)
		s.other, s.rival = false, nil
		s.run(5 * time.Second)
		s.expect(t, "five seconds after its end", 5*time.Second, 0.88, 1, 5*time.Millisecond)
	}
}

// boxes are several of ours on one line.
type boxes []*sim

// run returns what each got of the line.
func (b boxes) run(d time.Duration) (shares []float64, p95 time.Duration) {
	l := b[0].line
	moved := make([]float64, len(b))
	shares = make([]float64, len(b))
	var added []time.Duration
	steps := 0
	for end := b[0].now.Add(d); b[0].now.Before(end); steps++ {
		var sum float64
		for _, s := range b {
			s.now = s.now.Add(simStep)
			sum += s.y.rate
		}
		got := l.step(sum)
		added = append(added, l.waits())
		for i, s := range b {
			moved[i] += got * s.y.rate / sum
			if (steps+3*i)%int(Interval/simStep) == 0 {
				s.y.Sample(s.now, l.rtt())
				s.y.Tick(s.now, int64(moved[i]), nil)
				shares[i] += moved[i] / l.rate / d.Seconds()
				moved[i] = 0
			}
		}
	}
	slices.Sort(added)
	return shares, added[len(added)*95/100]
}

func TestBoxesShareALine(t *testing.T) {
	for n := 2; n <= 4; n++ {
		b := boxes{newSim(50, 0)}
		for range n - 1 {
			s := newSim(50, 0)
			s.line = b[0].line
			b = append(b, s)
		}
		b[:1].run(5 * time.Second)
		b.run(10 * time.Second)
		for _, s := range b {
			s.now = b[0].now
		}
		shares, p95 := b.run(60 * time.Second)
		var sum float64
		for _, s := range shares {
			sum += s
		}
		t.Logf("%d boxes: %.2f = %.2f of the line, %v added at p95", n, shares, sum, p95)
		if sum < 0.80 {
			t.Errorf("%d boxes use %.2f of the line", n, sum)
		}
	}
}

func TestYieldOverARadioThatBecomesLate(t *testing.T) {
	for _, late := range []time.Duration{4 * time.Millisecond, 15 * time.Millisecond} {
		s := newSim(50, 0)
		s.run(10 * time.Second)
		s.noise = late
		s.run(10 * time.Second)
		s.expect(t, "a radio that has become late", time.Minute, 0.80, 1, 10*time.Millisecond)
	}
}
