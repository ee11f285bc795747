package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// RoleStatus is one role's state, for the operator.
type RoleStatus struct {
	Role    string    `json:"role"`
	Version int64     `json:"version"`
	Expires time.Time `json:"expires,omitzero"` // zero with version 0: it was never signed
	KeyHere bool      `json:"key_here"`         // this machine can sign it
	Due     bool      `json:"due"`              // it should be signed again soon
}

// Status lists the roles but bins: top-level ones first.
func (r *Repo) Status() ([]RoleStatus, error) {
	var list []RoleStatus
	err := r.View(func(tx *Tx) error {
		now := r.now()
		add := func(role string, version int64, expires time.Time, ids []string, threshold int) {
			list = append(list, RoleStatus{
				Role: role, Version: version, Expires: expires, KeyHere: tx.have(ids) >= threshold, Due: tx.due(role, expires, now),
			})
		}
		top := tx.root.Signed.Roles
		add(metadata.ROOT, tx.root.Signed.Version, tx.root.Signed.Expires, top[metadata.ROOT].KeyIDs, top[metadata.ROOT].Threshold)
		add(metadata.TIMESTAMP, tx.timestamp.Signed.Version, tx.timestamp.Signed.Expires, top[metadata.TIMESTAMP].KeyIDs,
			top[metadata.TIMESTAMP].Threshold)
		add(metadata.SNAPSHOT, tx.snapshot.Signed.Version, tx.snapshot.Signed.Expires, top[metadata.SNAPSHOT].KeyIDs,
			top[metadata.SNAPSHOT].Threshold)
		names, err := tx.plainRoles()
		if err != nil {
			return err
		}
		for _, name := range names {
			m, err := tx.orEmpty(name)
			if err != nil {
				return err
			}
			ids, threshold, err := tx.keysOf(name)
			if err != nil {
				return err
			}
			if tx.snapshot.Signed.Meta[name+".json"] == nil { // nothing was ever signed under it: nothing expires
				list = append(list, RoleStatus{Role: name, KeyHere: tx.have(ids) >= threshold})
				continue
			}
			add(name, m.Signed.Version, m.Signed.Expires, ids, threshold)
		}
		return nil
	})
	return list, err
}

// plainRoles lists targets and what it delegates to.
func (tx *Tx) plainRoles() ([]string, error) {
	d, err := tx.delegations()
	if err != nil {
		return nil, err
	}
	names := []string{metadata.TARGETS}
	for _, dr := range d.Roles {
		names = append(names, dr.Name)
	}
	return names, nil
}

// due says whether half of a signature's life is over; for roles whose keys are meant to be kept away, three quarters.
func (tx *Tx) due(role string, expires, now time.Time) bool {
	life := tx.r.opt.Expiry.of(role)
	switch role {
	case metadata.TIMESTAMP, metadata.SNAPSHOT, RoleCampaigns, RoleRevocations:
		return expires.Sub(now) < life/2
	}
	return expires.Sub(now) < life/4
}

// Renew signs again what is due and whose keys are here. It reports whether anything was published.
func (r *Repo) Renew() (bool, error) {
	published := false
	err := r.Update(func(tx *Tx) error {
		now := r.now()
		names, err := tx.plainRoles()
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := tx.renewRole(name, now); err != nil {
				return err
			}
		}
		due := tx.due(metadata.TIMESTAMP, tx.timestamp.Signed.Expires, now) ||
			tx.due(metadata.SNAPSHOT, tx.snapshot.Signed.Expires, now) ||
			// A new root was written, then the power went: what is below it must be signed by the keys that it names.
			tx.root.VerifyDelegate(metadata.TIMESTAMP, tx.timestamp) != nil ||
			tx.root.VerifyDelegate(metadata.SNAPSHOT, tx.snapshot) != nil
		if err := tx.targetsStand(); err != nil {
			return err
		}
		tx.touch = due
		published = due || len(tx.dirty) > 0
		return nil
	})
	return published && err == nil, err
}

