package main

import (
	"context"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/control"
	"boxd/internal/remote"
)

// openRemote makes what plays from other boxes of the home, unless the configuration has it off.
func (d *daemon) openRemote(context.Context) (err error) {
	if !d.cfg.LAN.RemoteReads {
		return nil
	}
	d.reads, err = remote.New(remote.Options{
		Identity: d.id, Home: d.lan, Listener: d.mux.Listener(remote.ALPN), Log: d.named("remote"),
		Pay: func(n int, done <-chan struct{}) error { return d.fetch.PayLAN(n, done) }, // made later, used while all run
		Asset: func(id asset.ID) (remote.Store, bool) {
			if d.catalog.Snapshot().IsWithdrawn(id) {
				return nil, false
			}
			a, ok := d.cache.Asset(id)
			return a, ok
		},
	})
	return err
}

// roomy is the share of the cache that may be taken before this box is a worse courier than one with room: what it brings
// home might be evicted soon, and has to come over the access line again.
const roomy = 0.9

// spaceClass is the cache's part in how good a courier this box would be: 0 with room, else 1.
func spaceClass(u cache.Usage) int {
	limit := u.Quota
	if room := u.Used + u.Free - u.Reserve; u.Free >= 0 && (limit <= 0 || room < limit) {
		limit = room
	}
	if limit > 0 && float64(u.Used) > roomy*float64(limit) || limit <= 0 && u.Free >= 0 {
		return 1
	}
	return 0
}

// strangers is who was not let in.
func (d *daemon) strangers() control.Strangers {
	m, h := d.mux.Refusals(), d.lan.Stats()
	s := control.Strangers{
		NoCertificate: m.NoCertificate, OtherFleet: m.OtherFleet + h.OtherFleet, Expired: m.Expired, Revoked: m.Revoked,
		Crowded: m.Crowded + h.Refused, OffLink: h.OffLink, Malformed: h.Malformed, HintsIgnored: h.HintsIgnored,
	}
	if d.reads != nil {
		s.WrongPieces = d.reads.Stats().Wrong
	}
	return s
}
