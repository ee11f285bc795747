package portmap

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// The parts of PCP (RFC 6887) that map a port. A router that maps nothing because it has no need to, one for IPv6, opens its
// firewall when it is asked the same.
const (
	pcpPort    = 5351
	pcpVersion = 2
	pcpMap     = 1
	pcpAnswer  = 0x80
	pcpSize    = 60 // bytes of a request to map and of its answer
	protoTCP   = 6
)

// pcpErrors are the results that a mapping may have (RFC 6887, section 7.4).
var pcpErrors = [...]string{
	1: "unsupported version", 2: "not authorised", 3: "malformed request", 4: "unsupported operation",
	5: "unsupported option", 6: "malformed option", 7: "network failure", 8: "no resources", 9: "unsupported protocol",
	10: "quota exceeded", 11: "cannot provide that external port", 12: "address mismatch", 13: "too many remote peers",
}

// pcpNonce tells mappings of ours from those of others; a renewal needs the same.
type pcpNonce [12]byte

func newNonce() (n pcpNonce) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}

// pcpRequest asks for a port for so long; a life of zero gives it back.
func pcpRequest(nonce pcpNonce, client netip.Addr, internal, external int, life time.Duration) []byte {
	b := make([]byte, pcpSize)
	b[0], b[1] = pcpVersion, pcpMap
	binary.BigEndian.PutUint32(b[4:], uint32(life.Seconds()))
	as16 := client.As16()
	copy(b[8:24], as16[:])
	copy(b[24:36], nonce[:])
	b[36] = protoTCP
	binary.BigEndian.PutUint16(b[40:], uint16(internal)) //nolint:gosec // a port
	binary.BigEndian.PutUint16(b[42:], uint16(external)) //nolint:gosec // a port
	if client.Is4() {
		b[54], b[55] = 0xff, 0xff // any IPv4 address
	}
	return b
}

// errOther is an answer to another question than ours: one waits on.
var errOther = errors.New("not an answer to this request")

// parsePCP takes an answer to a request for a mapping.
func parsePCP(b []byte, nonce pcpNonce, internal int) (external netip.AddrPort, life time.Duration, err error) {
	switch {
	case len(b) >= 2 && b[0] != pcpVersion && b[1]&pcpAnswer != 0:
		return external, 0, errors.New("the router does not speak PCP")
	case len(b) < 4 || b[1] != pcpAnswer|pcpMap:
		return external, 0, errOther
	case b[3] != 0 && int(b[3]) < len(pcpErrors):
		return external, 0, fmt.Errorf("refused: %s", pcpErrors[b[3]])
	case b[3] != 0:
		return external, 0, fmt.Errorf("refused with %d", b[3])
	case len(b) < pcpSize || pcpNonce(b[24:36]) != nonce || b[36] != protoTCP ||
		int(binary.BigEndian.Uint16(b[40:])) != internal:
		return external, 0, errOther
	}
	life = time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second
	port := binary.BigEndian.Uint16(b[42:])
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[44:60])).Unmap(), port), life, nil
}

// askPCP sends a request from an address of ours to the router and waits for the answer, repeating it as datagrams get lost.
func askPCP(ctx context.Context, from, gw netip.Addr, nonce pcpNonce, internal, external int, life time.Duration) (
	out netip.AddrPort, granted time.Duration, err error,
) {
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	c, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(gw, pcpPort).String())
	if err != nil {
		return out, 0, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	req := pcpRequest(nonce, from, internal, external, life)
	b := make([]byte, 1100) // RFC 6887, section 7
	for wait := timeout / 8; wait <= timeout/2; wait *= 2 {
		if _, err := c.Write(req); err != nil {
			return out, 0, err
		}
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return out, 0, err
		}
		for {
			n, err := c.Read(b)
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				break
			}
			if err != nil {
				return out, 0, err
			}
			if out, granted, err = parsePCP(b[:n], nonce, internal); !errors.Is(err, errOther) {
				return out, granted, err
			}
		}
	}
	return out, 0, errors.New("no answer")
}

// pcp maps the port by PCP.
func (m *Mapper) pcp(ctx context.Context, gw netip.Addr, want int) (Mapping, error) {
	from, err := m.source(gw)
	if err != nil {
		return Mapping{}, err
	}
	out, life, err := askPCP(ctx, from, gw, m.nonce, m.Port, want, lease)
	if err != nil {
		return Mapping{}, err
	}
	if out.Port() == 0 || life == 0 {
		return Mapping{}, errors.New("the router mapped nothing")
	}
	return Mapping{
		Protocol: "PCP", External: int(out.Port()), Address: out.Addr(), life: life,
		undo: func(ctx context.Context) error {
			_, _, err := askPCP(ctx, from, gw, m.nonce, m.Port, 0, 0)
			return err
		},
	}, nil
}

// source is the address for which the port is mapped.
func (m *Mapper) source(gw netip.Addr) (netip.Addr, error) {
	if m.IPv6 {
		if a := public6(); a.IsValid() {
			return a, nil
		}
		return netip.Addr{}, errors.New("the box has no public IPv6 address")
	}
	local, err := localTo(gw)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(local)
}
