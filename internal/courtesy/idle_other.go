//go:build !linux

package courtesy

// IdleIO does nothing here.
func IdleIO() {}

// Rest does nothing here.
func Rest(bool) {}

// IOClass is not known here.
func IOClass() int { return -1 }
