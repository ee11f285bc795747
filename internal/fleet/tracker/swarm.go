package tracker

import (
	"container/heap"
	"net/netip"
	"sync"
	"time"

	"boxd/internal/asset"
)

// Announce is one announce, once it is known who sent it.
type Announce struct {
	ID       asset.ID
	Box      string
	PeerID   string
	Addr     netip.AddrPort
	Complete bool
	Stopped  bool
	Want     int // peers; at most MaxPeers are given

	region string
}

// Answer is what the box is told.
type Answer struct {
	Interval   time.Duration
	Complete   int
	Incomplete int
	Peers      []Peer // nearest first
	// ShareOf is how many shares the origin's pieces are cut into, and ShareIndex which of them is this box's: distinct for
	// every box that is not complete, and stable while it keeps announcing. A complete box has no share: -1.
	ShareIndex, ShareOf int
}

// Peer is where another box is reached: by IPv4, by IPv6, or by both.
type Peer struct {
	Addr   netip.AddrPort
	Other  netip.AddrPort // of the other family; zero: none
	PeerID string
}

// The places where peers are looked for, nearest first. A box that announces from addresses of both families is in the places
// of both.
const (
	near    = iota // same public address, or the same /64
	near6          //
	prefix         // same /24 or /48
	prefix6        //
	region         // same region of the operator's list
	all
	places
)

type peer struct {
	box    string
	peerID string
	addrs  [families]netip.AddrPort // zero: not known
	fresh  [families]time.Time      // until when each is believed
	region string
	seen   time.Time
	until  time.Time
	seed   bool
	slot   int         // share of the origin's pieces; -1: none
	pos    [places]int // index in each bucket
}

// Families of addresses.
const (
	v4 = iota
	v6
	families
)

func familyOf(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return v4
	}
	return v6
}

// bucket is a set of peers from which some can be drawn at random in constant time.
type bucket struct{ list []*peer }

func (b *bucket) add(p *peer, place int) {
	p.pos[place] = len(b.list)
	b.list = append(b.list, p)
}

func (b *bucket) remove(p *peer, place int) {
	last := len(b.list) - 1
	i := p.pos[place]
	b.list[i] = b.list[last]
	b.list[i].pos[place] = i
	b.list[last] = nil
	b.list = b.list[:last]
}

type swarm struct {
	mu      sync.Mutex // guards all fields
	peers   map[string]*peer
	byAddr  map[netip.Prefix]*bucket
	byNet   map[netip.Prefix]*bucket
	byArea  map[string]*bucket
	all     bucket
	seeds   int
	slots   int     // one more than the highest slot in use
	holes   intHeap // free slots below it
	held    []bool  // by slot
	retired bool
}

func newSwarm() *swarm {
	return &swarm{
		peers: map[string]*peer{}, byAddr: map[netip.Prefix]*bucket{}, byNet: map[netip.Prefix]*bucket{},
		byArea: map[string]*bucket{},
	}
}

