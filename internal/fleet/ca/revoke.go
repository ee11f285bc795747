package ca

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"boxd/internal/identity/pki"
)

// ErrNoBox is returned for a box id that the ledger does not have.
var ErrNoBox = errors.New("no such box")

// ErrInUse keeps an authority from revoking what all its boxes or servers depend on.
var ErrInUse = errors.New("this intermediate is in use: install the one that replaces it, and restart, first")

// Box returns what the ledger has about one box.
func (c *CA) Box(ctx context.Context, id string) (box Box, err error) {
	err = c.opts.Store.View(ctx, func(tx Tx) error {
		var ok bool
		if box, ok, err = getJSON[Box](tx, TableBoxes, id); err == nil && !ok {
			err = ErrNoBox
		}
		return err
	})
	if err != nil {
		return Box{}, fmt.Errorf("box %.60q: %w", id, err)
	}
	return box, nil
}

// Boxes calls fn for every box in the ledger, in the order of their names.
func (c *CA) Boxes(ctx context.Context, fn func(Box) error) error {
	return c.opts.Store.View(ctx, func(tx Tx) error { return eachJSON(tx, TableBoxes, fn) })
}

// SetGroup moves a box to another group, from its next renewal on. The box renews at once when it is told to.
func (c *CA) SetGroup(ctx context.Context, id, group string) error {
	if group != "" && !pki.ValidLabel(group) {
		return fmt.Errorf("group %.60q: want 1 to %d of a-z, 0-9 and -", group, pki.MaxLabel)
	}
	return c.changeBox(ctx, id, func(_ Tx, box *Box) error {
		box.Group = group
		return nil
	})
}

// RevokeBox revokes every certificate of a box that may still be believed. The name stays taken.
func (c *CA) RevokeBox(ctx context.Context, id, reason string) error {
	err := c.changeBox(ctx, id, func(tx Tx, box *Box) error {
		box.Revoked = c.opts.Now().UTC()
		if err := putJSON(tx, TableOut, id, box.Revoked); err != nil {
			return err
		}
		return c.revokeCerts(tx, box, reason)
	})
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	c.log.Info("box revoked", "box", id, "reason", reason)
	return c.Reload(ctx)
}

// RevokeSerial revokes one certificate, which need not be of the ledger (an intermediate, a server).
func (c *CA) RevokeSerial(ctx context.Context, serial, reason string) error {
	serial, err := pki.ParseSerial(serial)
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	for _, own := range []issuer{c.boxes, c.servers} {
		if serial == pki.Serial(own.cert) {
			return fmt.Errorf("revoke %s: %w", serial, ErrInUse)
		}
	}
	err = c.opts.Store.Update(ctx, func(tx Tx) error {
		rec, ok, err := getJSON[Cert](tx, TableCerts, serial)
		if err != nil {
			return err
		}
		if !ok {
			rec.Expires = c.boxes.cert.NotAfter
		}
		return c.putRevoked(tx, Revocation{Serial: serial, BoxID: rec.BoxID, Reason: reason, Expires: rec.Expires})
	})
	if err != nil {
		return fmt.Errorf("revoke %s: %w", serial, err)
	}
	c.log.Info("certificate revoked", "serial", serial, "reason", reason)
	return c.Reload(ctx)
}

func (c *CA) changeBox(ctx context.Context, id string, fn func(Tx, *Box) error) error {
	err := c.opts.Store.Update(ctx, func(tx Tx) error {
		box, ok, err := getJSON[Box](tx, TableBoxes, id)
		if err != nil {
			return err
		}
		if !ok {
			return ErrNoBox
		}
		if err := fn(tx, &box); err != nil {
			return err
		}
		return putJSON(tx, TableBoxes, id, box)
	})
	if err != nil {
		return fmt.Errorf("box %.60q: %w", id, err)
	}
	return nil
}

func (c *CA) revokeCerts(tx Tx, box *Box, reason string) error {
	for _, ref := range box.Certs {
		rev := Revocation{Serial: ref.Serial, BoxID: box.ID, Reason: reason, Expires: ref.Expires}
		if err := c.putRevoked(tx, rev); err != nil {
			return err
		}
	}
	return nil
}

func (c *CA) putRevoked(tx Tx, rev Revocation) error {
	if old, err := tx.Get(TableRevoked, rev.Serial); err != nil || old != nil {
		return err // the first reason stays
	}
	rev.At = c.opts.Now().UTC()
	return putJSON(tx, TableRevoked, rev.Serial, rev)
}

// Revocations lists what must not be believed any more, for the catalog: certificates that ended long ago are left out.
func (c *CA) Revocations(ctx context.Context) ([]Revocation, error) {
	now := c.opts.Now()
	var list []Revocation
	err := c.opts.Store.View(ctx, func(tx Tx) error {
		list = list[:0]
		return eachJSON(tx, TableRevoked, func(r Revocation) error {
			if now.Before(r.Expires.Add(keepRevoked)) {
				list = append(list, r)
			}
			return nil
		})
	})
	return list, err
}

// Reload reads the revocations again, for those that another fleet manager on the same database made.
func (c *CA) Reload(ctx context.Context) error {
	list, err := c.Revocations(ctx)
	if err != nil {
		return fmt.Errorf("load revocations: %w", err)
	}
	set := make(map[string]bool, len(list))
	for _, r := range list {
		set[r.Serial] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if maps.Equal(set, c.revoked) {
		return nil
	}
	c.revoked = set
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// RevokedSerials is the list as it was last loaded, sorted.
func (c *CA) RevokedSerials() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.revoked))
}

// Run reloads the revocations every few seconds until ctx ends.
func (c *CA) Run(ctx context.Context) error {
	const every = 10 * time.Second
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := c.Reload(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("revocations not reloaded", "error", err)
			}
		}
	}
}
