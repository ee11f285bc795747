package engine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// wakeAt has the kernel call a connection readable only when so many bytes are there, or when no more would fit.
func wakeAt(raw syscall.RawConn, bytes int) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes) // it saves work, no more
	})
}