func (tx *Tx) renewRole(name string, now time.Time) error {
	m, err := tx.role(name)
	if errors.Is(err, ErrNotFound) {
		return nil // nothing was ever signed under it
	}
	if err != nil {
		return err
	}
	if !tx.due(name, m.Signed.Expires, now) {
		return nil
	}
	ids, threshold, err := tx.keysOf(name)
	if err != nil {
		return err
	}
	if tx.have(ids) < threshold {
		return nil // Status says so
	}
	return tx.editWhole([]string{name})
}

// lookEvery is how often Run looks whether another process has published.
const lookEvery = 2 * time.Second

// Run renews signatures in time, and tells who waits on Changed what other processes publish, until ctx ends.
func (r *Repo) Run(ctx context.Context) error {
	every := min(time.Hour, r.opt.Expiry.Timestamp/8)
	tick, look := time.NewTicker(every), time.NewTicker(lookEvery)
	defer tick.Stop()
	defer look.Stop()
	r.renewOrLog()
	seen := r.published()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.renewOrLog()
		case <-look.C:
			if now := r.published(); now != seen {
				seen = now
				r.wake()
			}
		}
	}
}

func (r *Repo) renewOrLog() {
	if _, err := r.Renew(); err != nil {
		r.log.Error("catalog could not be signed again", "error", err)
	}
}

// published tells one timestamp.json from the next without reading it: its time and length; zero if it cannot be had.
func (r *Repo) published() (mark struct {
	at   time.Time
	size int64
},
) {
	if fi, err := r.fs.Stat(r.metaPath("timestamp.json")); err == nil {
		mark.at, mark.size = fi.ModTime(), fi.Size()
	}
	return mark
}

// Collect removes metadata and target files that nothing published has named for at least the given time: boxes that are in
// the middle of a refresh still find what they were told of. Target files, which a draft may bring, stay for DraftLife at
// least; roots stay for ever.
func (r *Repo) Collect(age time.Duration) (removed int, err error) {
	err = r.View(func(tx *Tx) error {
		keep, err := tx.named()
		if err != nil {
			return err
		}
		before := r.now().Add(-age)
		return walk(r.fs, r.opt.Dir, "", func(name string, fi fs.FileInfo) error {
			before := before
			if strings.HasPrefix(name, "targets/") {
				before = r.now().Add(-max(age, DraftLife))
			}
			isRoot := strings.HasPrefix(name, "metadata/") && strings.HasSuffix(name, ".root.json")
			if keep[name] || isRoot || fi.ModTime().After(before) {
				return nil
			}
			removed++
			return r.fs.Remove(filepath.Join(r.opt.Dir, filepath.FromSlash(name)))
		})
	})
	return removed, err
}

// named lists the public files that the published repository consists of.
func (tx *Tx) named() (map[string]bool, error) {
	keep := map[string]bool{"metadata/timestamp.json": true}
	keep["metadata/"+versioned("snapshot", tx.snapshot.Signed.Version)] = true
	for file, ref := range tx.snapshot.Signed.Meta {
		role := strings.TrimSuffix(file, ".json")
		keep["metadata/"+strconv.FormatInt(ref.Version, 10)+"."+file] = true
		m, err := tx.role(role)
		if err != nil {
			return nil, err
		}
		for name, tf := range m.Signed.Targets {
			keep["targets/"+publicName(name, tf)] = true
		}
	}
	return keep, nil
}

func walk(fsys durable.FS, dir, rel string, fn func(string, fs.FileInfo) error) error {
	entries, err := fsys.ReadDir(filepath.Join(dir, filepath.FromSlash(rel)))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := strings.TrimPrefix(rel+"/"+e.Name(), "/")
		if e.IsDir() {
			if err := walk(fsys, dir, name, fn); err != nil {
				return err
			}
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := fn(name, fi); err != nil {
			return err
		}
	}
	return nil
}
