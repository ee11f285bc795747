package repo

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// RootChange says what a new root changes. A nil field leaves that role as it is; root keys may be given with a threshold.
type RootChange struct {
	Root      []ed25519.PublicKey
	Threshold int // of the root keys; 0: as before
	Targets   []ed25519.PublicKey
	Snapshot  []ed25519.PublicKey
	Timestamp []ed25519.PublicKey
}

// DraftRoot makes the next root.json for signing. It must be signed by a threshold of the old root keys and of the new ones:
// use SignDraft on each machine that has one, then Import. Nothing is changed when RootChange is empty but the version and
// the expiry, which is how a root is renewed.
func (r *Repo) DraftRoot(c RootChange) (*Draft, error) {
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	tx, err := r.begin()
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	root, d := tx.root, &Draft{V: 1}
	for _, part := range []struct {
		role string
		keys []ed25519.PublicKey
	}{
		{metadata.ROOT, c.Root}, {metadata.TARGETS, c.Targets}, {metadata.SNAPSHOT, c.Snapshot}, {metadata.TIMESTAMP, c.Timestamp},
	} {
		if len(part.keys) == 0 {
			continue
		}
		for _, id := range slices.Clone(root.Signed.Roles[part.role].KeyIDs) {
			if err := root.Signed.RevokeKey(id, part.role); err != nil {
				return nil, err
			}
		}
		for _, k := range part.keys {
			tk, _, err := tufKey(k)
			if err != nil {
				return nil, err
			}
			if err := root.Signed.AddKey(tk, part.role); err != nil {
				return nil, err
			}
		}
		d.Notes = append(d.Notes, fmt.Sprintf("%s gets %d new keys", part.role, len(part.keys)))
	}
	role := root.Signed.Roles[metadata.ROOT]
	if c.Threshold > 0 {
		role.Threshold = c.Threshold
		d.Notes = append(d.Notes, fmt.Sprintf("root needs %d signatures", c.Threshold))
	}
	if role.Threshold > len(role.KeyIDs) {
		return nil, fmt.Errorf("root: threshold %d with %d keys", role.Threshold, len(role.KeyIDs))
	}
	root.Signed.Version++
	root.Signed.Expires = r.now().Add(r.opt.Expiry.Root)
	root.ClearSignatures()
	raw, err := root.ToBytes(true)
	if err != nil {
		return nil, err
	}
	d.Roles = []DraftRole{{Role: metadata.ROOT, Metadata: raw}}
	if len(c.Targets) == 0 {
		return d, nil
	}
	if _, err := tx.edit(metadata.TARGETS); err != nil { // what the old key signed must be signed by the new one
		return nil, err
	}
	dr, err := tx.draftRole(metadata.TARGETS, r.now())
	d.Roles = append(d.Roles, dr)
	return d, err
}

// RotateRoot is DraftRoot, signing with the keys that are here, and Import.
func (r *Repo) RotateRoot(c RootChange, extra ...ed25519.PrivateKey) error {
	d, err := r.DraftRoot(c)
	if err != nil {
		return err
	}
	if err := r.signRoot(d, extra...); err != nil {
		return err
	}
	return r.Import(d)
}

// signRoot signs the draft of a root with the root keys that are here, and with extra ones.
func (r *Repo) signRoot(d *Draft, extra ...ed25519.PrivateKey) error {
	ring, err := loadKeyring(r.fs, r.opt.Keys)
	if err != nil {
		return err
	}
	for _, k := range extra {
		if err := ring.add(k); err != nil {
			return err
		}
	}
	old, _, err := r.newestRoot()
	if err != nil {
		return err
	}
	next, err := parse(metadata.Root(), d.Roles[0].Metadata)
	if err != nil {
		return err
	}
	for id, k := range ring {
		if slices.Contains(old.Signed.Roles[metadata.ROOT].KeyIDs, id) ||
			slices.Contains(next.Signed.Roles[metadata.ROOT].KeyIDs, id) {
			raw, err := signRaw(metadata.ROOT, d.Roles[0].Metadata, k)
			if err != nil {
				return err
			}
			d.Roles[0].Metadata = raw
		}
	}
	for _, k := range extra {
		if len(d.Roles) > 1 { // the new targets key may be given without being stored here
			if d.Roles[1].Metadata, err = signRaw(metadata.TARGETS, d.Roles[1].Metadata, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// importRoot checks a signed root, then makes it and the metadata that its keys sign current. The roles below are signed
// first, in memory: if the new keys for that are not here, nothing changes.
func (r *Repo) importRoot(raw []byte, rest []DraftRole) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	tx, err := r.begin()
	if err != nil {
		return fmt.Errorf("repository: %w", err)
	}
	next, err := parse(metadata.Root(), raw)
	if err != nil {
		return fmt.Errorf("import root: %w", err)
	}
	if next.Signed.Version != tx.root.Signed.Version+1 {
		return fmt.Errorf("import root: version %d, published is %d: %w", next.Signed.Version, tx.root.Signed.Version, ErrStale)
	}
	if !next.Signed.ConsistentSnapshot || !next.Signed.Expires.After(r.now()) {
		return errors.New("import root: without consistent snapshots, or expired")
	}
	if err := verifyRoot(tx.root, next); err != nil {
		return fmt.Errorf("import root: %w: %w", ErrNoKey, err)
	}
	tx.root, tx.touch = next, true
	for _, dr := range rest {
		if err := tx.importRole(dr); err != nil {
			return fmt.Errorf("import root: role %s: %w", dr.Role, err)
		}
	}
	if err := tx.targetsStand(); err != nil {
		return fmt.Errorf("import root: %w", err)
	}
	tx.beforeSnapshot = func() error {
		// Boxes go through the roots one after the other, each by its number; a root that is there before the roles below it
		// are signed again would lock them out, so it comes right before the switch.
		name := strconv.FormatInt(next.Signed.Version, 10) + ".root.json"
		return durable.WriteFile(r.fs, r.metaPath(name), raw, 0o644)
	}
	if err := tx.commit(); err != nil {
		return fmt.Errorf("import root: %w", err)
	}
	return nil
}

// targetsStand makes sure that the targets role is believed under the new root: it is, or it is signed again.
func (tx *Tx) targetsStand() error {
	m, err := tx.role(metadata.TARGETS)
	if err != nil {
		return err
	}
	if tx.verify(metadata.TARGETS, m) == nil {
		return nil
	}
	_, err = tx.edit(metadata.TARGETS)
	return err
}

func verifyRoot(old, next *rootMeta) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed metadata: %v", r)
		}
	}()
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if p := next.Signed.Roles[role]; p == nil || p.Threshold < 1 || len(p.KeyIDs) < p.Threshold {
			return fmt.Errorf("role %s has fewer keys than its threshold", role)
		}
	}
	if err := old.VerifyDelegate(metadata.ROOT, next); err != nil {
		return err
	}
	return next.VerifyDelegate(metadata.ROOT, next)
}
