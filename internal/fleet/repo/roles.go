package repo

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"boxd/internal/asset"
	"boxd/internal/catalog"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// PublisherRole is the name of the role that signs assets/<name>/*.
func PublisherRole(name string) string { return "publisher-" + name }

// quotaKey holds a publisher's quota in bytes in its delegation, signed by the targets role.
const quotaKey = "boxd_quota_bytes"

func (tx *Tx) delegations() (*metadata.Delegations, error) {
	top, err := tx.role(metadata.TARGETS)
	if err != nil {
		return nil, err
	}
	if top.Signed.Delegations == nil {
		return nil, fmt.Errorf("the targets role delegates nothing: %w", ErrNotFound)
	}
	return top.Signed.Delegations, nil
}

func (tx *Tx) delegation(role string) (*metadata.DelegatedRole, error) {
	d, err := tx.delegations()
	if err != nil {
		return nil, err
	}
	for i := range d.Roles {
		if d.Roles[i].Name == role {
			return &d.Roles[i], nil
		}
	}
	return nil, fmt.Errorf("delegated role %s: %w", role, ErrNotFound)
}

func (tx *Tx) delegate(role string, paths []string, keys ...ed25519.PublicKey) error {
	top, err := tx.edit(metadata.TARGETS)
	if err != nil {
		return err
	}
	d := top.Signed.Delegations
	dr := metadata.DelegatedRole{Name: role, Threshold: 1, Terminating: true, Paths: paths}
	for _, pub := range keys {
		key, id, err := tufKey(pub)
		if err != nil {
			return err
		}
		d.Keys[id] = key
		dr.KeyIDs = append(dr.KeyIDs, id)
	}
	d.Roles = append(d.Roles, dr)
	return nil
}

// AddPublisher lets a new publisher sign assets/<name>/*. Quota bounds the bytes of all its assets; 0 means no bound.
// It changes the targets role. If the publisher's private key is here too, its empty role is published at once.
func (tx *Tx) AddPublisher(name string, key ed25519.PublicKey, quota int64) error {
	if !catalog.ValidName(name) {
		return fmt.Errorf("publisher %.60q: want 1 to 40 lower-case letters, digits and inner hyphens", name)
	}
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("publisher %s: not an ed25519 public key", name)
	}
	if _, err := tx.delegation(PublisherRole(name)); err == nil {
		return fmt.Errorf("publisher %s: %w", name, ErrExists)
	}
	if d, err := tx.delegations(); err != nil {
		return err
	} else if len(d.Roles) >= maxPublishers {
		return fmt.Errorf("publisher %s: %d delegated roles already", name, len(d.Roles))
	}
	if err := tx.unusedKey(key); err != nil {
		return fmt.Errorf("publisher %s: %w", name, err)
	}
	if err := tx.delegate(PublisherRole(name), []string{"assets/" + name + "/*.torrent"}, key); err != nil {
		return err
	}
	d, err := tx.delegation(PublisherRole(name))
	if err != nil {
		return err
	}
	if quota > 0 {
		d.UnrecognizedFields = map[string]any{quotaKey: quota}
	}
	if _, here := tx.ring[d.KeyIDs[0]]; here {
		_, err = tx.edit(PublisherRole(name))
	}
	return err
}

// unusedKey refuses a key that another role has: whoever loses it would lose both.
func (tx *Tx) unusedKey(key ed25519.PublicKey) error {
	_, id, err := tufKey(key)
	if err != nil {
		return err
	}
	d, err := tx.delegations()
	if err != nil {
		return err
	}
	if d.Keys[id] != nil || tx.root.Signed.Keys[id] != nil {
		return fmt.Errorf("the key is another role's: %w", ErrExists)
	}
	return nil
}

// RemovePublisher takes the delegation away: boxes no longer believe any asset of the publisher.
func (tx *Tx) RemovePublisher(name string) error {
	if _, err := tx.delegation(PublisherRole(name)); err != nil {
		return err
	}
	top, err := tx.edit(metadata.TARGETS)
	if err != nil {
		return err
	}
	d := top.Signed.Delegations
	d.Roles = slices.DeleteFunc(d.Roles, func(r metadata.DelegatedRole) bool { return r.Name == PublisherRole(name) })
	tx.dropUnusedKeys(d)
	return nil
}

// SetRoleKey replaces the key of a delegated role: a publisher's (PublisherRole), RoleCampaigns or RoleRevocations. What the
// old key signed is believed no more; it is signed again at once if the new private key is here.
func (tx *Tx) SetRoleKey(role string, key ed25519.PublicKey) error {
	return tx.setRoleKey(role, key, false)
}

