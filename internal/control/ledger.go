package control

import (
	"sync"
	"time"
)

// ledger works out at what rate each connection moves bytes, from what its counters were at the looks before.
type ledger struct {
	mu    sync.Mutex // guards the fields below
	rated time.Time  // when rates were last worked out
	conns map[connKey]*connCount
}

type connKey struct{ box, address, asset string }

type connCount struct {
	fromIn, fromOut int64 // when rates were last worked out
	rateIn, rateOut int64
	seen            bool
}

// rateStep is the least time over which a rate is worked out.
const rateStep = time.Second

// look takes the counters of all connections as they are now.
func (l *ledger) look(peers []Peer, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	step := now.Sub(l.rated)
	if step < rateStep {
		return
	}
	l.rated = now
	if l.conns == nil {
		l.conns = map[connKey]*connCount{}
	}
	for _, c := range l.conns {
		c.seen = false
	}
	for _, p := range peers {
		key := connKey{p.ID, p.Address, p.Asset}
		c := l.conns[key]
		if c == nil || p.Received < c.fromIn || p.Sent < c.fromOut { // new, or made anew: its first bytes are no rate
			c = &connCount{fromIn: p.Received, fromOut: p.Sent}
			l.conns[key] = c
		}
		c.seen = true
		c.rateIn = int64(float64(p.Received-c.fromIn) / step.Seconds())
		c.rateOut = int64(float64(p.Sent-c.fromOut) / step.Seconds())
		c.fromIn, c.fromOut = p.Received, p.Sent
	}
	for key, c := range l.conns {
		if !c.seen {
			delete(l.conns, key)
		}
	}
}

// rate adds the rates to peers.
func (l *ledger) rate(peers []Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range peers {
		if c := l.conns[connKey{peers[i].ID, peers[i].Address, peers[i].Asset}]; c != nil {
			peers[i].RateIn, peers[i].RateOut = c.rateIn, c.rateOut
		}
	}
}
