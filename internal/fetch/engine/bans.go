package engine

import (
	"net/netip"
	"time"

	"github.com/anacrolix/torrent"
)

// A ban begins short and doubles, so that a box that was the last source, or was wrongly blamed, is tried again.
const (
	firstBan = time.Minute
	lastBan  = 24 * time.Hour
	maxBans  = 1024
)

type ban struct {
	until time.Time
	wait  time.Duration
}

// bans are the boxes that sent wrong bytes, at most maxBans of them. Guarded by Engine.mu.
type bans struct {
	by   map[string]*ban
	seen map[netip.Addr]bool // the library's bans that we know of; never more than it has

	// The library never lifts a ban, so a box that was banned gets another made-up address: its generation changes.
	gen  map[string]int
	base int // generation of the boxes that gen does not name
	last int // generation that was given last
}

func newBans() bans {
	return bans{by: map[string]*ban{}, gen: map[string]int{}, seen: map[netip.Addr]bool{}}
}

// generation is the number of the box's present made-up address.
func (b *bans) generation(name string) int {
	if g, ok := b.gen[name]; ok {
		return g
	}
	return b.base
}

// renew gives a box another made-up address. When that has been done for many boxes all get another.
func (b *bans) renew(name string) {
	b.last++
	if len(b.gen) >= maxBans {
		clear(b.gen)
		b.base = b.last
		return
	}
	b.gen[name] = b.last
}

func (b *bans) has(name string, now time.Time) bool {
	x, ok := b.by[name]
	return ok && name != "" && now.Before(x.until)
}

func (b *bans) add(name string, now time.Time) time.Duration {
	x, ok := b.by[name]
	if !ok {
		b.makeRoom(now)
		x = &ban{wait: firstBan / 2}
		b.by[name] = x
	}
	x.wait = min(2*x.wait, lastBan)
	x.until = now.Add(x.wait)
	b.renew(name)
	return x.wait
}

// makeRoom forgets the bans that are over, and if there are none the one that ends first.
func (b *bans) makeRoom(now time.Time) {
	if len(b.by) < maxBans {
		return
	}
	var first string
	for n, x := range b.by {
		if now.After(x.until) {
			delete(b.by, n)
		} else if first == "" || x.until.Before(b.by[first].until) {
			first = n
		}
	}
	if len(b.by) >= maxBans {
		delete(b.by, first)
	}
}

// Ban refuses a box for a while and closes its connections.
func (e *Engine) Ban(box, why string) {
	if box == "" {
		return
	}
	e.mu.Lock()
	if e.bans.has(box, time.Now()) {
		e.mu.Unlock()
		return
	}
	wait := e.bans.add(box, time.Now())
	e.wakeLocked()
	e.mu.Unlock()
	e.log.Warn("a peer is banned", "box", box, "why", why, "for", wait)
	e.closeConns(func(c *conn) bool { return c.remote.box == box || c.remote.addr.String() == box })
}

// Pardon lifts a ban: the caller has no other source left.
func (e *Engine) Pardon(box string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b, ok := e.bans.by[box]; ok {
		b.until = time.Time{}
	}
}

// Banned lists the boxes that are refused now.
func (e *Engine) Banned() []string {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []string
	for name := range e.bans.by {
		if e.bans.has(name, now) {
			list = append(list, name)
		}
	}
	return list
}

// learnBans takes over what the library has banned since the last call.
func (e *Engine) learnBans(now time.Time) {
	bad := e.client.BadPeerIPs()
	seen := make(map[netip.Addr]bool, len(bad))
	var fresh []string
	e.mu.Lock()
	for _, s := range bad {
		a, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		if name, known := e.pseudo[a]; known && !e.bans.seen[a] {
			fresh = append(fresh, name)
		}
		seen[a] = true
	}
	e.bans.seen = seen
	e.mu.Unlock()
	for _, name := range fresh {
		e.Ban(name, "alone sent a piece with a wrong hash")
	}
}

// judge bans boxes whose blocks are in more bad pieces than good ones: when several boxes send blocks of one piece the
// library blames nobody.
func (e *Engine) judge(time.Time) {
	e.mu.Lock()
	var list []*torrent.Torrent
	for _, s := range e.torrents {
		if t := s.lib.Load(); t != nil && !s.policy.Complete {
			list = append(list, t)
		}
	}
	e.mu.Unlock()
	for _, t := range list {
		for _, pc := range t.PeerConns() {
			r, ok := pc.RemoteAddr.(*remote)
			if !ok {
				continue
			}
			st := pc.Stats()
			bad, good := st.PiecesDirtiedBad.Int64(), st.PiecesDirtiedGood.Int64()
			if bad >= 3 && bad > good {
				e.Ban(e.nameOf(r), "sent blocks of many pieces with wrong hashes")
			}
		}
	}
}

func (e *Engine) nameOf(r *remote) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.targets[r.key]; ok && r.box == "" && t.box != "" {
		return t.box
	}
	if r.box == "" {
		return r.addr.String()
	}
	return r.box
}
