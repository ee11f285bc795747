package httpapi

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups bounds the supplementary groups that are looked at.
const maxGroups = 256

// peerGroups returns the supplementary groups of the process at the other end (SO_PEERGROUPS, Linux 4.13).
func peerGroups(fd int) []uint32 {
	var buf [maxGroups]uint32
	size := uint32(unsafe.Sizeof(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // x/sys has no wrapper
	if errno != 0 {
		return nil
	}
	return append([]uint32(nil), buf[:size/4]...)
}
