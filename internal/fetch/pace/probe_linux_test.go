package pace

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// control makes a control message with a time stamp, as a kernel with such a word size does.
func control(at time.Time, word int) []byte {
	b := make([]byte, unix.CmsgSpace(2*word))
	e := binary.NativeEndian
	h := b[:unix.CmsgLen(0)]
	switch n := uint64(unix.CmsgLen(2 * word)); len(h) { //nolint:gosec // a length
	case 16:
		e.PutUint64(h, n)
	default:
		e.PutUint32(h, uint32(n)) //nolint:gosec // a length
	}
	e.PutUint32(h[len(h)-8:], unix.SOL_SOCKET)
	e.PutUint32(h[len(h)-4:], unix.SO_TIMESTAMPNS)
	d := b[len(h):]
	if word == 8 {
		e.PutUint64(d, uint64(at.Unix()))           //nolint:gosec // after 1970
		e.PutUint64(d[8:], uint64(at.Nanosecond())) //nolint:gosec // a part of a second
	} else {
		e.PutUint32(d, uint32(at.Unix()))           //nolint:gosec // before 2106
		e.PutUint32(d[4:], uint32(at.Nanosecond())) //nolint:gosec // a part of a second
	}
	return b
}

// What an answer waits for us to read it is no time of the line's; a clock that was set meanwhile says nothing.
func TestAnswersThatWaitedForUs(t *testing.T) {
	t.Parallel()
	now := time.Unix(2_000_000_000, 500_000_000)
	const ms = time.Millisecond
	for _, word := range []int{4, 8} {
		for _, c := range []struct{ before, rtt, want time.Duration }{
			{30 * ms, 50 * ms, 30 * ms},
			{0, 50 * ms, 0},
			{-time.Hour, 50 * ms, 0},
			{time.Hour, 50 * ms, 0},
			{600 * ms, 900 * ms, 600 * ms},
		} {
			if got := waited(control(now.Add(-c.before), word), now, c.rtt); got != c.want {
				t.Errorf("words of %d: came %s before of %s: waited %s, want %s", word, c.before, c.rtt, got, c.want)
			}
		}
	}
	if got := waited(nil, now, time.Second); got != 0 {
		t.Errorf("waited %s without a time stamp", got)
	}
}

// An error says who sent it behind struct sock_extended_err, in both families.
func TestWhoSentAnError(t *testing.T) {
	t.Parallel()
	for _, want := range []string{"192.0.2.7", "2001:db8::7"} {
		a := netip.MustParseAddr(want)
		level, kind, at := unix.IPPROTO_IP, unix.IP_RECVERR, 16+4
		if a.Is6() {
			level, kind, at = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 16+8
		}
		data := append(make([]byte, at), a.AsSlice()...)
		data = append(data, make([]byte, 8)...)
		data[4], data[5] = 2, 11
		if a.Is6() {
			data[4], data[5] = 3, 3
		}
		b := make([]byte, unix.CmsgSpace(len(data)))
		h := b[:unix.CmsgLen(0)]
		if len(h) == 16 {
			binary.NativeEndian.PutUint64(h, uint64(unix.CmsgLen(len(data)))) //nolint:gosec // a length
		} else {
			binary.NativeEndian.PutUint32(h, uint32(unix.CmsgLen(len(data)))) //nolint:gosec // a length
		}
		binary.NativeEndian.PutUint32(h[len(h)-8:], uint32(level)) //nolint:gosec // a small number
		binary.NativeEndian.PutUint32(h[len(h)-4:], uint32(kind))  //nolint:gosec // a small number
		copy(b[len(h):], data)
		end := netip.MustParseAddr("198.18.0.1")
		if got, ok := offender(b, end); !ok || got != a {
			t.Errorf("%v, %v, want %v", got, ok, a)
		}
		b[unix.CmsgLen(0)+5] = 3 // no way there, says a router whose line is down
		if a.Is6() {
			b[unix.CmsgLen(0)+5] = 1
		}
		if got, ok := offender(b, end); ok {
			t.Errorf("%v is taken for a hop", got)
		}
		if got, ok := offender(b, a); !ok || got != a { // no such port there
			t.Errorf("%v, %v for the other end itself", got, ok)
		}
	}
	if a, ok := offender(nil, netip.Addr{}); ok {
		t.Errorf("%v sent nothing", a)
	}
}
