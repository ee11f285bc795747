// Package utp stands in for github.com/anacrolix/go-utp, whose pinned version cannot be downloaded.
//
// It has the names that anacrolix/torrent compiles against and no uTP: boxd switches uTP off (DisableUTP), and every
// constructor here fails with ErrNotBuilt should anything switch it on. See docs/adr/0002-torrent-engine-version.md.
package utp

import (
	"context"
	"errors"
	"log/slog"
	"net"
)

// Default names the implementation in messages.
const Default = "none"

// ErrNotBuilt is what every constructor returns.
var ErrNotBuilt = errors.New("uTP is not built into this program")

// FirewallCallback decides whether a packet from an unknown address is dropped.
type FirewallCallback = func(net.Addr) bool

// Option is accepted and ignored.
type Option func()

// WithLogger is accepted and ignored.
func WithLogger(*slog.Logger) Option { return func() {} }

// Socket is what a uTP implementation would offer.
type Socket interface {
	net.PacketConn
	Accept() (net.Conn, error)
	Addr() net.Addr
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	SetFirewallCallback(FirewallCallback)
}

// NewSocket always fails with ErrNotBuilt.
func NewSocket(_, _ string, _ ...Option) (Socket, error) { return nil, ErrNotBuilt }

// NewSocketFromPacketConn always fails with ErrNotBuilt.
func NewSocketFromPacketConn(net.PacketConn, ...Option) (Socket, error) { return nil, ErrNotBuilt }
