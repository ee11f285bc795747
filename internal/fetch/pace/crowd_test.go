package pace

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// crowd is a line on which others are many TCP flows, or a call that does not react at all. Senders to us may have no more
// under way than our windows let them, if it is a downlink.
type crowd struct {
	*sim
	windows  bool
	flows    []float64
	call     float64          // bytes per second
	answered func(n int) bool // which echoes are answered; nil: all
	n        int
}

// grow lets flows send ever more until the queue overflows.
func (c *crowd) grow() (others float64) {
	for i := range c.flows {
		c.flows[i] = c.flows[i]*1.01 + 0.0016*c.rate/float64(len(c.flows))
		others += c.flows[i]
	}
	return others + c.call
}

func (c *crowd) step() float64 {
	s := simStep.Seconds()
	ours := c.y.rate
	if c.windows {
		way := c.base.Seconds()
		ours *= min(1, (way+c.y.Slack().Seconds())/(way+c.waits().Seconds()))
	}
	in := (ours + c.grow()) * s
	share := ours * s / in
	had := c.queue
	c.queue = max(0, c.queue+in-c.rate*s)
	if c.queue > c.limit {
		c.queue = c.limit
		if len(c.flows) > 0 {
			c.flows[c.rnd.IntN(len(c.flows))] *= 0.7
		}
	}
	return min(had+in, c.rate*s) * share
}

// run returns the share of the line that we used, and the median and the most of how long packets waited in its queue.
func (c *crowd) run(d time.Duration) (share float64, median, most time.Duration) {
	var sum, moved float64
	var added []time.Duration
	steps := 0
	for end := c.now.Add(d); c.now.Before(end); {
		c.now = c.now.Add(simStep)
		moved += c.step()
		added = append(added, c.waits())
		if steps++; steps%int(Interval/simStep) == 0 {
			c.y.SampleOwn(c.now, c.waits())
			if c.n++; c.answered == nil || c.answered(c.n) {
				c.y.Sample(c.now, c.rtt())
			}
			c.y.Tick(c.now, int64(moved), nil)
			sum += moved
			moved = 0
		}
	}
	slices.Sort(added)
	return sum / c.rate / d.Seconds(), added[len(added)/2], added[len(added)-1]
}

func (c *crowd) expect(t *testing.T, what string, d time.Duration, least, most float64, median time.Duration) {
	t.Helper()
	share, got, _ := c.run(d)
	t.Logf("%-28s %5.1f%% of the line, queue %v at the median, line seen as %.1f%%, %s", what, 100*share,
		got.Round(100*time.Microsecond), 100*c.y.line/c.rate, c.y.Phase())
	if share < least || share > most || got > median {
		t.Errorf("%s: %.1f%% of the line (want %.0f to %.0f%%), queue %v (want %v)", what, 100*share, 100*least, 100*most, got, median)
	}
}

func never(int) bool { return false }

// A queue that others keep full for minutes is not taken for a longer way.
func TestYieldBesideAQueueThatStandsForMinutes(t *testing.T) {
	const any = time.Hour
	for _, c := range []struct {
		mbit, buffer float64 // seconds
		flows        int
		call         float64 // of the line
		down         bool
		most         float64
		queue        time.Duration
	}{
		{10, 0.2, 8, 0, false, 0.10, any},
		{10, 0.2, 16, 0, false, 0.10, any},
		{10, 0.2, 32, 0, false, 0.10, any},
		{50, 0.2, 4, 0, true, 0.10, any},
		{50, 0.2, 16, 0, true, 0.10, any},
		{50, 0.2, 64, 0, true, 0.10, any},
		{50, 0.02, 4, 0, true, 0.15, any},
		{50, 0.02, 16, 0, true, 0.15, any},
		{50, 0.01, 16, 0, true, 0.15, any},
		{10, 0.2, 0, 0.93, false, 0.10, 20 * time.Millisecond},
		{10, 0.2, 0, 0.97, false, 0.10, 20 * time.Millisecond},
		{10, 0.2, 0, 1.0, false, 0.10, any},
		{10, 0.2, 0, 1.05, false, 0.10, any},
		{2, 0.6, 0, 0.85, false, 0.15, 20 * time.Millisecond},
		{2, 0.6, 0, 0.9, false, 0.10, 20 * time.Millisecond},
		{1, 0.6, 0, 0.5, false, 0.50, 20 * time.Millisecond},
		{1, 0.6, 0, 0.7, false, 0.30, 20 * time.Millisecond},
		{1, 0.6, 0, 0.8, false, 0.20, 20 * time.Millisecond},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			s := &crowd{sim: newSim(c.mbit, 0), windows: c.down}
			s.limit = s.rate * c.buffer
			if !c.down {
				s.y.Patient()
			}
			s.run(30 * time.Second)
			s.flows, s.call = make([]float64, c.flows), c.call*s.rate
			s.run(3 * time.Second)
			s.expect(t, "the first ten seconds", 10*time.Second, 0, c.most, any)
			s.expect(t, "to a minute", 50*time.Second, 0, c.most, c.queue)
			s.expect(t, "minutes 2 to 15", 14*time.Minute, 0, c.most, c.queue)
			s.flows, s.call = nil, 0
			s.run(5 * time.Second)
			if c.call > 0 { // which may have been taken for a thinner line
				s.run(15 * time.Second)
			}
			s.expect(t, "after its end", 20*time.Second, 0.85, 1, 6*time.Millisecond)
		})
	}
}

