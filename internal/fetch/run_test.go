package fetch

import (
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/pace"
	"boxd/internal/schedule"
)

// Who begins first knows of nobody yet and asks for little at one time: what it takes, others would soon take, too.
func TestRequestsGrowAsLongAsNobodyElseIsThere(t *testing.T) {
	const mib = 1 << 20
	var pieces []int
	for i := range 1000 {
		pieces = append(pieces, i)
	}
	const long = 2*aloneAfter + time.Second
	for _, c := range []struct {
		since      time.Duration
		rate, want int // MiB per second, MiB
	}{{0, 8, 4}, {aloneAfter + time.Second, 8, 8}, {long, 1, 32}, {long, 8, 80}, {long, 100, 512}} {
		f := &Fetcher{}
		f.measured.best = 8 * mib
		it := &item{
			info:       &asset.Info{PieceLength: mib, Length: 1000 * mib},
			originRate: pace.NewBucket(pace.Unlimited), wanSince: time.Now().Add(-c.since),
		}
		it.rates.smooth.Origin = int64(c.rate) * mib
		if first, end := f.runOf(it, pieces, schedule.OriginAssist, false); end-first != c.want {
			t.Errorf("alone for %v with %d MiB/s it asks for %d MiB, want %d", c.since, c.rate, end-first, c.want)
		}
		it.demand = []Span{{First: 999, End: 1000}}
		if first, end := f.runOf(it, pieces, schedule.OriginAssist, false); end-first > 8 {
			t.Errorf("while somebody plays it asks for %d MiB", end-first)
		}
	}
}

type near struct {
	Swarm
	pieces []int
}

func (n near) Availability(asset.ID, engine.Class) []int { return n.pieces }

type nothing struct{ Asset }

func (nothing) Have(int) bool { return false }

// A request that was made long because nobody else was there does not keep others from bringing what it covers.
func TestLongRequestsEndWhenSomebodyComes(t *testing.T) {
	const mib = 1 << 20
	var here []int
	ends := func(pieces int, change func(*item)) (ended bool) {
		it := &item{info: &asset.Info{PieceLength: mib}, store: nothing{}, runs: map[*originRun]bool{}}
		it.want.Origin = schedule.OriginSpare
		it.runs[&originRun{end: pieces, cancel: func() { ended = true }}] = true
		change(it)
		(&Fetcher{swarm: near{pieces: here}}).shorten(it)
		return ended
	}
	comes := func(it *item) { it.live.Peers = []engine.PeerStats{{Class: engine.WAN}} }
	if ends(500, func(*item) {}) {
		t.Error("ended while nobody was there")
	}
	if ends(32, comes) {
		t.Error("a short one ended")
	}
	if !ends(500, comes) {
		t.Error("not ended for a peer")
	}
	if !ends(500, func(it *item) { it.demand = []Span{{First: 1, End: 2}} }) {
		t.Error("not ended for a player")
	}
	if !ends(500, func(it *item) { it.want.Origin = schedule.OriginOff }) {
		t.Error("not ended where the origin is off")
	}
	here = make([]int, 500)
	if here[0] = 1; ends(500, func(*item) {}) {
		t.Error("ended for the piece that is on its way")
	}
	if here[250] = 1; !ends(500, func(*item) {}) {
		t.Error("not ended for a piece that is in the home")
	}
}

// Requests that begin everywhere would leave short stretches between them.
func TestARequestBeginsWhereTheLastOneEnded(t *testing.T) {
	it := &item{
		info: &asset.Info{PieceLength: 1 << 20}, follow: 2,
		originRate: pace.NewBucket(pace.Unlimited), wanSince: time.Now().Add(-time.Minute),
	}
	if first, end := (&Fetcher{}).runOf(it, []int{0, 2, 3, 4, 6}, schedule.OriginSpare, false); first != 2 || end != 5 {
		t.Errorf("pieces %d to %d, want 2 to 5", first, end)
	}
}
