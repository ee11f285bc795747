//go:build !linux

package engine

import "syscall"

func wakeAt(syscall.RawConn, int) {}
