package tracker

import (
	"math/rand/v2"
	"net/netip"
)

// draw picks peers for p: those at its own address first, then in its prefix, then in its region, each in random order; but
// the last quarter comes from the whole swarm, so that it hangs together. Complete boxes are not told of each other.
func (s *swarm) draw(p *peer, want int) []Peer {
	if want <= 0 {
		return nil
	}
	got := make([]Peer, 0, min(want, len(s.peers)))
	taken := map[*peer]bool{p: true}
	take := func(b *bucket, upTo int) {
		if b == nil || len(b.list) == 0 {
			return
		}
		start, tries := rand.IntN(len(b.list)), min(len(b.list), 4*want)
		for i := 0; i < tries && len(got) < upTo; i++ {
			q := b.list[(start+i)%len(b.list)]
			if taken[q] || p.seed && q.seed {
				continue
			}
			taken[q] = true
			got = append(got, q.told(p))
		}
	}
	local := want - want/4
	for _, a := range p.addrs {
		take(s.byAddr[homeOf(a.Addr())], local)
	}
	for _, a := range p.addrs {
		take(s.byNet[netOf(a.Addr())], local)
	}
	if p.region != "" {
		take(s.byArea[p.region], local)
	}
	s.scatter(p, &got, taken, want)
	return got
}

// scatter fills up with peers from all over the swarm, each drawn for itself.
func (s *swarm) scatter(p *peer, got *[]Peer, taken map[*peer]bool, want int) {
	n := len(s.all.list)
	if n <= 4*want { // few: go through them once, from a random place
		start := rand.IntN(n)
		for i := 0; i < n && len(*got) < want; i++ {
			s.pick(s.all.list[(start+i)%n], p, got, taken)
		}
		return
	}
	for tries := 0; tries < 4*want && len(*got) < want; tries++ {
		s.pick(s.all.list[rand.IntN(n)], p, got, taken)
	}
}

func (s *swarm) pick(q, p *peer, got *[]Peer, taken map[*peer]bool) {
	if taken[q] || p.seed && q.seed {
		return
	}
	taken[q] = true
	*got = append(*got, q.told(p))
}

// told is what p learns of q: the addresses of the families that both have, IPv6 first, because no NAT is in its way; where
// there are none, whatever q has.
func (q *peer) told(p *peer) Peer {
	var list []netip.AddrPort
	for _, f := range [...]int{v6, v4} {
		if q.addrs[f].IsValid() && p.addrs[f].IsValid() {
			list = append(list, q.addrs[f])
		}
	}
	for f := 0; f < families && len(list) == 0; f++ {
		if q.addrs[f].IsValid() {
			list = append(list, q.addrs[f])
		}
	}
	t := Peer{PeerID: q.peerID}
	if len(list) > 0 {
		t.Addr = list[0]
	}
	if len(list) > 1 {
		t.Other = list[1]
	}
	return t
}
