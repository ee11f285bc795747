//go:build !linux

package courtesy

// IdleIO does nothing here.
func IdleIO() {}

// Rest does nothing here.
func Rest(bool) {}

// Idle does nothing here.
func Idle() {}

// IOClass is not known here.
func IOClass() int { return -1 }
