package fetch

import (
	"time"

	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/pace"
	"boxd/internal/schedule"
)

// lanPatience is how long the household is asked alone for what a neighbour has already, when this box becomes courier.
const lanPatience = 5 * time.Second

// drive acts on the decision about one asset.
func (f *Fetcher) drive(it *item, mono time.Time) {
	f.switchWAN(it, mono)
	f.announce(it, mono)
	if !it.loaded {
		return
	}
	rate := int64(pace.Unlimited)
	if it.want.Rate.Set {
		rate = it.want.Rate.Value
	}
	if len(f.urgent) > 0 && !f.urgent[it] {
		rate = min(rate, f.leftOver())
	}
	it.bucket.SetRate(rate)
	rate = pace.Unlimited
	if it.want.OriginRate.Set && len(f.neighbourDemand(it)) == 0 {
		rate = it.want.OriginRate.Value
	}
	it.originRate.SetRate(rate)
	f.syncPieces(it)
	if p := f.policyOf(it); p != it.policy {
		it.policy = p
		f.swarm.SetPolicy(it.id, p)
	}
	f.addPeers(it)
	if it.complete() {
		return
	}
	f.askOrigin(it, mono)
	f.prioritise(it)
}

// switchWAN turns the access line on or off for an asset, as the plan says: it knows who carries it, and when a follower
// must help itself. A box that becomes courier first takes from the household what
// is there already: its bytes crossed the line once.
func (f *Fetcher) switchWAN(it *item, mono time.Time) {
	if limits, _, _ := f.wishes(); !limits.PlaybackOff && it.lingers(mono) && !it.complete() {
		for r := range it.runs {
			if !r.demanded { // the window has ended
				r.cancel()
			}
		}
		return
	}
	if !it.want.WAN || it.complete() {
		it.wanOn = false
		for r := range it.runs {
			r.cancel()
		}
		return
	}
	if it.wanOn {
		return
	}
	if it.carries && it.loaded && f.fromLAN(it) > 0 && len(f.waiting(it, f.needs(it))) == 0 {
		if it.lanProgress.IsZero() {
			it.lanProgress = mono
		}
		if mono.Sub(it.lanProgress) < lanPatience {
			return
		}
	}
	it.wanOn = true
	it.wanSince = mono
	if it.rec.Started.IsZero() {
		it.rec.Started, _ = f.o.Identity.Now()
	}
	it.ann.next = time.Time{}
}

// fromLAN counts the missing pieces that a connected neighbour has.
func (f *Fetcher) fromLAN(it *item) int {
	n := 0
	for i, c := range f.swarm.Availability(it.id, engine.LAN) {
		if c > 0 && !it.store.Have(i) {
			n++
		}
	}
	return n
}

// syncPieces tells the engine of pieces that became verified, or were lost, without it.
func (f *Fetcher) syncPieces(it *item) {
	n := it.info.NumPieces()
	if it.have == nil {
		it.have = make([]bool, n)
		for i := range n {
			it.have[i] = it.store.Have(i)
		}
		return
	}
	var changed []int
	for i := range n {
		if h := it.store.Have(i); h != it.have[i] {
			it.have[i] = h
			changed = append(changed, i)
		}
	}
	if len(changed) > 0 {
		f.swarm.Refresh(it.id, changed...)
	}
}

// addPeers tells the engine of the neighbours that have or want the asset, and of the tracker's peers.
func (f *Fetcher) addPeers(it *item) {
	var list []engine.Peer
	if f.o.LAN != nil && !it.complete() { // a complete one is asked, it need not ask
		for _, n := range f.o.LAN.Neighbours() {
			near := false
			for _, h := range n.Holds {
				near = near || h == it.id
			}
			for _, w := range n.Wants {
				near = near || w.ID == it.id
			}
			if near {
				list = append(list, engine.Peer{Box: n.ID, Addr: n.Addr})
			}
		}
	}
	if it.wanOn {
		for _, p := range it.ann.answer.Peers {
			if p.Box != "" && f.isHome(p.Box) {
				continue
			}
			list = append(list, engine.Peer{Box: p.Box, Addr: p.Addr})
		}
	}
	if len(list) > 0 {
		f.swarm.AddPeers(it.id, list...)
	}
}

// prioritise says which pieces are wanted from peers, and how much.
func (f *Fetcher) prioritise(it *item) {
	n := it.info.NumPieces()
	want := make([]engine.Priority, n)
	if it.want.Fetch {
		end := it.reservedPieces()
		if it.want.Prefix {
			end = min(end, f.prefixEnd(it))
		}
		mine, others := f.share(it), f.spread(it, time.Now())
		for i := range end {
			switch {
			case others != nil && others(i): // it comes from one of them in a moment
			case mine(i):
				want[i] = engine.Mine
			default:
				want[i] = engine.Later
			}
		}
	}
	room := it.reservedPieces()
	for _, spans := range [][]Span{f.neighbourDemand(it), it.demand} {
		first := true
		for _, s := range spans {
			for i := max(s.First, 0); i < min(s.End, room); i++ {
				want[i] = max(want[i], engine.Ahead)
				if first && !it.store.Have(i) {
					want[i], first = engine.Now, false
				}
			}
		}
	}
	for i := range it.inflight {
		if it.inflight[i] {
			want[i] = engine.Skip // the origin is bringing it
		}
	}
	if it.want.PlayOnly || it.wanOn && !it.want.WAN { // the rest may come from the home, and not over the access line
		near := f.swarm.Availability(it.id, engine.LAN)
		for i := range want {
			if want[i] < engine.Ahead && (i >= len(near) || near[i] == 0) {
				want[i] = engine.Skip
			}
		}
	}
	f.swarm.SetPriorities(it.id, want)
}

// share says which pieces are this box's to fetch first, so that boxes of one swarm fetch different ones and then trade.
func (f *Fetcher) share(it *item) func(int) bool {
	var boxes []string
	for _, p := range it.live.Peers {
		if p.Box != "" {
			boxes = append(boxes, p.Box)
		}
	}
	if len(boxes) == 0 {
		return func(int) bool { return true }
	}
	own := map[int]bool{}
	for _, i := range schedule.OriginPieces(schedule.ShareInput{
		BoxID: f.o.Identity.BoxID(), Asset: it.id.String(), Mode: schedule.OriginSpare, Pieces: it.info.NumPieces(),
		Missing: func(i int) bool { return !it.store.Have(i) }, Holders: func(int) int { return 0 }, Peers: boxes,
	}) {
		own[i] = true
	}
	return func(i int) bool { return own[i] }
}
