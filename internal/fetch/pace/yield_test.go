package pace

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// line is a drop-tail queue that is fed by us, at our pace one way's time ago, and by somebody's TCP download, which
// fills what is there.
type line struct {
	rate   float64 // bytes per second
	queue  float64 // bytes that wait
	limit  float64 // bytes
	other  bool    // a TCP download competes
	window float64 // of it, as a rate
	rival  *bbr    // instead, if it is set
	rnd    *rand.Rand
	base   time.Duration
	noise  time.Duration
	busy   float64   // how often answers are late by 20 ms on average
	jitter float64   // of what we send in one step, as a share
	paces  []float64 // ours, which act a round trip later
	lost   float64   // share of the probes that are not answered
}

const simStep = 5 * time.Millisecond

// step passes simStep and returns how many of our bytes came through.
func (l *line) step(pace float64) float64 {
	s := simStep.Seconds()
	l.paces = append(l.paces, pace)
	ours := l.paces[max(0, len(l.paces)-1-int(l.base/simStep))] * (1 + l.jitter*(l.rnd.Float64()-0.5))
	var others float64
	if l.other && l.rival != nil {
		others = l.rival.sends(l)
	} else if l.other {
		l.window = min(l.window*1.01+10_000, l.rate*1.05)
		others = l.window
	} else {
		l.window = 0
	}
	in := (ours + others) * s
	share := 1.0
	if in > 0 {
		share = ours * s / in
	}
	had := l.queue
	l.queue = max(0, l.queue+in-l.rate*s)
	if l.queue > l.limit {
		l.queue = l.limit
		l.window *= 0.7
	}
	out := min(had+in, l.rate*s)
	if l.rival != nil {
		l.rival.gets(l, out*(1-share))
	}
	return out * share
}

func (l *line) rtt() time.Duration {
	late := time.Duration(l.rnd.Float64() * float64(l.noise))
	if l.rnd.IntN(20) == 0 {
		late += 5 * time.Millisecond // a busy processor
	}
	if l.rnd.Float64() < l.busy {
		late += time.Duration(l.rnd.ExpFloat64() * float64(20*time.Millisecond))
	}
	return l.base + l.waits() + late
}

func (l *line) waits() time.Duration { return time.Duration(l.queue / l.rate * float64(time.Second)) }

// sim runs a controller on a line.
type sim struct {
	*line
	y   *Yield
	now time.Time
}

func newSim(mbit, known float64) *sim {
	return &sim{
		line: &line{
			rate: mbit * 1e6 / 8, limit: mbit * 1e6 / 8 * 0.2, rnd: rand.New(rand.NewPCG(1, 2)), //nolint:gosec // a test
			base: 20 * time.Millisecond, noise: 600 * time.Microsecond, jitter: 0.5,
		},
		y: NewYield(known * 1e6 / 8), now: time.Unix(1000, 0),
	}
}

// run returns the share of the line that we used, and the 95th percentile of how long packets waited in its queue.
func (s *sim) run(d time.Duration) (share float64, p95 time.Duration) {
	var sum, moved float64
	var added []time.Duration
	steps := 0
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(simStep)
		moved += s.step(s.y.rate)
		added = append(added, s.waits())
		if steps++; steps%int(Interval/simStep) == 0 {
			s.sample()
			s.y.Tick(s.now, int64(moved), nil)
			sum += moved
			moved = 0
		}
	}
	slices.Sort(added)
	return sum / s.rate / d.Seconds(), added[len(added)*95/100]
}

// sample is a probe, and what our own connections say: they are slow also when little is asked for.
func (s *sim) sample() {
	s.y.SampleOwn(s.now, s.waits()+time.Duration(8<<10/s.y.rate*float64(time.Second)))
	if s.lost > 0 && s.rnd.Float64() < s.lost {
		return
	}
	s.y.Sample(s.now, s.rtt())
}

func (s *sim) expect(t *testing.T, what string, d time.Duration, least, most float64, p95 time.Duration) {
	t.Helper()
	share, added := s.run(d)
	t.Logf("%-28s %5.1f%% of the line, %v added at p95, line seen as %.1f%%", what, 100*share,
		added.Round(100*time.Microsecond), 100*s.y.line/s.rate)
	if share < least || share > most || added > p95 {
		t.Errorf("%s: %.1f%% of the line (want %.0f to %.0f%%), %v added at p95 (want %v)", what, 100*share, 100*least,
			100*most, added, p95)
	}
}

func TestYieldFillsTheLineKeepsItsQueueEmptyAndGetsOutOfTheWay(t *testing.T) {
	const never = time.Hour
	for name, c := range map[string]struct{ mbit, known float64 }{
		"50 Mbit/s": {50, 0}, "50 Mbit/s, known": {50, 45}, "500 Mbit/s": {500, 0}, "8 Mbit/s": {8, 0},
		"known as too fast": {50, 200}, "known as too slow": {50, 10},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(c.mbit, c.known)
			s.run(8 * time.Second)
			s.expect(t, "alone", 30*time.Second, 0.92, 1, 4*time.Millisecond)
			s.other = true
			s.run(2 * time.Second)
			s.expect(t, "beside a TCP download", 10*time.Second, 0, 0.10, never)
			s.other = false
			s.run(5 * time.Second)
			s.expect(t, "five seconds after its end", 5*time.Second, 0.88, 1, 5*time.Millisecond)
			s.rate /= 2
			s.limit /= 2
			s.run(8 * time.Second)
			s.expect(t, "half the rate", 20*time.Second, 0.90, 1, 5*time.Millisecond)
			s.rate *= 2
			s.limit *= 2
			s.run(8 * time.Second)
			s.expect(t, "the whole rate again", 20*time.Second, 0.90, 1, 5*time.Millisecond)
		})
	}
}

