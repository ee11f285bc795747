package engine

import (
	"bytes"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	pp "github.com/anacrolix/torrent/peer_protocol"
)

func TestBlocksAreFoundInAnyPortionsOfTheStream(t *testing.T) {
	stream := append([]byte(pp.Protocol), make([]byte, handshakeBytes-len(pp.Protocol))...)
	var want int64
	for i := range 50 {
		block := bytes.Repeat([]byte{byte(pp.Piece)}, 1+i*331) // what looks like messages must not be taken for them
		for _, m := range []pp.Message{
			{Type: pp.Have, Index: 7},
			{Keepalive: true},
			{Keepalive: true},
			{Type: pp.Piece, Index: 1, Piece: block},
			{Type: pp.Request, Index: 1, Length: 1 << 14},
			{Type: pp.Unchoke},
		} {
			b, err := m.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			stream = append(stream, b...)
		}
		want += int64(len(block))
	}
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var m blockMeter
		var got int64
		for rest := stream; len(rest) > 0; {
			n := min(1+rnd.IntN(1+1<<rnd.IntN(15)), len(rest))
			got += m.written(rest[:n])
			rest = rest[n:]
		}
		if got != want {
			t.Fatalf("seed %d: %d bytes of blocks, want %d", seed, got, want)
		}
	}
	var m blockMeter
	if got := m.written([]byte("\x20 something else, with \x00\x00\x00\x10\x07 in it")); got != 0 {
		t.Errorf("%d bytes of blocks in another protocol", got)
	}
}

// The library panics when a connection that we have closed takes no deadline.
func TestAClosedConnectionTakesADeadline(t *testing.T) {
	ours, theirs := net.Pipe()
	_ = theirs.Close()
	e := New(Options{})
	c := e.newConn(ours, &remote{key: "[fd00::1]:1", box: "box-a"}, true)
	_ = c.Close()
	if err := net.Conn(c).SetDeadline(time.Now()); err != nil {
		t.Error(err)
	}
}

func TestTheManyAreCountedTogether(t *testing.T) {
	var ts tallies
	for i := range 2 * maxTallies {
		ts.of(string(rune('a'+i%26))+string(rune('0'+i/26)), WAN).in.Add(1)
	}
	var sum int64
	list := ts.list()
	for _, b := range list {
		sum += b.In
	}
	if sum != 2*maxTallies || len(list) > maxTallies+1 || list[0].Box != "" {
		t.Errorf("%d counted under %d names, the first %q", sum, len(list), list[0].Box)
	}
}
