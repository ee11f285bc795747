package engine

import (
	"fmt"
	"sync/atomic"

	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
	pp "github.com/anacrolix/torrent/peer_protocol"

	"boxd/internal/asset"
	"boxd/internal/fetch/pace"
)

// Policy says which links a torrent may use.
type Policy struct {
	Complete bool // nothing is missing
	WANDown  bool // WAN peers may be used while something is missing
	WANUp    bool // WAN peers are served
}

// Priority of a piece; the zero value is not wanted.
type Priority byte

// The priorities, each asked for before the one above it in this list.
const (
	Skip  Priority = iota // not asked from peers
	Later                 // wanted, but another box of the swarm fetches it first
	Mine                  // this box's share
	Ahead                 // a player will need it soon
	Now                   // a player waits for it
)

func (p Priority) library() torrent.PiecePriority {
	return [...]torrent.PiecePriority{
		torrent.PiecePriorityNone, torrent.PiecePriorityNormal, torrent.PiecePriorityHigh,
		torrent.PiecePriorityReadahead, torrent.PiecePriorityNow,
	}[p]
}

// swarm is one loaded torrent.
type swarm struct {
	id    asset.ID
	slot  uint16 // the port of its made-up addresses
	store Store
	disk  *disk
	down  *pace.Bucket                    // WAN bytes of this asset
	lib   atomic.Pointer[torrent.Torrent] // nil until the library has it

	received [numClasses]atomic.Int64 // bytes of blocks
	useful   [numClasses]atomic.Int64 // of them, those that were not here already
	sent     [numClasses]atomic.Int64 // bytes on the connections, nearly all of them blocks
	boxes    tallies

	prio []Priority // what was set last; used only by SetPriorities, under the caller's discipline

	policy Policy              // guarded by Engine.mu
	peers  map[string]*contact // guarded by Engine.mu
}

// Load adds a torrent whose bytes are in store; down limits its WAN bytes (nil for no limit of its own).
func (e *Engine) Load(store Store, policy Policy, down *pace.Bucket) error {
	select {
	case <-e.ready:
	default:
		return ErrNotRunning
	}
	info := store.Info()
	var raw struct {
		Info bencode.Bytes `bencode:"info"`
	}
	tor, err := store.Torrent()
	if err == nil {
		err = bencode.Unmarshal(tor, &raw)
	}
	if err != nil {
		return fmt.Errorf("load %s: %w", info.ID.Short(), err)
	}
	if down == nil {
		down = pace.NewBucket(pace.Unlimited)
	}
	s := &swarm{
		id: info.ID, store: store, down: down, policy: policy,
		prio: make([]Priority, info.NumPieces()), peers: map[string]*contact{},
	}
	s.disk = &disk{store: store, taken: e.opts.Taken, failed: func(err error) {
		if e.opts.OnFailure != nil {
			e.opts.OnFailure(s.id, err)
		}
	}}
	if !e.reserve(s) {
		return nil // loaded already
	}
	t, fresh := e.client.AddTorrentOpt(torrent.AddTorrentOpts{
		InfoHash: metainfo.Hash(info.ID), Storage: s.disk, InfoBytes: raw.Info, DisableInitialPieceCheck: true,
		ChunkSize: pp.Integer(min(int64(e.opts.Block), info.PieceLength)), //nolint:gosec // some KiB
	})
	if !fresh {
		e.unreserve(s)
		return fmt.Errorf("load %s: the engine still has it", info.ID.Short())
	}
	s.lib.Store(t)
	e.mu.Lock()
	e.wakeLocked()
	e.mu.Unlock()
	return nil
}

// reserve takes a slot for s; false when the torrent is there already.
func (e *Engine) reserve(s *swarm) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.torrents[s.id]; ok {
		return false
	}
	used := map[uint16]bool{0: true}
	for _, o := range e.torrents {
		used[o.slot] = true
	}
	for e.slots++; used[e.slots]; e.slots++ {
	}
	s.slot = e.slots
	e.torrents[s.id] = s
	return true
}

func (e *Engine) unreserve(s *swarm) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.torrents, s.id)
	for key, r := range e.targets {
		if r.swarm == s {
			delete(e.targets, key)
		}
	}
	e.wakeLocked()
}

// Drop takes a torrent out of the swarm and returns what it had done, to the last byte. When it returns the store is used
// no more. Dropping what is not loaded does nothing.
func (e *Engine) Drop(id asset.ID) (last Stats, ok bool) {
	s, ok := e.swarm(id)
	if !ok {
		return Stats{}, false
	}
	e.unreserve(s)
	e.closeConns(func(c *conn) bool { return c.remote.swarm == s })
	if t := s.lib.Load(); t != nil {
		t.Drop()
	}
	_ = s.disk.close() // waits for whoever still uses the store
	return s.counters(), true
}

// Loaded reports whether the torrent is in the swarm.
func (e *Engine) Loaded(id asset.ID) bool {
	_, ok := e.swarm(id)
	return ok
}

// SetPolicy changes which links the torrent may use and closes the connections that it no longer may.
func (e *Engine) SetPolicy(id asset.ID, p Policy) {
	s, ok := e.swarm(id)
	if !ok {
		return
	}
	e.mu.Lock()
	old := s.policy
	s.policy = p
	e.mu.Unlock()
	if old == p {
		return
	}
	// A connection is made with or without leave to ask for blocks, and keeps it.
	if (p.Complete && !p.WANUp) || (!p.Complete && !p.WANDown) || old.WANUp != p.WANUp {
		e.closeConns(func(c *conn) bool { return c.remote.swarm == s && c.remote.class == WAN })
	}
}

// SetPriorities says how much each piece is wanted from peers; the slice has one entry for each piece. Only one
// goroutine may call it for a torrent at a time.
func (e *Engine) SetPriorities(id asset.ID, want []Priority) {
	s, t, ok := e.library(id)
	if !ok {
		return
	}
	for i, p := range want {
		if i < len(s.prio) && s.prio[i] != p {
			t.Piece(i).SetPriority(p.library())
			s.prio[i] = p
		}
	}
}

// Refresh makes the engine look again at pieces that became verified, or were lost, by other means.
func (e *Engine) Refresh(id asset.ID, pieces ...int) {
	_, t, ok := e.library(id)
	if !ok {
		return
	}
	for _, i := range pieces {
		t.Piece(i).UpdateCompletion()
	}
}

// library returns the loaded torrent and the library's handle.
func (e *Engine) library(id asset.ID) (*swarm, *torrent.Torrent, bool) {
	s, ok := e.swarm(id)
	if !ok {
		return nil, nil, false
	}
	t := s.lib.Load()
	return s, t, t != nil
}
