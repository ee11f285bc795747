package engine

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/anacrolix/torrent"

	"boxd/internal/asset"
)

// Peer is a box, or an address, from which a torrent may be had.
type Peer struct {
	Box  string // empty when only the address is known
	Addr netip.AddrPort
}

// Redialling: a peer that was lost is tried again, at first soon, later rarely.
const (
	firstRedial = 2 * time.Second
	lastRedial  = 5 * time.Minute
	contactLife = time.Hour // an address that nobody named for so long is forgotten
)

// contact is what we remember about a peer of a torrent, so that it is dialled again: the library dials each once.
type contact struct {
	peer  Peer
	class Class
	next  time.Time // not before
	wait  time.Duration
	named time.Time

	target string // its entry in Engine.targets
}

// AddPeers tells of peers of a torrent. They are dialled now if they are new, and again whenever they are lost.
func (e *Engine) AddPeers(id asset.ID, peers ...Peer) {
	s, ok := e.swarm(id)
	if !ok {
		return
	}
	now := time.Now()
	e.mu.Lock()
	for _, p := range peers {
		p.Addr = netip.AddrPortFrom(p.Addr.Addr().Unmap(), p.Addr.Port())
		if !p.Addr.IsValid() || p.Addr.Port() == 0 || p.Box != "" && p.Box == e.opts.Self() {
			continue
		}
		key := p.Box
		if key == "" {
			key = p.Addr.String()
		}
		c, ok := s.peers[key]
		if !ok {
			if len(s.peers) >= e.opts.Limits.Known {
				continue
			}
			c = &contact{wait: firstRedial}
			s.peers[key] = c
		}
		if c.peer != p {
			c.next, c.wait = now, firstRedial // it moved
		}
		c.peer, c.named, c.class = p, now, WAN
		if e.opts.IsLAN(p.Addr.Addr()) {
			c.class = LAN
		}
	}
	e.mu.Unlock()
	e.redial(now)
}

// redial dials, for every torrent, the peers that are not connected and whose time has come.
func (e *Engine) redial(now time.Time) {
	type job struct {
		t    *torrent.Torrent
		info []torrent.PeerInfo
	}
	var jobs []job
	e.mu.Lock()
	for _, s := range e.torrents {
		t := s.lib.Load()
		if t == nil {
			continue
		}
		if info := e.dueLocked(s, now); len(info) > 0 {
			jobs = append(jobs, job{t, info})
		}
	}
	e.mu.Unlock()
	for _, j := range jobs {
		j.t.AddPeers(j.info)
	}
}

// dueLocked lists the peers of s to dial now. e.mu is held.
func (e *Engine) dueLocked(s *swarm, now time.Time) []torrent.PeerInfo {
	boxes, addrs := map[string]bool{}, map[netip.AddrPort]bool{}
	for c := range e.conns {
		if c.remote.swarm == s {
			boxes[c.remote.box] = true
			addrs[c.remote.addr] = true
		}
	}
	var list []torrent.PeerInfo
	for key, c := range s.peers {
		box := c.peer.Box
		if t, ok := e.targets[c.target]; ok && box == "" {
			box = t.box // learnt when it was dialled before
		}
		switch {
		case now.Sub(c.named) > contactLife:
			delete(s.peers, key)
			delete(e.targets, c.target)
			continue
		case addrs[c.peer.Addr] || box != "" && boxes[box]:
			c.wait = firstRedial
			c.next = now.Add(jitter(firstRedial))
			continue
		case now.Before(c.next), s.policy.Complete && c.class == WAN, e.bans.has(key, now),
			c.class == WAN && !s.policy.WANDown:
			continue
		}
		c.next = now.Add(jitter(c.wait))
		c.wait = min(2*c.wait, lastRedial)
		list = append(list, torrent.PeerInfo{Addr: e.targetLocked(s, c), Source: torrent.PeerSourceDirect})
	}
	return list
}

func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d) //nolint:gosec // spreads retries; not a secret
}

// targetLocked makes the address by which the library dials the contact. e.mu is held.
func (e *Engine) targetLocked(s *swarm, c *contact) *remote {
	kind, name := "box", c.peer.Box
	if name == "" {
		kind, name = "addr", c.peer.Addr.String()
	}
	a := madeUpAddr(kind, name, e.bans.generation(name))
	e.nameLocked(a, name)
	r := &remote{
		key: netip.AddrPortFrom(a, s.slot).String(), box: c.peer.Box, class: c.class, addr: c.peer.Addr, swarm: s,
	}
	if c.target != r.key {
		delete(e.targets, c.target) // a ban that is over has given the box another address
	}
	c.target = r.key
	e.targets[r.key] = r
	return r
}