// What is kept beside others is a part of the line, however thin it is.
func TestYieldOnThinLinesBesideOthers(t *testing.T) {
	const any = time.Hour
	for _, c := range []struct {
		mbit   float64
		silent bool
		most   float64
	}{{0.5, false, 0.15}, {1, false, 0.10}, {2, false, 0.10}, {5, false, 0.10}, {0.5, true, 0.33}, {1, true, 0.33}, {2, true, 0.33}, {5, true, 0.33}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			s := &crowd{sim: newSim(c.mbit, 0)}
			s.limit *= 3
			s.y.Patient()
			if c.silent {
				s.answered = never
			}
			s.run(20 * time.Second)
			s.expect(t, "alone", 20*time.Second, 0.85, 1, 15*time.Millisecond)
			s.flows = make([]float64, 1)
			s.run(2 * time.Second)
			s.expect(t, "beside an upload", 6*time.Second, 0, c.most, any)
			s.expect(t, "later", 2*time.Minute, 0, c.most, any)
			s.flows = nil
			s.call = 0.8 * s.rate
			s.run(5 * time.Second)
			s.expect(t, "beside a call", time.Minute, 0, 0.3, any)
			s.call = 0
			s.run(5 * time.Second)
			s.expect(t, "after it", 20*time.Second, 0.80, 1, 15*time.Millisecond)
		})
	}
}

// What is known of the line is forgotten when far less comes.
func TestYieldOnALineThatGivesFarLessThanIsKnown(t *testing.T) {
	for _, c := range []struct {
		known, mbit float64
		down        bool
	}{
		{1000, 16, true},
		{1000, 50, true},
		{500, 16, true},
		{600, 25, true},
		{300, 16, true},
		{200, 10, true},
		{500, 10, true},
		{1000, 16, false},
		{500, 10, false},
		{200, 16, false},
		{100, 2, false},
		{200, 5, false},
	} {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprint(c, before), func(t *testing.T) {
				s := &crowd{sim: newSim(c.mbit, c.known), windows: c.down}
				if before { // it did give that
					s.rate, s.limit = s.rate*c.known/c.mbit, s.limit*c.known/c.mbit
					s.run(20 * time.Second)
					s.rate, s.limit = c.mbit*1e6/8, c.mbit*1e6/8*0.5
				}
				s.run(30 * time.Second)
				s.expect(t, "after half a minute", time.Minute, 0.85, 1, 6*time.Millisecond)
			})
		}
	}
}

// A router that answers few echoes is no queue.
func TestYieldBehindARouterThatAnswersSeldom(t *testing.T) {
	police := func(k int) func(int) bool { return func(n int) bool { return n%20 < k } }
	for name, c := range map[string]struct {
		answered func(s *sim) func(int) bool
		least    float64
	}{
		"1 a second":  {func(*sim) func(int) bool { return police(1) }, 0.4},
		"2 a second":  {func(*sim) func(int) bool { return police(2) }, 0.85},
		"4 a second":  {func(*sim) func(int) bool { return police(4) }, 0.85},
		"8 a second":  {func(*sim) func(int) bool { return police(8) }, 0.85},
		"15 a second": {func(*sim) func(int) bool { return police(15) }, 0.88},
		"one of 3":    {func(*sim) func(int) bool { return func(n int) bool { return n%3 == 0 } }, 0.85},
		"one of 10":   {func(*sim) func(int) bool { return func(n int) bool { return n%10 == 0 } }, 0.85},
		"3 of 10":     {func(s *sim) func(int) bool { return func(int) bool { return s.rnd.Float64() > 0.7 } }, 0.85},
		"1 of 7":      {func(s *sim) func(int) bool { return func(int) bool { return s.rnd.Float64() > 0.85 } }, 0.7},
	} {
		t.Run(name, func(t *testing.T) {
			s := &crowd{sim: newSim(50, 0)}
			s.answered = c.answered(s.sim)
			s.run(30 * time.Second)
			s.expect(t, "nobody else", 2*time.Minute, c.least, 1, 10*time.Millisecond)
			s.flows = make([]float64, 1)
			s.run(4 * time.Second)
			s.expect(t, "beside a download", 20*time.Second, 0, 0.30, time.Hour)
			s.flows = nil
			s.run(10 * time.Second)
			s.expect(t, "after it", 20*time.Second, c.least, 1, 10*time.Millisecond)
		})
	}
}

func TestYieldTakesALongerWayForWhatItIsOverARadio(t *testing.T) {
	for _, noise := range []time.Duration{1, 3, 5, 8, 15} {
		s := &crowd{sim: newSim(50, 0)}
		s.noise = noise * time.Millisecond
		s.run(20 * time.Second)
		s.base += 30 * time.Millisecond
		s.run(25 * time.Second)
		s.expect(t, fmt.Sprint("a longer way, ", s.noise), time.Minute, 0.80, 1, 15*time.Millisecond)
	}
}

func TestYieldBeginsWithoutABurstOnAThinLine(t *testing.T) {
	for _, c := range []struct{ mbit, known float64 }{{0.5, 0.5}, {1, 1}, {2, 2}, {1, 0}, {2, 0}} {
		s := &crowd{sim: newSim(c.mbit, c.known)}
		s.limit *= 3
		s.y.Patient()
		_, _, most := s.run(2 * time.Second)
		t.Log(c, most)
		if most > 120*time.Millisecond || c.known > 0 && most > 25*time.Millisecond {
			t.Errorf("%g Mbit/s, known as %g: a queue of %v", c.mbit, c.known, most)
		}
	}
}

func TestYieldAfterAnAnswerThatCameTooSoon(t *testing.T) {
	s := &crowd{sim: newSim(50, 0), windows: true}
	s.noise = 8 * time.Millisecond
	s.run(20 * time.Second)
	s.y.Sample(s.now, time.Millisecond)
	s.run(15 * time.Second)
	s.expect(t, "a quarter of a minute later", 30*time.Second, 0.80, 1, 10*time.Millisecond)
}
