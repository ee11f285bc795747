package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"boxd/internal/config"
	"boxd/internal/state"
)

// services runs everything; the first that breaks ends all.
func (d *daemon) services(ctx context.Context, g *errgroup.Group) {
	start := func(name string, run func(context.Context) error) {
		g.Go(func() error {
			err := run(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = errors.New("ended by itself")
			}
			return fmt.Errorf("%s: %w", name, err)
		})
	}
	start("identity", d.id.Run)
	start("mux", d.mux.Run)
	if d.split != nil {
		start("split", d.split.Run)
	}
	if d.ports != nil {
		start("portmap", d.ports.Run)
	}
	if d.ports6 != nil {
		start("portmap6", d.ports6.Run)
	}
	start("cache", d.cache.Run)
	start("catalog", d.catalog.Run)
	start("lan", d.lan.Run)
	if d.reads != nil {
		start("remote reads", d.reads.Run)
	}
	start("fetch", d.fetch.Run)
	start("firmware", d.firmware.Run)
	start("courtesy", d.courtesy.Run)
	start("control", d.box.Run)
	start("http", d.http.Run)
	start("revocations", d.followCatalog)
	start("bell", d.followBell)
	if d.mgmt != nil {
		start("mgmt", d.mgmt.Run)
	}
}

// followCatalog hands revocations on to the identity.
func (d *daemon) followCatalog(ctx context.Context) error {
	for {
		changed := d.catalog.Changed()
		d.id.SetRevoked(d.catalog.Snapshot().Revoked)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// followBell refreshes the catalog when the fleet manager says that there is a newer one, or the box's group changes.
func (d *daemon) followBell(ctx context.Context) error {
	group := d.id.Group()
	for {
		who := d.id.Changed()
		if now := d.id.Group(); now != group {
			group = now
			d.refresh(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-who:
		case v := <-d.bell:
			if v != d.catalog.Snapshot().Version { // also lower: a repository that was founded anew begins again
				d.refresh(ctx)
			}
		}
	}
}

func (d *daemon) refresh(ctx context.Context) {
	if err := d.catalog.Refresh(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("refresh the catalog", "error", err) // it raised a health code, and polls again by itself
	}
}

func (d *daemon) statusLine() string { return d.box.Snapshot().Summary }

// reconfigure takes over what can change while running, and names what cannot.
func (d *daemon) reconfigure(next *config.Config) {
	d.limits.Store(fetchLimits(next))
	d.box.Reconfigure(next)
	d.http.SetOrigins(next.HTTP.Origins)
	rest := d.cfg.Differences(next, "limits.wan_down", "limits.wan_up", "limits.lan", "limits.monthly_wan", "limits.upload_ratio",
		"schedule.play_outside_windows", "http.origins", "log.level")
	if len(rest) > 0 {
		d.log.Warn("configuration reloaded; some changes need a restart", "keys", strings.Join(rest, " "))
		return
	}
	d.log.Info("configuration reloaded")
}

// pairings keeps paired browsers in state.db.
type pairings struct{ db *state.DB }

const bucketPairings = "httpapi.pairings"

func (p pairings) Has(hash string) bool {
	_, ok, err := p.db.Get(bucketPairings, []byte(hash))
	return ok && err == nil
}

func (p pairings) Add(hash string) error { return p.db.Put(bucketPairings, []byte(hash), []byte("1")) }