// within is the prefix of an address that has one length for IPv4 and another for IPv6.
func within(a netip.Addr, bits4, bits6 int) netip.Prefix {
	bits := bits6
	if a.Is4() {
		bits = bits4
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// homeOf is what the boxes of one home share: a public IPv4 address, or a network of IPv6.
func homeOf(a netip.Addr) netip.Prefix { return within(a, 32, 64) }

func netOf(a netip.Addr) netip.Prefix { return within(a, 24, 48) }

// announce updates the swarm and draws peers. It is false if the swarm has been retired.
func (s *swarm) announce(a Announce, now time.Time, interval func(int) time.Duration) (Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return Answer{}, false
	}
	p := s.peers[a.Box]
	if a.Stopped {
		if p != nil {
			s.drop(p, false)
			p = nil
		}
	} else {
		p = s.place(p, a, now)
	}
	wait := interval(len(s.peers))
	if p != nil {
		p.peerID, p.seen, p.until = a.PeerID, now, now.Add(wait*5/2)
		p.fresh[familyOf(a.Addr)] = p.until
		s.setSeed(p, a.Complete)
	}
	ans := Answer{
		Interval: wait, Complete: s.seeds, Incomplete: len(s.peers) - s.seeds, ShareIndex: -1, ShareOf: s.slots,
	}
	if p != nil {
		ans.ShareIndex = p.slot
		ans.Peers = s.draw(p, min(a.Want, MaxPeers))
	}
	return ans, true
}

// place puts a box where it announces from; p is where it was, or nil. An address of the other family stays for as long as
// it would have by itself.
func (s *swarm) place(p *peer, a Announce, now time.Time) *peer {
	f := familyOf(a.Addr)
	next := peer{box: a.Box, region: a.region, seed: a.Complete, slot: -1}
	if p != nil {
		next = *p
		if other := 1 - f; next.addrs[other].IsValid() && now.After(next.fresh[other]) {
			next.addrs[other] = netip.AddrPort{}
		}
		if !next.addrs[1-f].IsValid() || a.region != "" {
			next.region = a.region
		}
	}
	next.addrs[f] = a.Addr
	if p != nil && p.addrs == next.addrs && p.region == next.region {
		return p
	}
	if p != nil {
		s.drop(p, true)
	}
	s.join(&next)
	return &next
}

// join adds a box, which may have a share already.
func (s *swarm) join(p *peer) {
	s.peers[p.box] = p
	s.all.add(p, all)
	for f, a := range p.addrs {
		if a.IsValid() {
			put(s.byAddr, homeOf(a.Addr()), p, near+f)
			put(s.byNet, netOf(a.Addr()), p, prefix+f)
		}
	}
	if p.region != "" {
		put(s.byArea, p.region, p, region)
	}
	if p.seed {
		s.seeds++
	}
}

// drop removes a box; keepSlot leaves its share taken.
func (s *swarm) drop(p *peer, keepSlot bool) {
	delete(s.peers, p.box)
	s.all.remove(p, all)
	for f, a := range p.addrs {
		if a.IsValid() {
			cut(s.byAddr, homeOf(a.Addr()), p, near+f)
			cut(s.byNet, netOf(a.Addr()), p, prefix+f)
		}
	}
	if p.region != "" {
		cut(s.byArea, p.region, p, region)
	}
	if p.seed {
		s.seeds--
	}
	if !keepSlot {
		s.release(p)
	}
}

func put[K comparable](m map[K]*bucket, k K, p *peer, place int) {
	b := m[k]
	if b == nil {
		b = &bucket{}
		m[k] = b
	}
	b.add(p, place)
}

func cut[K comparable](m map[K]*bucket, k K, p *peer, place int) {
	b := m[k]
	b.remove(p, place)
	if len(b.list) == 0 {
		delete(m, k)
	}
}

// setSeed moves a box between those that have a share of the origin's pieces and those that are complete.
func (s *swarm) setSeed(p *peer, seed bool) {
	switch {
	case seed && !p.seed:
		s.seeds++
	case !seed && p.seed:
		s.seeds--
	}
	p.seed = seed
	if seed {
		s.release(p)
	} else if p.slot < 0 {
		p.slot = s.takeSlot()
	}
}

// takeSlot gives the lowest free share, so that the shares stay about as many as the boxes.
func (s *swarm) takeSlot() int {
	slot := s.slots
	if len(s.holes) > 0 {
		slot = heap.Pop(&s.holes).(int)
	}
	if slot >= s.slots {
		slot = s.slots
		s.slots++
		s.held = append(s.held[:slot], true)
		s.holes = s.holes[:0]
	}
	s.held[slot] = true
	return slot
}

func (s *swarm) release(p *peer) {
	if p.slot < 0 {
		return
	}
	s.held[p.slot] = false
	heap.Push(&s.holes, p.slot)
	p.slot = -1
	for s.slots > 0 && !s.held[s.slots-1] {
		s.slots--
	}
}

// expire drops boxes that are overdue and returns how many are left.
func (s *swarm) expire(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.peers {
		if now.After(p.until) {
			s.drop(p, false)
		}
	}
	return len(s.peers)
}

// retire marks an empty swarm as gone.
func (s *swarm) retire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = len(s.peers) == 0
	return s.retired
}

type intHeap []int

func (h intHeap) Len() int           { return len(h) }
func (h intHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h intHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *intHeap) Push(x any)        { *h = append(*h, x.(int)) }
func (h *intHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
