package courtesy

import (
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	ioprioWhoProcess = 1 // with id 0: the calling thread
	ioprioClassShift = 13
	ioprioIdle       = 3
)

// IdleIO makes the calling goroutine's thread the last to get the disk (ioprio_set(2)). The goroutine keeps the thread,
// which ends with it.
func IdleIO() {
	runtime.LockOSThread() // never unlocked
	Rest(true)
}

// Rest is for a thread that IdleIO has set apart: false gives it back the process's place at the disk for a while, because
// somebody waits for what it does.
func Rest(idle bool) {
	prio := 0 // that of the process
	if idle {
		prio = ioprioIdle << ioprioClassShift
	}
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, uintptr(prio)) // a courtesy
}

// IOClass is the class of the calling thread's I/O priority: 0 none of its own, 2 best-effort, 3 idle.
func IOClass() int {
	p, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, 0, 0)
	if errno != 0 {
		return -1
	}
	return int(p >> ioprioClassShift) //nolint:gosec // a small number
}
