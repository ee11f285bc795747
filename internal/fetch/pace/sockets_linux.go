package pace

import (
	"os"
	"strconv"
	"strings"
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

// mostBuffer is the largest receive buffer that may be asked for.
var mostBuffer = sync.OnceValue(func() int {
	const usual = 212_992
	b, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		return usual
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 {
		return n
	}
	return usual
})

// boundBuffer bounds what the kernel keeps for us to read; beyond what may be asked for, the kernel chooses again.
func boundBuffer(raw syscall.RawConn, bytes int) {
	_ = raw.Control(func(fd uintptr) {
		if bytes > mostBuffer() {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0) == nil {
				return
			}
			bytes = mostBuffer() // before Linux 5.14 what was bounded stays so: the widest that there is
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
