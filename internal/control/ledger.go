package control

import "sync"

// ledger remembers who gave what to whom since the start: connections come and go, the sums stay.
type ledger struct {
	mu    sync.Mutex // guards the fields below
	conns map[connKey]*connCount
	boxes map[string]*boxCount
}

type connKey struct{ box, address, asset string }

type connCount struct {
	in, out         int64
	rateIn, rateOut int64
	seen            bool
}

type boxCount struct{ in, out int64 }

// maxLedger bounds the boxes that are remembered; a household has at most 64, and the WAN's peers come and go.
const maxLedger = 512

// add takes the counters of all connections, seconds after the last time.
func (l *ledger) add(peers []Peer, seconds float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns, l.boxes = map[connKey]*connCount{}, map[string]*boxCount{}
	}
	for _, c := range l.conns {
		c.seen = false
	}
	for _, p := range peers {
		key := connKey{p.ID, p.Address, p.Asset}
		c := l.conns[key]
		if c == nil || p.Received < c.in || p.Sent < c.out { // new, or made anew
			c = &connCount{}
			l.conns[key] = c
		}
		dIn, dOut := p.Received-c.in, p.Sent-c.out
		*c = connCount{in: p.Received, out: p.Sent, seen: true}
		if seconds > 0 {
			c.rateIn, c.rateOut = int64(float64(dIn)/seconds), int64(float64(dOut)/seconds)
		}
		b := l.boxes[p.ID]
		if b == nil {
			if len(l.boxes) >= maxLedger {
				continue
			}
			b = &boxCount{}
			l.boxes[p.ID] = b
		}
		b.in, b.out = b.in+dIn, b.out+dOut
	}
	for key, c := range l.conns {
		if !c.seen {
			delete(l.conns, key)
		}
	}
}

// fill adds the rates to peers and the sums to the household.
func (l *ledger) fill(peers []Peer, home []Neighbour) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range peers {
		if c := l.conns[connKey{peers[i].ID, peers[i].Address, peers[i].Asset}]; c != nil {
			peers[i].RateIn, peers[i].RateOut = c.rateIn, c.rateOut
		}
	}
	for i := range home {
		if b := l.boxes[home[i].ID]; b != nil {
			home[i].Received, home[i].Sent = b.in, b.out
		}
	}
}
