//go:build !linux

package pace

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Probe is only there on Linux.
type Probe struct{}

var errNoProbe = errors.New("no probe on this system")

// OpenProbe always fails.
func OpenProbe(netip.Addr, func(func() error) error) (*Probe, error) { return nil, errNoProbe }

// Close does nothing.
func (*Probe) Close() error { return nil }

// Run does nothing.
func (*Probe) Run(context.Context, time.Duration, func(time.Time, time.Duration), func(time.Time)) error {
	return errNoProbe
}

// Hop always fails.
func Hop(context.Context, netip.Addr, int, func(func() error) error) (netip.Addr, error) {
	return netip.Addr{}, errNoProbe
}

// Reachable is always true.
func Reachable(netip.Addr, func(func() error) error) bool { return true }
