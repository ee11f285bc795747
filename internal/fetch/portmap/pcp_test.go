package portmap

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// pcpRouter answers as a router that speaks PCP, after it has let the first datagram be lost and has answered somebody else.
func pcpRouter(t *testing.T, addr string) <-chan uint32 {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr+":5351")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	lives := make(chan uint32, 10)
	go func() {
		b := make([]byte, 2000)
		for first := true; ; first = false {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if first || n != pcpSize || b[0] != pcpVersion || b[1] != pcpMap {
				continue
			}
			if client := netip.AddrFrom16([16]byte(b[8:24])).Unmap(); !client.IsLoopback() {
				t.Errorf("it says that it is %s", client)
			}
			lives <- binary.BigEndian.Uint32(b[4:])
			b[1] |= pcpAnswer
			clear(b[8:24])
			binary.BigEndian.PutUint16(b[42:], 40_001)
			out := netip.MustParseAddr("203.0.113.9").As16()
			copy(b[44:60], out[:])
			b[24]++
			_, _ = pc.WriteTo(b[:n], from) // another box's
			b[24]--
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
	return lives
}

func TestPCPMapsAndGivesBack(t *testing.T) {
	lives := pcpRouter(t, "127.0.0.78")
	m := &Mapper{Port: 6880, nonce: newNonce()}
	got, err := m.pcp(t.Context(), netip.MustParseAddr("127.0.0.78"), 6880)
	if err != nil || got.External != 40_001 || got.Address.String() != "203.0.113.9" || got.life != lease {
		t.Fatalf("%+v, %v", got, err)
	}
	if life := <-lives; life != uint32(lease.Seconds()) {
		t.Error(life)
	}
	if err := got.undo(t.Context()); err != nil {
		t.Error(err)
	}
	if life := <-lives; life != 0 {
		t.Errorf("given back with a life of %d s", life)
	}
}

func TestPCPRefusals(t *testing.T) {
	nonce := newNonce()
	answer := func(change func(b []byte)) []byte {
		b := pcpRequest(nonce, netip.MustParseAddr("192.0.2.1"), 6880, 6880, time.Hour)
		b[1] |= pcpAnswer
		change(b)
		return b
	}
	for name, c := range map[string]struct {
		b     []byte
		other bool // one waits for the right one
	}{
		"nothing":               {nil, true},
		"our own request":       {pcpRequest(nonce, netip.MustParseAddr("192.0.2.1"), 6880, 6880, time.Hour), true},
		"a NAT-PMP router's":    {[]byte{0, 0x80, 0, 1, 0, 0, 0, 1}, false},
		"refused":               {answer(func(b []byte) { b[3] = 2 }), false},
		"refused, unknown code": {answer(func(b []byte) { b[3] = 200 }), false},
		"cut off":               {answer(func([]byte) {})[:59], true},
		"another's":             {answer(func(b []byte) { b[30]++ }), true},
		"another port's":        {answer(func(b []byte) { b[41]++ }), true},
		"UDP":                   {answer(func(b []byte) { b[36] = 17 }), true},
	} {
		if _, _, err := parsePCP(c.b, nonce, 6880); err == nil || errors.Is(err, errOther) != c.other {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzPCP(f *testing.F) {
	nonce := pcpNonce{1, 2, 3}
	good := pcpRequest(nonce, netip.MustParseAddr("192.0.2.1"), 6880, 6880, time.Hour)
	good[1] |= pcpAnswer
	f.Add(good)
	f.Add([]byte{0, 0x80, 0, 1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		out, life, err := parsePCP(b, nonce, 6880)
		if err == nil && (len(b) < pcpSize || !out.Addr().IsValid() || life < 0) {
			t.Errorf("%x: %s, %s", b, out, life)
		}
	})
}