// What somebody else's queue leaves us while we rise is not what the line gives.
func TestYieldThatMeetsOthersAtItsBeginningFindsTheLine(t *testing.T) {
	for name, c := range map[string]struct{ from, to time.Duration }{
		"from the first moment": {Interval, 600 * time.Millisecond},
		"while it rises":        {300 * time.Millisecond, 500 * time.Millisecond},
		"for a while":           {400 * time.Millisecond, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(50, 0)
			s.run(c.from)
			s.other = true
			s.run(c.to - c.from)
			s.other = false
			s.run(5 * time.Second)
			s.expect(t, "five seconds later", 10*time.Second, 0.90, 1, 6*time.Millisecond)
		})
	}
}

func TestYieldWhenProbesAreLost(t *testing.T) {
	const never = time.Hour
	s := newSim(50, 0)
	s.lost = 0.3
	s.run(8 * time.Second)
	s.expect(t, "a third is lost", 20*time.Second, 0.90, 1, 6*time.Millisecond)
	s.other = true
	s.run(2 * time.Second)
	s.expect(t, "beside a TCP download", 5*time.Second, 0, 0.10, never)
	s.lost = 1
	s.run(2 * time.Second)
	s.expect(t, "all are lost", 5*time.Second, 0, 0.5, never)
	s.lost, s.other = 0.3, false
	s.run(5 * time.Second)
	s.expect(t, "five seconds after its end", 5*time.Second, 0.88, 1, 6*time.Millisecond)
	s.lost = 1
	s.run(time.Minute)
	s.expect(t, "a minute without a probe", 20*time.Second, 0.4, 1, never)
	s.lost = 0
	s.run(5 * time.Second)
	s.expect(t, "with it", 5*time.Second, 0.88, 1, 6*time.Millisecond)
}

// Two boxes of a home share its line; one ends.
func TestYieldTakesWhatAnotherBoxHasLeft(t *testing.T) {
	for _, told := range []bool{true, false} {
		s := newSim(50, 0)
		s.run(5 * time.Second)
		whole := s.rate
		s.rate, s.limit = whole/3, s.limit/3 // what the others leave
		s.run(30 * time.Second)
		s.rate, s.limit = whole, s.limit*3
		limit := 15 * time.Second
		if told {
			s.y.Freed(whole * 2 / 3)
			limit = 2 * time.Second
		}
		s.run(limit)
		s.expect(t, "after the others' end", 10*time.Second, 0.90, 1, 10*time.Millisecond)
	}
}

func TestYieldIsNotHeldDownByShortBurstsOfOthers(t *testing.T) {
	s := newSim(50, 0)
	s.run(8 * time.Second)
	for range 20 { // somebody reads the news
		s.other = true
		s.run(300 * time.Millisecond)
		s.other = false
		s.run(4 * time.Second)
	}
	s.expect(t, "between pages", 3*time.Second, 0.85, 1, 10*time.Millisecond)
}

func TestYieldOverARadioThatIsLateByItself(t *testing.T) {
	s := newSim(50, 0)
	s.noise = 8 * time.Millisecond
	s.run(10 * time.Second)
	s.expect(t, "a late radio", 60*time.Second, 0.70, 1, 20*time.Millisecond)
}

func TestYieldBesideBusyProcessors(t *testing.T) {
	s := newSim(50, 0)
	s.busy = 0.3
	s.run(10 * time.Second)
	s.expect(t, "busy processors", 60*time.Second, 0.85, 1, 20*time.Millisecond)
	s.other = true
	s.run(2 * time.Second)
	s.expect(t, "and a TCP download", 10*time.Second, 0, 0.10, time.Hour)
}

func TestYieldTakesALongerWayForWhatItIs(t *testing.T) {
	s := newSim(50, 0)
	s.run(10 * time.Second)
	s.base += 30 * time.Millisecond
	s.run(20 * time.Second)
	s.expect(t, "a longer way", 10*time.Second, 0.90, 1, 7*time.Millisecond)
}

func TestYieldWithoutAProbeKeepsAQuarter(t *testing.T) {
	y := NewYield(4e6)
	now := time.Unix(1000, 0)
	for i := range 1000 {
		now = now.Add(Interval)
		y.SampleOwn(now, time.Duration(i%7)*20*time.Millisecond+time.Duration(min(i, 1))*50*time.Millisecond)
		y.Tick(now, int64(y.rate*Interval.Seconds()), nil)
	}
	if y.Rate() < 1e6 {
		t.Fatalf("%d bytes/s", y.Rate())
	}
}

func TestYieldWithoutSamplesIsNoFasterThanTheLineEverWas(t *testing.T) {
	y := NewYield(1e6)
	now := time.Unix(1000, 0)
	for range 1000 {
		now = now.Add(Interval)
		y.Tick(now, int64(y.rate*Interval.Seconds()), nil)
	}
	if y.Rate() > 1e6 {
		t.Fatalf("%d bytes/s", y.Rate())
	}
}

func TestBestRTTThatTheKernelDoesNotKnow(t *testing.T) {
	t.Parallel()
	for us, want := range map[uint32]time.Duration{
		0: 20 * time.Millisecond, 1<<32 - 1: 20 * time.Millisecond, 35_000: 35 * time.Millisecond,
	} {
		if got := bestRTT(us); got != want {
			t.Errorf("%d: %s, want %s", us, got, want)
		}
	}
}
