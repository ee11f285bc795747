package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/anacrolix/upnp"
)

// router answers NAT-PMP requests on a loopback address of its own and hands over what it was asked.
func router(t *testing.T, addr string) <-chan [2]uint32 {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr+":5351")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	asked := make(chan [2]uint32, 10)
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if n != 12 || b[1] != 2 {
				continue
			}
			life := binary.BigEndian.Uint32(b[8:])
			asked <- [2]uint32{uint32(binary.BigEndian.Uint16(b[4:])), life}
			res := make([]byte, 16)
			res[1] = 128 + 2
			copy(res[8:10], b[4:6])
			binary.BigEndian.PutUint16(res[10:], 40_000) // another port than was asked for
			binary.BigEndian.PutUint32(res[12:], life)
			_, _ = pc.WriteTo(res, from)
		}
	}()
	return asked
}

func TestNATPMPMapsRenewsAndGivesBack(t *testing.T) {
	asked := router(t, "127.0.0.77")
	m := &Mapper{Port: 6880, Gateway: func() (netip.Addr, error) { return netip.MustParseAddr("127.0.0.77"), nil }}
	if m.External() != 6880 {
		t.Fatal(m.External())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	if a := <-asked; a[0] != 6880 || a[1] != uint32(lease.Seconds()) {
		t.Fatal(a)
	}
	for m.External() != 40_000 {
		select {
		case <-t.Context().Done():
			t.Fatal("not mapped")
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if a := <-asked; a[1] != 0 {
		t.Fatalf("given back with a life of %d s", a[1])
	}
}

type igd struct{ upnp.Device }

func (igd) ID() string { return "a router" }
func (igd) AddPortMapping(p upnp.Protocol, in, _ int, _ string, d time.Duration) (int, error) {
	if p != upnp.TCP || in != 6880 || d != lease {
		return 0, errors.New("asked for something else")
	}
	return 41_000, nil
}

func TestUPnPIsTheSecondChoice(t *testing.T) {
	m := &Mapper{
		Port: 6880, Gateway: func() (netip.Addr, error) { return netip.Addr{}, errors.New("no route") },
		UPnP: func() ([]upnp.Device, error) { return []upnp.Device{igd{}}, nil },
	}
	if port, _, err := m.try(); err != nil || port != 41_000 {
		t.Fatal(port, err)
	}
	m.UPnP = func() ([]upnp.Device, error) { return nil, nil }
	if _, _, err := m.try(); err == nil {
		t.Fatal("mapped by nobody")
	}
}

func TestParseRoutes(t *testing.T) {
	table := "Iface\tDestination\tGateway \tFlags\neth0\t0011AC0A\t00000000\t0001\neth0\t00000000\t0111AC0A\t0003\n"
	if a, err := parseRoutes(table); err != nil || a != netip.MustParseAddr("10.172.17.1") {
		t.Fatal(a, err)
	}
	for _, bad := range []string{"", "x", "eth0 00000000 zz 1", "eth0 00000000 00000000 1"} {
		if _, err := parseRoutes(bad); err == nil {
			t.Errorf("%q has a gateway", bad)
		}
	}
}
