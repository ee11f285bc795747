// Package tracker is the fleet's private BitTorrent tracker (BEP 3, 7, 23) over HTTP with client certificates.
//
// Invariants: who announces is what its certificate says, where it is reached is the address that it came from: ip= and
// peer_id= prove nothing and are ignored; an infohash that is not known, or a box that is not meant to have it, gets no peers and
// leaves no trace; an answer has at most MaxPeers peers and costs a time that does not grow with the swarm; a box that
// stops announcing is forgotten after two and a half intervals.
package tracker

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"boxd/internal/asset"
)

// MaxPeers is the most peers in one answer.
const MaxPeers = 50

// Options says who is answered.
type Options struct {
	// Known reports whether an infohash is in the catalog; nil knows all.
	Known func(asset.ID) bool
	// Allowed reports whether a campaign gives the asset to the box; nil allows every box that Box knows.
	Allowed func(boxID string, id asset.ID) bool
	// Box says which box asks; nil takes the common name of the verified client certificate.
	Box func(*http.Request) (boxID string, ok bool)
	// Addr says where the box is reached; nil takes the connection's remote address. Set it behind a proxy.
	Addr func(*http.Request) (netip.Addr, bool)
	// Region names the operator's region of an address, "" if it has none; nil knows no regions.
	Region func(netip.Addr) string
	// Anonymous answers without certificates and tells peers apart by peer_id: for a test fleet without transport security.
	Anonymous bool

	MinInterval  time.Duration // between announces of one box in a small swarm; 0 means a minute
	MaxInterval  time.Duration // in a large one; 0 means 40 minutes
	AnnounceRate float64       // announces per second for each swarm that intervals aim at; 0 means 50
	Now          func() time.Time
}

// Tracker is an http.Handler for announces. Run forgets boxes that are gone.
type Tracker struct {
	opt    Options
	mu     sync.RWMutex // guards swarms, not what is in them
	swarms map[asset.ID]*swarm

	statMu    sync.Mutex // guards announces, refused
	announces int64
	refused   int64
}

// New returns a tracker.
func New(opt Options) *Tracker {
	if opt.MinInterval == 0 {
		opt.MinInterval = time.Minute
	}
	if opt.MaxInterval == 0 {
		opt.MaxInterval = 40 * time.Minute
	}
	if opt.AnnounceRate == 0 {
		opt.AnnounceRate = 50
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Box == nil {
		opt.Box = certificateName
	}
	if opt.Addr == nil {
		opt.Addr = remoteAddr
	}
	return &Tracker{opt: opt, swarms: map[asset.ID]*swarm{}}
}

func certificateName(r *http.Request) (string, bool) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", false
	}
	cn := r.TLS.PeerCertificates[0].Subject.CommonName
	return cn, cn != ""
}

func remoteAddr(r *http.Request) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	return ap.Addr().Unmap().WithZone(""), err == nil
}

// Run forgets boxes that no longer announce, until ctx ends.
func (t *Tracker) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.Expire()
		}
	}
}

// Expire forgets boxes that no longer announce.
func (t *Tracker) Expire() {
	now := t.opt.Now()
	t.mu.RLock()
	all := make(map[asset.ID]*swarm, len(t.swarms))
	for id, s := range t.swarms {
		all[id] = s
	}
	t.mu.RUnlock()
	for id, s := range all {
		if s.expire(now) > 0 {
			continue
		}
		t.mu.Lock()
		if s.retire() {
			delete(t.swarms, id)
		}
		t.mu.Unlock()
	}
}

var errUnknown = errors.New("unregistered torrent")

// Announce takes one announce. It is what ServeHTTP does once it knows who asks.
func (t *Tracker) Announce(a Announce) (Answer, error) {
	if t.opt.Known != nil && !t.opt.Known(a.ID) || t.opt.Allowed != nil && !t.opt.Allowed(a.Box, a.ID) {
		t.tally(false)
		return Answer{}, errUnknown
	}
	t.tally(true)
	if t.opt.Region != nil {
		a.region = t.opt.Region(a.Addr.Addr())
	}
	now := t.opt.Now()
	for {
		s := t.swarm(a.ID)
		ans, ok := s.announce(a, now, t.interval)
		if ok {
			return ans, nil
		} // it was retired between our finding it and asking it
	}
}

func (t *Tracker) swarm(id asset.ID) *swarm {
	t.mu.RLock()
	s := t.swarms[id]
	t.mu.RUnlock()
	if s != nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s = t.swarms[id]; s == nil {
		s = newSwarm()
		t.swarms[id] = s
	}
	return s
}

// interval is how long a box of a swarm of n waits between announces.
func (t *Tracker) interval(n int) time.Duration {
	d := time.Duration(float64(n) / t.opt.AnnounceRate * float64(time.Second))
	return min(max(d, t.opt.MinInterval), t.opt.MaxInterval)
}

func (t *Tracker) tally(answered bool) {
	t.statMu.Lock()
	defer t.statMu.Unlock()
	t.announces++
	if !answered {
		t.refused++
	}
}

// Stats is what the tracker has done and holds.
type Stats struct {
	Announces int64 `json:"announces"`
	Refused   int64 `json:"refused"`
	Swarms    int   `json:"swarms"`
}

// Stats returns the counters.
func (t *Tracker) Stats() Stats {
	t.mu.RLock()
	n := len(t.swarms)
	t.mu.RUnlock()
	t.statMu.Lock()
	defer t.statMu.Unlock()
	return Stats{Announces: t.announces, Refused: t.refused, Swarms: n}
}

// Swarm is how many boxes of one asset announce.
func (t *Tracker) Swarm(id asset.ID) (complete, incomplete int) {
	t.mu.RLock()
	s := t.swarms[id]
	t.mu.RUnlock()
	if s == nil {
		return 0, 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seeds, len(s.peers) - s.seeds
}
