package engine

import (
	"encoding/binary"
	"sort"
	"sync"
	"sync/atomic"

	pp "github.com/anacrolix/torrent/peer_protocol"
)

// BoxBytes is what a torrent has exchanged with one box since it was loaded, in bytes of blocks.
type BoxBytes struct {
	Box     string // or an address, when the box is not known by name
	Class   Class
	In, Out int64
}

// maxTallies bounds the boxes that are counted by name in one torrent; the others are counted together, without one.
const maxTallies = 256

type tallyKey struct {
	box   string
	class Class
}

type tally struct{ in, out atomic.Int64 }

// tallies count the blocks of one torrent by box, over all its connections.
type tallies struct {
	mu sync.Mutex // guards by
	by map[tallyKey]*tally
}

func (t *tallies) of(box string, class Class) *tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[tallyKey]*tally{}
	}
	k := tallyKey{box, class}
	if _, ok := t.by[k]; !ok && len(t.by) >= maxTallies {
		k.box = ""
	}
	x, ok := t.by[k]
	if !ok {
		x = &tally{}
		t.by[k] = x
	}
	return x
}

// list is sorted by name.
func (t *tallies) list() []BoxBytes {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]BoxBytes, 0, len(t.by))
	for k, x := range t.by {
		list = append(list, BoxBytes{k.box, k.class, x.in.Load(), x.out.Load()})
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i], list[j]
		return a.Box < b.Box || a.Box == b.Box && a.Class < b.Class
	})
	return list
}

// unchoke is the message that lets the other end ask for blocks.
var unchoke = [5]byte{0, 0, 0, 1, byte(pp.Unchoke)}

// handshakeBytes is the length of BEP 3's handshake, which a stream of messages follows.
const handshakeBytes = 68

// blockMeter finds the bytes of blocks in what is written to a peer: the library counts those that it queues, not those
// that went out before the connection broke.
type blockMeter struct {
	begun bool
	other bool    // not in the form of BEP 3: nothing is counted
	skip  int64   // bytes until the next message
	block int64   // bytes of a block that come next
	head  [5]byte // length and type of a message
	n     int     // bytes of head
	choke bool    // make a choke of each unchoke, before it is written
}

// written takes what went out and returns how many bytes of it were blocks.
func (m *blockMeter) written(p []byte) (blocks int64) {
	if !m.begun && len(p) > 0 {
		m.begun, m.skip, m.other = true, handshakeBytes, p[0] != pp.Protocol[0]
	}
	for len(p) > 0 && !m.other {
		switch {
		case m.skip > 0:
			k := min(m.skip, int64(len(p)))
			m.skip -= k
			p = p[k:]
		case m.block > 0:
			k := min(m.block, int64(len(p)))
			m.block -= k
			blocks += k
			p = p[k:]
		default:
			k := copy(m.head[m.n:], p)
			m.n += k
			if m.choke && m.n == 5 && m.head == unchoke {
				p[k-1] = byte(pp.Choke)
			}
			p = p[k:]
			m.message()
		}
	}
	return blocks
}

// message looks at the head of a message, once enough of it is there.
func (m *blockMeter) message() {
	if m.n < 4 {
		return
	}
	length := int64(binary.BigEndian.Uint32(m.head[:4]))
	switch {
	case length == 0: // keep-alive
		if m.n == 5 { // the first byte of the next message
			m.head[0], m.n = m.head[4], 1
			return
		}
		m.n = 0
	case m.n < 5:
	case pp.MessageType(m.head[4]) == pp.Piece && length > 9:
		m.n, m.skip, m.block = 0, 8, length-9
	default:
		m.n, m.skip = 0, length-1
	}
}
