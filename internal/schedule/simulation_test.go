package schedule

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// swarm plays a fleet of homes, one box each, that want the same asset: every box decides with Decide and OriginPieces, as
// the real one does, knows only the peers that the tracker told it of, and moves whole pieces, a step at a time. A step
// is the time in which an uplink sends one piece; a downlink takes downPerStep of them.
type swarm struct {
	rnd      *rand.Rand
	boxes    []simBox
	camp     Campaign
	step     time.Duration
	begin    time.Time
	shares   bool // the tracker tells each box its place
	present  []int
	perStep  []int // pieces that the origin sent in each step
	served   int
	finished int
}

type simBox struct {
	id       string
	have     uint64 // bit set of pieces
	known    []int  // peers
	joined   bool
	place    int // as the tracker told it last
	of       int
	told     int // the step of that answer
	knew     int // peers known then
	since    int // the step of joining
	seen     [simPieces]uint8
	takes    int // pieces that may still come in this step
	done     int // the step of completion
	fromPeer int
}

const (
	simPieces   = 64
	simPiece    = 4 << 20  // bytes
	simUp       = 10e6 / 8 // bytes per second
	simDown     = 50e6 / 8 // bytes per second
	downPerStep = 5        // simDown / simUp
	simKnown    = 50       // peers that a box knows at most
	whole       = ^uint64(0)
)

func newSwarm(seed uint64, homes int, camp Campaign, shares bool) *swarm {
	s := &swarm{
		rnd: rand.New(rand.NewPCG(seed, 1)), boxes: make([]simBox, homes), camp: camp, shares: shares,
		step:  time.Duration(simPiece / simUp * float64(time.Second)),
		begin: time.Date(2026, 3, 2, 1, 0, 0, 0, time.UTC),
	}
	s.camp.ID, s.camp.Assets, s.camp.NotBefore = "c", []Ref{{ID: "x"}}, s.begin
	for i := range s.boxes {
		s.boxes[i].id = fmt.Sprintf("box-%05d", i)
	}
	return s
}

// join announces a box: the tracker tells it some of those that are there, and they learn of it when they have room.
func (s *swarm) join(i, now int) {
	b := &s.boxes[i]
	b.joined, b.since, b.place = true, now, len(s.present)
	b.of, b.told = len(s.present)+1, now
	for range min(simKnown/2, len(s.present)) {
		j := s.present[s.rnd.IntN(len(s.present))]
		if p := &s.boxes[j]; len(p.known) < simKnown {
			p.known, b.known = append(p.known, i), append(b.known, j)
			s.learn(b, p.have)
			s.learn(p, b.have)
		}
	}
	s.present = append(s.present, i)
}

func (s *swarm) learn(b *simBox, have uint64) {
	for ; have != 0; have &= have - 1 {
		b.seen[bits.TrailingZeros64(have)]++
	}
}

// announce asks the tracker for the box's share again when it is time: its interval grows with the swarm, as the fleet's
// tracker has it, and a box whose swarm has grown much asks earlier.
func (s *swarm) announce(b *simBox, now int) {
	interval := max(time.Minute, time.Duration(len(s.present)/50)*time.Second)
	since := time.Duration(now-b.told) * s.step
	if since < interval && (since < 5*time.Second || len(b.known) <= 2*b.knew+1) {
		return
	}
	b.of, b.told, b.knew = len(s.present), now, len(b.known)
}

// got gives a box a piece and tells those that know it.
func (s *swarm) got(i, piece, now int) {
	b := &s.boxes[i]
	b.have |= 1 << piece
	b.takes--
	for _, j := range b.known {
		s.boxes[j].seen[piece]++
	}
	if b.have == whole {
		b.done = now + 1
		s.finished++
	}
}

// play runs until every box is complete, or as many steps as are given.
func (s *swarm) play(steps int) {
	for now := 0; now < steps && s.finished < len(s.boxes); now++ {
		s.perStep = append(s.perStep, 0)
		at := s.begin.Add(time.Duration(now) * s.step)
		order := s.rnd.Perm(len(s.boxes))
		for _, i := range order {
			s.boxes[i].takes = downPerStep
			s.decide(i, now, at)
		}
		for _, i := range order {
			s.upload(i, now)
		}
	}
}

// decide lets a box ask its policy, and fetches from the origin what that allows.
func (s *swarm) decide(i, now int, at time.Time) {
	b := &s.boxes[i]
	if b.have == whole {
		return
	}
	missing := int64(simPieces-bits.OnesCount64(b.have)) * simPiece
	a := Asset{
		ID: "x", Length: simPieces * simPiece, Missing: missing, PeersKnown: b.joined && now > b.since, Peers: len(b.known),
		PeerRate: simDown / 4, Started: s.begin.Add(time.Duration(b.since) * s.step), Swarm: max(b.of, len(b.known)+1),
	}
	if !b.joined {
		a.Started = time.Time{}
	}
	a.Since = a.Started
	w := Decide(at, Input{
		BoxID: b.id, ClockTrusted: true, CatalogFresh: true, LineRate: simDown,
		Campaigns: []Campaign{s.camp}, Assets: []Asset{a},
	}).Wants[0]
	if !w.WAN {
		return
	}
	if !b.joined {
		s.join(i, now)
		return // the tracker's answer takes its time
	}
	in := ShareInput{
		BoxID: b.id, Asset: "x", Mode: w.Origin, Pieces: simPieces, Max: downPerStep,
		Missing: func(p int) bool { return b.have&(1<<p) == 0 },
		Holders: func(p int) int { return int(b.seen[p]) },
		Elapsed: time.Duration(now-b.since) * s.step, Pace: w.Pace,
	}
	in.Before = max(0, w.Elapsed-in.Elapsed)
	s.announce(b, now)
	if s.shares && b.of > len(b.known)+1 {
		in.Index, in.Of = b.place, b.of
	} else {
		for _, j := range b.known {
			in.Peers = append(in.Peers, s.boxes[j].id)
		}
	}
	for _, p := range OriginPieces(in) {
		s.got(i, p, now)
		s.perStep[now]++
		s.served++
	}
}

