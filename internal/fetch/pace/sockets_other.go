//go:build !linux

package pace

import "syscall"

func readInfo(syscall.RawConn) (info, bool) { return info{}, false }
func clampWindow(syscall.RawConn, int)      {}
func boundBuffer(syscall.RawConn, int)      {}
func lowWater(syscall.RawConn)              {}
