package control

import (
	"sync"
	"time"
)

// ledger remembers who gave what to whom since the start: connections come and go, the sums stay.
type ledger struct {
	mu    sync.Mutex                               // guards the fields below
	rated time.Time                                // when rates were last worked out
	lan   struct{ fromIn, fromOut, in, out int64 } // what the LAN brought and took: at the first look, and now
	begun bool                                     // lan.from is set
	conns map[connKey]*connCount
	boxes map[string]*boxCount
}

type connKey struct{ box, address, asset string }

type connCount struct {
	in, out         int64 // at the last look
	fromIn, fromOut int64 // when rates were last worked out
	rateIn, rateOut int64
	seen            bool
}

type boxCount struct{ in, out int64 }

// maxLedger bounds the boxes that are remembered; a household has at most 64, and the WAN's peers come and go.
const maxLedger = 512

// look takes what a Fetcher tells now.
func (l *ledger) look(f FetchState) {
	l.total(f.Fetch.Bytes.LAN, f.Fetch.Sent.LAN)
	l.add(f.Peers, time.Now())
}

// rateStep is the least time over which a rate is worked out.
const rateStep = time.Second

// add takes the counters of all connections as they are now.
func (l *ledger) add(peers []Peer, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns, l.boxes = map[connKey]*connCount{}, map[string]*boxCount{}
	}
	for _, c := range l.conns {
		c.seen = false
	}
	step := now.Sub(l.rated)
	for _, p := range peers {
		l.count(p, step)
	}
	for key, c := range l.conns {
		if !c.seen {
			delete(l.conns, key)
		}
	}
	if step >= rateStep {
		l.rated = now
	}
}

func (l *ledger) count(p Peer, step time.Duration) {
	key := connKey{p.ID, p.Address, p.Asset}
	c := l.conns[key]
	if c == nil || p.Received < c.in || p.Sent < c.out { // new, or made anew
		c = &connCount{}
		l.conns[key] = c
	}
	dIn, dOut := p.Received-c.in, p.Sent-c.out
	c.in, c.out, c.seen = p.Received, p.Sent, true
	if step >= rateStep {
		c.rateIn = int64(float64(c.in-c.fromIn) / step.Seconds())
		c.rateOut = int64(float64(c.out-c.fromOut) / step.Seconds())
		c.fromIn, c.fromOut = c.in, c.out
	}
	b := l.boxes[p.ID]
	if b == nil {
		if len(l.boxes) >= maxLedger {
			return
		}
		b = &boxCount{}
		l.boxes[p.ID] = b
	}
	b.in, b.out = b.in+dIn, b.out+dOut
}

// total takes the cumulative counters of the LAN. Connections that end between two looks take their last bytes with them;
// these counters have them.
func (l *ledger) total(in, out int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.begun || in < l.lan.in || out < l.lan.out {
		l.lan.fromIn, l.lan.fromOut, l.begun = in, out, true
	}
	l.lan.in, l.lan.out = in, out
}

// fill adds the rates to peers and the sums to the household. What the LAN moved and no connection was seen to move is
// shared out among the boxes by what each was seen to move.
func (l *ledger) fill(peers []Peer, home []Neighbour) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range peers {
		if c := l.conns[connKey{peers[i].ID, peers[i].Address, peers[i].Asset}]; c != nil {
			peers[i].RateIn, peers[i].RateOut = c.rateIn, c.rateOut
		}
	}
	var seenIn, seenOut int64
	for i := range home {
		if b := l.boxes[home[i].ID]; b != nil {
			home[i].Received, home[i].Sent = b.in, b.out
			seenIn, seenOut = seenIn+b.in, seenOut+b.out
		}
	}
	restIn, restOut := l.lan.in-l.lan.fromIn-seenIn, l.lan.out-l.lan.fromOut-seenOut
	for i := range home {
		home[i].Received += portion(restIn, home[i].Received, seenIn)
		home[i].Sent += portion(restOut, home[i].Sent, seenOut)
	}
}

func portion(rest, part, all int64) int64 {
	if rest <= 0 || all <= 0 {
		return 0
	}
	return int64(float64(rest) * float64(part) / float64(all))
}
