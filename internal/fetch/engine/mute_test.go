package engine

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	pp "github.com/anacrolix/torrent/peer_protocol"
)

// TestAnOffSwitchForUploads: a box that may not send to the WAN still fetches from it, and gives when it may again.
func TestAnOffSwitchForUploads(t *testing.T) {
	f := newFleet(t)
	data := content(2 << 20)
	tor := makeTorrent(t, "film", data, 128<<10)
	source := f.box(t, "box-source", nil)
	if err := source.Load(newStore(t, tor, data), seed, nil); err != nil {
		t.Fatal(err)
	}
	quiet, asks := newStore(t, tor, nil), newStore(t, tor, nil)
	id, n := quiet.info.ID, quiet.info.NumPieces()
	b, c := f.box(t, "box-quiet", nil), f.box(t, "box-asks", nil)
	off := Policy{WANDown: true}
	if err := b.Load(quiet, off, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Load(asks, leech, nil); err != nil {
		t.Fatal(err)
	}
	b.Up().SetRate(0)
	half := all(Mine, n)
	clear(half[n/2:])
	b.SetPriorities(id, half)
	c.SetPriorities(id, all(Mine, n))
	c.AddPeers(id, Peer{Box: "box-quiet", Addr: b.addr})
	b.AddPeers(id, Peer{Box: "box-source", Addr: source.addr})
	quiet.wait(t, n/2)
	for {
		changed := c.Changed()
		if st, _ := c.Stats(id); len(st.Peers) == 1 && st.Peers[0].Pieces == n/2 {
			break
		}
		select {
		case <-changed:
		case <-tick(t):
		}
	}
	if asks.count != 0 {
		t.Fatalf("%d pieces were sent in spite of the switch", asks.count)
	}
	b.Up().SetRate(8 << 20)
	b.SetPolicy(id, leech)
	asks.wait(t, n/2)
}

// What a muted peer asks for though it is choked does not go out.
func TestAMutedConnectionCarriesNoBlock(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	c := &conn{
		Conn: near, e: New(Options{}), remote: &remote{class: WAN}, done: make(chan struct{}), mute: &blockMeter{choke: true},
	}
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(far)
		got <- b
	}()
	hello := append([]byte(pp.Protocol), make([]byte, handshakeBytes-len(pp.Protocol))...)
	if n, err := c.Write(hello); n != handshakeBytes || err != nil {
		t.Fatal(n, err)
	}
	block := binary.BigEndian.AppendUint32(nil, 9+100)
	block = append(append(block, byte(pp.Piece)), make([]byte, 8+100)...)
	if n, err := c.Write(block); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("%d bytes of a block, %v", n, err)
	}
	_ = near.Close()
	if b := <-got; len(b) != handshakeBytes {
		t.Errorf("%d bytes came", len(b))
	}
}
