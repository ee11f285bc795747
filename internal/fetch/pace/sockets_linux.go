package pace

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// freshACK is how old the last acknowledgement may be, in milliseconds, for the round-trip time to be the present one.
const freshACK = 200

func readInfo(raw syscall.RawConn) (in info, ok bool) {
	err := raw.Control(func(fd uintptr) {
		t, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		ok = true
		in.received, in.acked = int64(t.Bytes_received), int64(t.Bytes_acked) //nolint:gosec // far below 2^63
		in.minRTT = bestRTT(t.Min_rtt)
		if t.Min_rtt == 0 && t.Rtt > 0 { // before Linux 4.6: the present one is nearer to it than any guess
			in.minRTT = time.Duration(t.Rtt) * time.Microsecond
		}
		in.late = int64(t.Rcv_ooopack)
		in.packet = int(max(t.Rcv_mss, t.Snd_mss))
		in.rcvRTT = time.Duration(t.Rcv_rtt) * time.Microsecond
		if t.Last_ack_recv < freshACK {
			in.rtt = time.Duration(t.Rtt) * time.Microsecond
		}
	})
	return in, ok && err == nil
}

// clampWindow bounds the receive window that the kernel advertises.
func clampWindow(raw syscall.RawConn, bytes int) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, bytes) // a courtesy
	})
}

// buffers is what the kernel makes of bounds on a receive buffer.
type buffers struct {
	most   int  // that may be asked for
	unlock bool // it takes a bound back: Linux 5.14 and later
}

const (
	usualBuffer = 212_992
	ampleBuffer = 4 << 20 // enough for a connection over any access line
)

// kernelBuffers asks the kernel itself: /proc/sys may be hidden from a service.
var kernelBuffers = sync.OnceValue(func() buffers {
	b := buffers{most: usualBuffer}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return b
	}
	defer func() { _ = unix.Close(fd) }() // nothing to lose
	b.unlock = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0) == nil
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<30) == nil {
		if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil && n > 0 {
			b.most = n / 2 // it counts what it needs itself, too
		}
	}
	return b
})

// boundBuffer bounds what the kernel keeps for us to read.
func boundBuffer(raw syscall.RawConn, bytes int) { kernelBuffers().bound(raw, bytes) }

// bound bounds a buffer; beyond what may be asked for, the kernel chooses again. Where it would never do so, what was bounded
// once could not grow any more than that, and a long or fast way would stay slow: there the advertised window is all that holds
// a sender.
func (b buffers) bound(raw syscall.RawConn, bytes int) {
	if !b.unlock && b.most < ampleBuffer {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if bytes > b.most {
			if b.unlock {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0) // a courtesy
				return
			}
			bytes = b.most
		}
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes) // a courtesy
	})
}

// lowWater keeps what waits in the kernel to be sent small, so that a change of pace shows at once.
func lowWater(raw syscall.RawConn) {
	const unsent = 32 << 10
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent) // a courtesy
	})
}
