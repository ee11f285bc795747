// Package portmap asks the home's router to let boxes outside reach the swarm's port: NAT-PMP (RFC 6886) first, because
// it is one datagram, then UPnP-IGD, for which it uses the client that the swarm engine brings along anyway.
//
// Invariants: a mapping is leased and renewed at half its life, never permanent, and given back at the end. A router that
// knows neither is asked again only rarely. Nothing here waits for ever.
package portmap

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	alog "github.com/anacrolix/log"
	"github.com/anacrolix/upnp"
	natpmp "github.com/jackpal/go-nat-pmp"
)

const (
	lease    = time.Hour
	giveUp   = 30 * time.Minute // until a router that knows no mapping is asked again
	timeout  = 4 * time.Second
	fromFile = "/proc/net/route"
)

// Mapper keeps one TCP port mapped.
type Mapper struct {
	Port    int                           // that the box listens on
	Gateway func() (netip.Addr, error)    // nil: the default route's
	UPnP    func() ([]upnp.Device, error) // nil: asks the network
	Log     *slog.Logger

	external atomic.Int64
}

// External is the port by which the box is reached from outside; its own when nothing is mapped.
func (m *Mapper) External() int {
	if p := m.external.Load(); p > 0 {
		return int(p)
	}
	return m.Port
}

// Run maps and renews until ctx ends, then gives the mapping back.
func (m *Mapper) Run(ctx context.Context) error {
	if m.Log == nil {
		m.Log = slog.New(slog.DiscardHandler)
	}
	var undo func()
	for ctx.Err() == nil {
		port, end, err := m.try()
		wait := lease/2 + rand.N(lease/8) //nolint:gosec // jitter
		if err == nil {
			m.external.Store(int64(port))
			undo = end
			m.Log.Debug("the router maps a port", "external", port)
		} else {
			m.external.Store(0)
			wait = giveUp + rand.N(giveUp/4) //nolint:gosec // jitter
			m.Log.Debug("the router maps no port", "err", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
	if undo != nil {
		undo()
	}
	return nil
}

// try maps the port by the first protocol that the router knows.
func (m *Mapper) try() (port int, undo func(), err error) {
	port, undo, pmpErr := m.pmp()
	if pmpErr == nil {
		return port, undo, nil
	}
	port, undo, upnpErr := m.igd()
	if upnpErr == nil {
		return port, undo, nil
	}
	return 0, nil, errors.Join(pmpErr, upnpErr)
}

func (m *Mapper) pmp() (int, func(), error) {
	gateway := m.Gateway
	if gateway == nil {
		gateway = defaultGateway
	}
	gw, err := gateway()
	if err != nil {
		return 0, nil, fmt.Errorf("NAT-PMP: %w", err)
	}
	c := natpmp.NewClientWithTimeout(gw.AsSlice(), timeout)
	res, err := c.AddPortMapping("tcp", m.Port, m.Port, int(lease.Seconds()))
	if err != nil {
		return 0, nil, fmt.Errorf("NAT-PMP: %w", err)
	}
	if res.MappedExternalPort == 0 {
		return 0, nil, errors.New("NAT-PMP: the router mapped port 0")
	}
	return int(res.MappedExternalPort), func() {
		if _, err := c.AddPortMapping("tcp", m.Port, 0, 0); err != nil { // RFC 6886, section 3.4
			m.Log.Debug("giving the port mapping back failed", "err", err)
		}
	}, nil
}

func (m *Mapper) igd() (int, func(), error) {
	discover := m.UPnP
	if discover == nil {
		discover = func() ([]upnp.Device, error) {
			return upnp.Discover(0, timeout, alog.Default.FilterLevel(alog.Critical)), nil
		}
	}
	devices, err := discover()
	if err != nil {
		return 0, nil, fmt.Errorf("UPnP: %w", err)
	}
	err = errors.New("UPnP: no router answers")
	for _, d := range devices {
		port, mapErr := d.AddPortMapping(upnp.TCP, m.Port, m.Port, "boxd", lease)
		if mapErr == nil && port > 0 && port < 1<<16 {
			return port, func() {}, nil // the lease ends by itself
		}
		err = fmt.Errorf("UPnP: %s: %w", d.ID(), mapErr)
	}
	return 0, nil, err
}

// defaultGateway reads the IPv4 default route from the kernel.
func defaultGateway() (netip.Addr, error) {
	b, err := os.ReadFile(fromFile)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("default route: %w", err)
	}
	return parseRoutes(string(b))
}

// parseRoutes finds the gateway of the default route in the format of /proc/net/route.
func parseRoutes(table string) (netip.Addr, error) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "00000000" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		if err != nil || len(b) != net.IPv4len {
			continue
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
		if gw := netip.AddrFrom4(a); !gw.IsUnspecified() {
			return gw, nil
		}
	}
	return netip.Addr{}, errors.New("there is no default route")
}
