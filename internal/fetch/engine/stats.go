package engine

import (
	"net/netip"

	"github.com/anacrolix/torrent"
	pp "github.com/anacrolix/torrent/peer_protocol"

	"boxd/internal/asset"
)

// Stats is what a torrent has done since it was loaded.
type Stats struct {
	Received [2]int64   // bytes of blocks by class
	Useful   [2]int64   // of them, those that were not here already
	Sent     [2]int64   // bytes sent by class
	Spoilt   int64      // of Useful, bytes of pieces whose hash was wrong then
	Boxes    []BoxBytes // what each box gave and got, over all its connections
	Peers    []PeerStats
	Known    int // peers that could be dialled
	Failure  error
}

// PeerStats is one connected peer.
type PeerStats struct {
	Box      string
	Addr     netip.AddrPort
	Class    Class
	Pieces   int // verified pieces it has
	Received int64
	Useful   int64
	Sent     int64
}

// Stats of a loaded torrent; false when it is not loaded.
func (e *Engine) Stats(id asset.ID) (Stats, bool) {
	s, ok := e.swarm(id)
	if !ok {
		return Stats{}, false
	}
	st := s.counters()
	e.mu.Lock()
	st.Known = len(s.peers)
	e.mu.Unlock()
	t := s.lib.Load()
	if t == nil {
		return st, true
	}
	for _, pc := range t.PeerConns() {
		r, ok := pc.RemoteAddr.(*remote)
		if !ok {
			continue
		}
		ps := pc.Stats()
		st.Peers = append(st.Peers, PeerStats{
			Box: e.nameOf(r), Addr: r.addr, Class: r.class,
			Pieces: ps.RemotePieceCount, Received: ps.BytesReadData.Int64(), Useful: ps.BytesReadUsefulData.Int64(),
			Sent: ps.BytesWrittenData.Int64(),
		})
	}
	return st, true
}

// counters is what the torrent has done, without what it is doing.
func (s *swarm) counters() Stats {
	st := Stats{Boxes: s.boxes.list(), Failure: s.disk.failure(), Spoilt: s.disk.spoilt.Load()}
	for c := range numClasses {
		st.Received[c] = s.received[c].Load()
		st.Useful[c] = s.useful[c].Load()
		st.Sent[c] = s.sent[c].Load()
	}
	return st
}

// Availability counts, for each piece, the connected peers of a class that have it.
func (e *Engine) Availability(id asset.ID, class Class) []int {
	s, t, ok := e.library(id)
	if !ok {
		return nil
	}
	n := s.store.Info().NumPieces()
	have := make([]int, n)
	for _, pc := range t.PeerConns() {
		if r, ok := pc.RemoteAddr.(*remote); !ok || r.class != class {
			continue
		}
		it := pc.PeerPieces().Iterator()
		for it.HasNext() {
			if i := int(it.Next()); i < n {
				have[i]++
			}
		}
	}
	return have
}

func swarmOf(p *torrent.Peer) (*swarm, Class, bool) {
	r, ok := p.RemoteAddr.(*remote)
	if !ok {
		return nil, 0, false
	}
	return r.swarm, r.class, true
}

// onMessage counts the blocks that arrive, wanted or not. The library's lock is held.
func (e *Engine) onMessage(pc *torrent.PeerConn, m *pp.Message) {
	if m.Type != pp.Piece || m.Keepalive {
		return
	}
	if s, class, ok := swarmOf(&pc.Peer); ok {
		s.received[class].Add(int64(len(m.Piece)))
		s.boxes.of(e.nameOf(pc.RemoteAddr.(*remote)), class).in.Add(int64(len(m.Piece)))
	}
}

// onUseful counts the blocks that were needed. The library's lock is held.
func (e *Engine) onUseful(ev torrent.ReceivedUsefulDataEvent) {
	if s, class, ok := swarmOf(ev.Peer); ok {
		s.useful[class].Add(int64(len(ev.Message.Piece)))
	}
}

// onAdded closes a connection that names another torrent than it did when it was admitted. The library's lock is held.
func (e *Engine) onAdded(pc *torrent.PeerConn) {
	s, _, ok := swarmOf(&pc.Peer)
	if !ok || s.id == asset.ID(pc.Torrent().InfoHash()) {
		return
	}
	r := pc.RemoteAddr.(*remote)
	go e.closeConns(func(c *conn) bool { return c.remote.key == r.key })
}
