package pace

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// pair is both directions of one access line: the probe sees the sum of their queues. What comes is limited by what peers
// can send, which varies; what goes is limited by what they ask for.
type pair struct {
	down, up       *sim
	rnd            *rand.Rand
	supply, demand float64 // bytes per second, on average
	steady         bool    // the supply does not vary
	now            time.Time
	comes, goes    float64 // what peers send and ask for now
}

const swarmVaries = 100 * time.Millisecond

func newPair(down, up, knownDown float64, seed uint64) *pair {
	p := &pair{down: newSim(down, knownDown), up: newSim(up, 0), rnd: rand.New(rand.NewPCG(3, seed))} //nolint:gosec // a test
	p.up.base = 0
	p.now = p.down.now
	p.supply, p.demand = p.down.rate*2, p.up.rate*4
	return p
}

func (p *pair) step() (got, sent float64) {
	p.now = p.now.Add(simStep)
	p.comes, p.goes = p.vary(p.comes, p.supply), p.vary(p.goes, p.demand)
	// Windows are what is read in a round trip and the slack, so that a queue either way makes less come.
	y, way := p.down.y, p.down.base.Seconds()
	window := y.rate * (way + y.Slack().Seconds()) / (way + p.down.waits().Seconds() + p.up.waits().Seconds())
	return p.down.step(min(y.rate, p.comes, window)), p.up.step(min(p.up.y.rate, p.goes))
}

// vary lets a rate come and go about its average.
func (p *pair) vary(now, average float64) float64 {
	if p.steady || now == 0 {
		return average
	}
	return now + (average*p.rnd.ExpFloat64()*p.rnd.ExpFloat64()-now)*2*simStep.Seconds()/swarmVaries.Seconds()
}

// run returns the shares of both directions that were used, and the 95th percentile of what a probe waited.
func (p *pair) run(d time.Duration) (down, up float64, p95 time.Duration) {
	var got, sent, allGot, allSent float64
	var added []time.Duration
	steps := 0
	for end := p.now.Add(d); p.now.Before(end); {
		g, s := p.step()
		got, sent = got+g, sent+s
		added = append(added, p.down.waits()+p.up.waits())
		if steps++; steps%int(Interval/simStep) != 0 {
			continue
		}
		rtt := p.down.rtt() + p.up.waits()
		p.down.y.Sample(p.now, rtt)
		p.up.y.Sample(p.now, rtt)
		p.tick(int64(got), int64(sent))
		allGot, allSent = allGot+got, allSent+sent
		got, sent = 0, 0
	}
	slices.Sort(added)
	return allGot / p.down.rate / d.Seconds(), allSent / p.up.rate / d.Seconds(), added[len(added)*95/100]
}

func (p *pair) tick(got, sent int64) {
	p.down.y.Tick(p.now, got, p.up.y)
	p.up.y.Tick(p.now, sent, p.down.y)
}

type shares struct{ down, downMost, up, upMost float64 }

func (p *pair) expect(t *testing.T, what string, d time.Duration, want shares, p95 time.Duration) {
	t.Helper()
	down, up, added := p.run(d)
	t.Logf("%-28s down %5.1f%% (seen as %5.1f%%, %s), up %5.1f%% (seen as %5.1f%%, %s), %v added at p95", what, 100*down,
		100*p.down.y.line/p.down.rate, p.down.y.Phase(), 100*up, 100*p.up.y.line/p.up.rate, p.up.y.Phase(), added.Round(100*time.Microsecond))
	if down < want.down || down > want.downMost || up < want.up || up > want.upMost || added > p95 {
		t.Errorf("%s: want down %v, up %v to %v, %v at p95", what, want.down, want.up, want.upMost, p95)
	}
}

// A swarm's peers together send as much as one uplink, and ask for all that there is: the uplink is full, the downlink is
// not, and then the origin sends what is still missing.
func TestBothDirectionsOfASwarm(t *testing.T) {
	for name, known := range map[string]float64{"the line is known": 46, "the line is not known": 0} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				p := newPair(50, 10, known, seed)
				p.supply, p.demand = p.up.rate, 0.7*p.up.rate
				p.run(4 * time.Second)
				p.demand = 2 * p.up.rate
				p.run(10 * time.Second)
				p.expect(t, "from 10 s on", 50*time.Second, shares{0.12, 1, 0.80, 1}, 12*time.Millisecond)
				p.expect(t, "a minute later", 30*time.Second, shares{0.12, 1, 0.80, 1}, 12*time.Millisecond)
				if p.down.y.line < 0.8*known*1e6/8 {
					t.Errorf("the line is thought to give %.0f bytes/s", p.down.y.line)
				}
				p.supply, p.steady = p.down.rate*2, true
				p.run(6 * time.Second)
				p.expect(t, "and all from the origin", 20*time.Second, shares{0.80, 1, 0.75, 1}, 12*time.Millisecond)
			})
		}
	}
}

func TestBothDirectionsFull(t *testing.T) {
	p := newPair(50, 10, 0, 4)
	p.steady = true
	p.run(10 * time.Second)
	p.expect(t, "both full", 30*time.Second, shares{0.80, 1, 0.80, 1}, 10*time.Millisecond)
	p.down.other = true
	p.run(2 * time.Second)
	p.expect(t, "beside a download", 10*time.Second, shares{0, 0.10, 0, 1}, time.Hour)
	p.down.other = false
	p.run(5 * time.Second)
	p.expect(t, "after its end", 10*time.Second, shares{0.80, 1, 0.75, 1}, 10*time.Millisecond)
	p.up.other = true
	p.run(3 * time.Second)
	p.expect(t, "beside an upload", 10*time.Second, shares{0, 1, 0, 0.15}, time.Hour)
	p.up.other = false
	p.run(5 * time.Second)
	p.expect(t, "after its end", 10*time.Second, shares{0.80, 1, 0.75, 1}, 10*time.Millisecond)
	p.down.rate, p.down.limit = p.down.rate/2, p.down.limit/2
	p.run(10 * time.Second)
	p.expect(t, "half a downlink", 20*time.Second, shares{0.75, 1, 0.75, 1}, 12*time.Millisecond)
}

// A thin uplink that we fill ourselves slows down; the downlink does not suffer for it.
func TestYieldOnAThinUplink(t *testing.T) {
	for _, up := range []float64{0.5, 0.8, 1, 1.5, 5} {
		t.Run(fmt.Sprint(up), func(t *testing.T) {
			p := newPair(16, up, 0, 4)
			p.steady = true
			p.run(20 * time.Second)
			p.expect(t, "both full", 60*time.Second, shares{0.85, 1, 0.7, 1}, 15*time.Millisecond)
		})
	}
}
