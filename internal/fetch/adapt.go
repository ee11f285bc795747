package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/fetch/engine"
	"boxd/internal/identity"
)

// FromCache lets a Fetcher use the cache.
func FromCache(c *cache.Cache) Cache { return cacheAdapter{c} }

type cacheAdapter struct{ *cache.Cache }

func (c cacheAdapter) Create(torrent []byte, a Attr) (Asset, error) {
	ca, err := c.Cache.Create(torrent, cacheAttr(a))
	if err != nil {
		return nil, err
	}
	return assetAdapter{ca}, nil
}

func (c cacheAdapter) Asset(id asset.ID) (Asset, bool) {
	a, ok := c.Cache.Asset(id)
	if !ok {
		return nil, false
	}
	return assetAdapter{a}, true
}

func (c cacheAdapter) IDs() []asset.ID {
	list := c.Assets()
	ids := make([]asset.ID, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	return ids
}

func (c cacheAdapter) SetAttr(id asset.ID, a Attr) error { return c.Cache.SetAttr(id, cacheAttr(a)) }

func cacheAttr(a Attr) cache.Attr {
	return cache.Attr{
		Name: a.Name, Version: a.Version, Publisher: a.Publisher, Priority: a.Priority, Deadline: a.Deadline,
		KeepUntil: a.KeepUntil, PrefixBytes: a.PrefixBytes, NeighbourHolds: a.NeighbourHolds,
	}
}

// taken recognises the cache's refusal of bytes that are here already, are being judged, are just being played, or for
// which no space is reserved. Whoever sent them is not to blame when the piece is not whole then.
func taken(err error) bool {
	return errors.Is(err, cache.ErrVerified) || errors.Is(err, cache.ErrInUse) || errors.Is(err, cache.ErrNotReserved)
}

type assetAdapter struct{ *cache.Asset }

// Demand is what readers need next, nearest first.
func (a assetAdapter) Demand() []Span {
	spans := a.Asset.Demand()
	list := make([]Span, len(spans))
	for i, s := range spans {
		list[i] = Span{s.Begin, s.End, s.Soon, s.Now}
	}
	return list
}

// EngineOptions is how the real swarm is made.
type EngineOptions struct {
	Identity *identity.Identity // nil: plain connections, for a test fleet without transport security
	Listener net.Listener       // of identity.ALPNSwarm; nil: nobody can dial us
	Limits   engine.Limits
	Change   func(*engine.Options) // for tests
}

// NewEngine returns what Options.NewSwarm wants.
func NewEngine(base engine.Options, o EngineOptions) func(Hooks) Swarm {
	return func(h Hooks) Swarm {
		opts := base
		opts.Listener, opts.Limits = o.Listener, o.Limits
		opts.Taken = taken
		opts.Lazy, opts.OnFailure, opts.IsLAN, opts.Home = h.Lazy, h.OnFailure, h.IsLAN, h.Home
		opts.Sockets = h.Sockets
		if id := o.Identity; id != nil {
			opts.Self = id.BoxID
			opts.ClientTLS = func(box, sni string) *tls.Config { return id.SwarmClient(box, sni, identity.ALPNSwarm) }
			opts.Handshake = func(ctx context.Context, raw net.Conn, conf *tls.Config) (*tls.Conn, error) {
				return id.Client(ctx, raw, conf)
			}
			opts.PeerOf = func(cs tls.ConnectionState) (string, error) {
				p, err := identity.PeerOf(cs)
				return p.BoxID, err
			}
		}
		if o.Change != nil {
			o.Change(&opts)
		}
		return engine.New(opts)
	}
}
