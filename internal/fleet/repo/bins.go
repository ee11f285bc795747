package repo

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// binBits makes 2^binBits bins (TAP 15): few enough that a snapshot grows by 4 kB, and a publisher with 8,192 assets has 256
// in each.
const binBits = 5

func binPrefix(role string) string { return role + ".bin" }

// binParent says whose bin a role is.
func binParent(role string) (string, bool) {
	i := strings.LastIndex(role, ".bin-")
	if i < 0 {
		return "", false
	}
	return role[:i], true
}

func succinct(m *targetsMeta) *metadata.SuccinctRoles {
	if m.Signed.Delegations == nil {
		return nil
	}
	return m.Signed.Delegations.SuccinctRoles
}

// roleFor finds the role that signs a path: the publisher's own, or its bin.
func (tx *Tx) roleFor(publisher, path string) (string, error) {
	role := PublisherRole(publisher)
	if _, err := tx.delegation(role); err != nil {
		return "", err
	}
	m, err := tx.orEmpty(role)
	if err != nil {
		return "", err
	}
	if s := succinct(m); s != nil {
		return s.GetRolesForTarget(path)[0].Name, nil
	}
	return role, nil
}

// rolesOf lists the roles that may hold a publisher's assets.
func (tx *Tx) rolesOf(publisher string) ([]string, error) {
	role := PublisherRole(publisher)
	if _, err := tx.delegation(role); err != nil {
		return nil, err
	}
	m, err := tx.orEmpty(role)
	if err != nil {
		return nil, err
	}
	if s := succinct(m); s != nil {
		return s.GetRoles(), nil
	}
	return []string{role}, nil
}

// orEmpty is role, but an unpublished role reads as empty.
func (tx *Tx) orEmpty(name string) (*targetsMeta, error) {
	m, err := tx.role(name)
	if err != nil && tx.snapshot.Signed.Meta[name+".json"] == nil {
		return metadata.Targets(), nil
	}
	return m, err
}

// splitIfLarge moves a publisher's assets into hashed bins once there are many: from then on a box that needs one asset
// reads one bin, and a new asset changes one bin.
func (tx *Tx) splitIfLarge(publisher string) error {
	role := PublisherRole(publisher)
	m, err := tx.role(role)
	if err != nil {
		return err
	}
	if succinct(m) != nil || len(m.Signed.Targets) <= tx.r.opt.BinAssets {
		return nil
	}
	d, err := tx.delegation(role)
	if err != nil {
		return err
	}
	top, err := tx.delegations()
	if err != nil {
		return err
	}
	s := &metadata.SuccinctRoles{KeyIDs: d.KeyIDs, Threshold: d.Threshold, BitLength: binBits, NamePrefix: binPrefix(role)}
	keys := map[string]*metadata.Key{}
	for _, id := range d.KeyIDs {
		keys[id] = top.Keys[id]
	}
	targets := m.Signed.Targets
	if m, err = tx.edit(role); err != nil {
		return err
	}
	m.Signed.Targets = map[string]*metadata.TargetFiles{}
	m.Signed.Delegations = &metadata.Delegations{Keys: keys, SuccinctRoles: s}
	for _, bin := range s.GetRoles() {
		if _, err := tx.edit(bin); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(targets)) {
		bin := s.GetRolesForTarget(path)[0].Name
		tx.roles[bin].Signed.Targets[path] = targets[path]
	}
	tx.r.log.Info("publisher split into bins", "publisher", publisher, "assets", len(targets))
	return nil
}

// rekeyBins lets a new key sign a publisher's bins, and signs them all again.
func (tx *Tx) rekeyBins(role string, m *targetsMeta, key *metadata.Key, id string) error {
	s := succinct(m)
	m.Signed.Delegations.Keys = map[string]*metadata.Key{id: key}
	s.KeyIDs = []string{id}
	for _, bin := range s.GetRoles() {
		if _, err := tx.edit(bin); err != nil {
			return fmt.Errorf("bin of %s: %w", role, err)
		}
	}
	return nil
}