// setRoleKey edits the role also if its new key is elsewhere, when whole is set: a draft has to bring both.
func (tx *Tx) setRoleKey(role string, key ed25519.PublicKey, whole bool) error {
	if _, err := tx.edit(metadata.TARGETS); err != nil {
		return err
	}
	dr, err := tx.delegation(role)
	if err != nil {
		return err
	}
	tk, id, err := tufKey(key)
	if err != nil {
		return err
	}
	if err := tx.unusedKey(key); err != nil {
		return fmt.Errorf("role %s: %w", role, err)
	}
	d, err := tx.delegations()
	if err != nil {
		return err
	}
	d.Keys[id] = tk
	dr.KeyIDs = []string{id}
	tx.dropUnusedKeys(d)
	if _, here := tx.ring[id]; !here && (!whole || tx.snapshot.Signed.Meta[role+".json"] == nil) {
		return nil
	}
	m, err := tx.edit(role)
	if err != nil {
		return err
	}
	if m.Signed.Delegations != nil && m.Signed.Delegations.SuccinctRoles != nil {
		return tx.rekeyBins(role, m, tk, id)
	}
	return nil
}

func (tx *Tx) dropUnusedKeys(d *metadata.Delegations) {
	used := map[string]bool{}
	for _, r := range d.Roles {
		for _, id := range r.KeyIDs {
			used[id] = true
		}
	}
	for id := range d.Keys {
		if !used[id] {
			delete(d.Keys, id)
		}
	}
}

// Publisher is what the repository says about one publisher.
type Publisher struct {
	Name   string   `json:"name"`
	KeyIDs []string `json:"key_ids"`
	Quota  int64    `json:"quota_bytes,omitempty"` // 0: none
}

// Publishers lists the publishers by name.
func (tx *Tx) Publishers() ([]Publisher, error) {
	d, err := tx.delegations()
	if err != nil {
		return nil, err
	}
	var list []Publisher
	for _, r := range d.Roles {
		if name, ok := strings.CutPrefix(r.Name, "publisher-"); ok {
			list = append(list, Publisher{Name: name, KeyIDs: r.KeyIDs, Quota: quotaOf(r)})
		}
	}
	slices.SortFunc(list, func(a, b Publisher) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func quotaOf(r metadata.DelegatedRole) int64 {
	switch q := r.UnrecognizedFields[quotaKey].(type) {
	case int64:
		return q
	case float64: // as read back from JSON
		return int64(q)
	}
	return 0
}

// SetRevocations replaces the list of revoked certificate serials (lower-case hexadecimal).
func (tx *Tx) SetRevocations(serials []string) error {
	list := slices.Clone(serials)
	slices.Sort(list)
	b, err := json.Marshal(catalog.RevocationsFile{V: 1, Serials: nonNil(slices.Compact(list))})
	if err != nil {
		return err
	}
	if _, err := catalog.ParseRevocations(b); err != nil {
		return err
	}
	return tx.setTarget(RoleRevocations, catalog.RevocationsPath, b, nil)
}

// SetOperationsKeys replaces the keys that sign desired state and commands. It changes the targets role.
func (tx *Tx) SetOperationsKeys(keys []ed25519.PublicKey) error {
	f := catalog.OperationsFile{V: 1, Keys: []string{}}
	for _, k := range keys {
		f.Keys = append(f.Keys, hex.EncodeToString(k))
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if _, err := catalog.ParseOperations(b); err != nil {
		return err
	}
	return tx.setTarget(metadata.TARGETS, catalog.OperationsPath, b, nil)
}

// OperationsKeys lists the keys that sign desired state and commands.
func (tx *Tx) OperationsKeys() ([]ed25519.PublicKey, error) {
	b, err := tx.target(metadata.TARGETS, catalog.OperationsPath)
	if err != nil {
		return nil, err
	}
	return catalog.ParseOperations(b)
}

// Withdraw adds assets to the list of what boxes must not fetch, serve or keep, and takes them out of all campaigns. Their
// publishers' roles are not touched: it works without a publisher's key.
func (tx *Tx) Withdraw(ids ...asset.ID) error {
	have, err := tx.Withdrawn()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !slices.Contains(have, id) {
			have = append(have, id)
		}
	}
	if err := tx.setWithdrawn(have); err != nil {
		return err
	}
	return tx.dropFromCampaigns(func(r catalog.AssetRef) bool { return slices.Contains(ids, r.ID) })
}

// Readmit takes assets off the list of the withdrawn.
func (tx *Tx) Readmit(ids ...asset.ID) error {
	have, err := tx.Withdrawn()
	if err != nil {
		return err
	}
	return tx.setWithdrawn(slices.DeleteFunc(have, func(id asset.ID) bool { return slices.Contains(ids, id) }))
}

// Withdrawn lists the withdrawn assets.
func (tx *Tx) Withdrawn() ([]asset.ID, error) {
	b, err := tx.target(RoleCampaigns, catalog.WithdrawnPath)
	if err != nil {
		return nil, err
	}
	return catalog.ParseWithdrawn(b)
}

func (tx *Tx) setWithdrawn(ids []asset.ID) error {
	b, err := json.Marshal(catalog.WithdrawnFile{V: 1, Assets: nonNil(ids)})
	if err != nil {
		return err
	}
	return tx.setTarget(RoleCampaigns, catalog.WithdrawnPath, b, nil)
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