// upload sends one piece to a peer that lacks it: the one that the fewest of that peer's peers have.
func (s *swarm) upload(i, now int) {
	b := &s.boxes[i]
	if b.have == 0 || len(b.known) == 0 {
		return
	}
	first := s.rnd.IntN(len(b.known))
	for k := range b.known {
		j := b.known[(first+k)%len(b.known)]
		p := &s.boxes[j]
		lacks := b.have &^ p.have
		if lacks == 0 || p.takes <= 0 {
			continue
		}
		best, n := -1, 0
		for ; lacks != 0; lacks &= lacks - 1 {
			piece := bits.TrailingZeros64(lacks)
			if best < 0 || p.seen[piece] < p.seen[best] {
				best, n = piece, 1
			} else if p.seen[piece] == p.seen[best] {
				if n++; s.rnd.IntN(n) == 0 {
					best = piece
				}
			}
		}
		p.fromPeer++
		s.got(j, best, now)
		return
	}
}

// figures are what a run is judged by.
type figures struct {
	copies, per100 float64
	peak           float64 // greatest origin rate over a minute (or all of it), divided by the mean
	lines          float64 // the same, divided by what one home's line takes
	peers          float64 // share of the bytes
	last           time.Duration
	late           int
}

func (s *swarm) figures() (f figures) {
	f.copies = float64(s.served) / simPieces
	f.per100 = f.copies / float64(len(s.boxes)) * 100
	f.peers = 1 - f.copies/float64(len(s.boxes))
	lastStep := 0
	for _, b := range s.boxes {
		done := time.Duration(b.done) * s.step
		if b.done == 0 || (!s.camp.Deadline.IsZero() && s.begin.Add(done).After(s.camp.Deadline)) {
			f.late++
		}
		lastStep = max(lastStep, b.done)
	}
	f.last = time.Duration(lastStep) * s.step
	window := min(max(1, int(time.Minute/s.step)), len(s.perStep))
	var greatest float64
	for i := 0; i+window <= len(s.perStep); i++ {
		sum := 0
		for _, n := range s.perStep[i : i+window] {
			sum += n
		}
		greatest = max(greatest, float64(sum)/float64(window))
	}
	f.lines = greatest / downPerStep
	f.peak = greatest / (float64(s.served) / float64(max(lastStep, 1)))
	return f
}

// The fleet's size is set by BOXD_SIM_HOMES for the long form, `make bench-sim`.
func TestSwarmOfTheFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates hundreds of homes")
	}
	homes := 500
	if v := os.Getenv("BOXD_SIM_HOMES"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		homes = n
	}
	floor := time.Duration(simPieces * simPiece / simDown * float64(time.Second))
	begin := time.Date(2026, 3, 2, 1, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		camp   Campaign
		shares bool
		per100 float64 // copies from the origin for 100 homes, at most
	}{
		{"far deadline, by rendezvous", Campaign{Deadline: begin.Add(60 * floor)}, false, 4},
		{"far deadline, shares", Campaign{Deadline: begin.Add(60 * floor)}, true, 1.5},
		{"starts spread, by rendezvous", Campaign{Deadline: begin.Add(60 * floor), Spread: 30 * floor}, false, 1.5},
		{"starts spread, shares", Campaign{Deadline: begin.Add(60 * floor), Spread: 30 * floor}, true, 1.5},
		{"8 floors, shares", Campaign{Deadline: begin.Add(8 * floor)}, true, 1.5},
		{"1.3 floors, shares", Campaign{Deadline: begin.Add(floor * 13 / 10)}, true, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSwarm(1, homes, c.camp, c.shares)
			s.play(int(100 * floor / s.step))
			f := s.figures()
			t.Logf("%d homes: the origin sent %.2f copies, %.2f for 100 homes; at most %.2f times what one home's line takes"+
				" (%.1f times its mean); peers %.2f %%; last complete after %.1f floors", homes, f.copies, f.per100, f.lines, f.peak,
				100*f.peers, f.last.Seconds()/floor.Seconds())
			if f.late > 0 {
				t.Errorf("%d of %d boxes are late", f.late, homes)
			}
			if f.per100 > c.per100 {
				t.Errorf("the origin sent %.2f copies for 100 homes, want at most %.2f", f.per100, c.per100)
			}
		})
	}
}
