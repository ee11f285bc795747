package pace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Probe measures the round-trip time to a host with small ICMP echoes (RFC 792, RFC 4443), through the unprivileged sockets
// that net.ipv4.ping_group_range allows, for both families.
type Probe struct {
	conn   *net.UDPConn
	target netip.Addr
	kind   echoKind
}

// echoKind is what the two families call request and reply.
type echoKind struct{ request, reply byte }

var echo4, echo6 = echoKind{8, 0}, echoKind{128, 129}

// sockaddr is an address as the kernel takes it, with its family.
func sockaddr(a netip.Addr, port int) (sa unix.Sockaddr, family int) {
	if a = a.Unmap(); a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}, unix.AF_INET6
}

// Reachable says whether this host has a way to an address at all, so that a family it lacks is not asked. It sends nothing.
func Reachable(a netip.Addr, do func(func() error) error) bool {
	if do == nil {
		do = inPlace
	}
	return do(func() error {
		sa, family := sockaddr(a, 9)
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }() // nothing to lose
		return unix.Connect(fd, sa)
	}) == nil
}

// inPlace runs socket calls here; a test runs them in another network namespace.
func inPlace(f func() error) error { return f() }

// OpenProbe opens the socket; do may be nil.
func OpenProbe(target netip.Addr, do func(func() error) error) (*Probe, error) {
	if do == nil {
		do = inPlace
	}
	var conn *net.UDPConn
	sa, family := sockaddr(target, 0)
	kind, proto := echo4, unix.IPPROTO_ICMP
	if family == unix.AF_INET6 {
		kind, proto = echo6, unix.IPPROTO_ICMPV6
	}
	err := do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		if err != nil {
			return fmt.Errorf("open a ping socket: %w", err)
		}
		if err := unix.Connect(fd, sa); err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("ping %s: %w", target, err)
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) // without it we go by our own clock
		file := os.NewFile(uintptr(fd), "ping")
		defer func() { _ = file.Close() }() // conn has its own descriptor
		c, err := net.FileConn(file)
		if err != nil {
			return fmt.Errorf("ping %s: %w", target, err)
		}
		conn = c.(*net.UDPConn) // as Go sees every datagram socket
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Probe{conn: conn, target: target, kind: kind}, nil
}

// Close ends the probe.
func (p *Probe) Close() error { return p.conn.Close() }

const (
	silentFor = 10 * time.Second // without any answer, after which a probe ends
)

// Run sends an echo every interval, or more seldom where many are not answered, and hands over each answer's time, until ctx
// ends. The functions are called from one goroutine.
func (p *Probe) Run(ctx context.Context, every time.Duration, sample func(time.Time, time.Duration), lost func(time.Time)) error {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetDeadline(time.Now()) })
	defer stop()
	var sent requests
	var t tempo
	buf, oob := make([]byte, 256), make([]byte, 128)
	heard := time.Now()
	for seq := uint16(0); ctx.Err() == nil; seq++ {
		began := time.Now()
		if began.Sub(heard) > silentFor {
			return fmt.Errorf("ping %s: no answer for %s", p.target, silentFor)
		}
		for range sent.missing(began) {
			t.took(began, false)
			lost(began)
		}
		interval := t.interval(every)
		sent.add(seq, began)
		if _, err := p.conn.Write(p.kind.echo(seq)); err != nil && !errors.Is(err, unix.ECONNREFUSED) && ctx.Err() == nil {
			return fmt.Errorf("ping %s: %w", p.target, err)
		}
		for time.Since(began) < interval && ctx.Err() == nil {
			_ = p.conn.SetReadDeadline(began.Add(interval))
			n, m, _, _, err := p.conn.ReadMsgUDPAddrPort(buf, oob)
			if err != nil {
				break // the time is over, or an ICMP error that a later answer makes up for
			}
			now := time.Now()
			s, ok := p.kind.seq(buf[:n])
			if !ok {
				continue
			}
			if rtt, ok := sent.answer(s, now); ok {
				t.took(now, true)
				sample(now, rtt-waited(oob[:m], now, rtt))
				heard = now
			}
		}
		if rest := interval - time.Since(began); rest > 0 {
			if err := sleep(rest, nil, ctx.Done()); err != nil {
				break
			}
		}
	}
	return nil
}

// waited is how long an answer lay in the kernel before we read it, on a busy processor: no time of the line's.
func waited(oob []byte, now time.Time, rtt time.Duration) time.Duration {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SO_TIMESTAMPNS {
			continue
		}
		var at time.Time
		switch e := binary.NativeEndian; len(m.Data) { // struct timespec
		case 8:
			at = time.Unix(int64(e.Uint32(m.Data)), int64(e.Uint32(m.Data[4:])))
		case 16:
			at = time.Unix(int64(e.Uint64(m.Data)), int64(e.Uint64(m.Data[8:]))) //nolint:gosec // as the kernel has it
		}
		if d := now.Round(0).Sub(at); d > 0 && d < rtt { // else somebody has set the clock
			return d
		}
	}
	return 0
}

// echo makes an echo request; the kernel fills in the identifier and, for these sockets, the checksum.
func (k echoKind) echo(seq uint16) []byte {
	b := make([]byte, 16)
	b[0] = k.request
	binary.BigEndian.PutUint16(b[6:], seq)
	return b
}

// seq reads the sequence number of an echo reply.
func (k echoKind) seq(b []byte) (uint16, bool) {
	if len(b) < 8 || b[0] != k.reply {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[6:]), true
}

// Hop finds the router so many hops away on the way to a host: the operator's first router behind the access line is two
// hops away in most homes. It sends a few datagrams that die there and reads the first error that comes back.
func Hop(ctx context.Context, towards netip.Addr, hops int, do func(func() error) error) (netip.Addr, error) {
	if do == nil {
		do = inPlace
	}
	fd := -1
	sa, family := sockaddr(towards, 33434+hops)
	level, ttl, report := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_RECVERR
	if family == unix.AF_INET6 {
		level, ttl, report = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_RECVERR
	}
	err := do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look for the hop: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	err = errors.Join(
		unix.SetsockoptInt(fd, level, ttl, hops),
		unix.SetsockoptInt(fd, level, report, 1),
		unix.Connect(fd, sa),
	)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look for the hop: %w", err)
	}
	oob := make([]byte, 512)
	for i := range 20 {
		if i%6 == 0 { // any may be lost
			_, _ = unix.Write(fd, []byte("boxd"))
		}
		_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 64), oob, unix.MSG_ERRQUEUE)
		if err == nil {
			if a, ok := offender(oob[:n], towards); ok {
				return a, nil
			}
		}
		if err := sleep(50*time.Millisecond, nil, ctx.Done()); err != nil {
			break
		}
	}
	return netip.Addr{}, fmt.Errorf("look for the hop: no answer from %d hops towards %s", hops, towards)
}

// offender reads who said that a datagram has come its hops, from struct sock_extended_err and the sockaddr_in or sockaddr_in6
// behind it (ip(7), ipv6(7)), or that it has come to its end, where there is no such port. Who says that there is no way, as
// the home's router does while the line is down, is no hop.
func offender(oob []byte, end netip.Addr) (netip.Addr, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, m := range msgs {
		const in4, in6 = 16 + 4, 16 + 8 // the error, then family, port and flow
		const origin, kind = 4, 5       // bytes of the error
		const over4, over6 = 11, 3      // time exceeded (RFC 792, RFC 4443)
		const none4, none6 = 3, 1       // destination unreachable
		const icmp, icmp6 = 2, 3        // origins
		switch a := m.Data; {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR && len(a) >= in4+4 && a[origin] == icmp:
			from := netip.AddrFrom4([4]byte(a[in4:]))
			if a[kind] == over4 && !from.IsUnspecified() || a[kind] == none4 && from == end.Unmap() {
				return from, true
			}
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR && len(a) >= in6+16 && a[origin] == icmp6:
			from := netip.AddrFrom16([16]byte(a[in6:]))
			if a[kind] == over6 && !from.IsUnspecified() || a[kind] == none6 && from == end {
				return from, true
			}
		}
	}
	return netip.Addr{}, false
}
