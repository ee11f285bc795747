package repo

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// RoleOperations names, among the roles whose keys can be replaced, the key that signs desired state and commands.
const RoleOperations = "operations"

// nextKey ends the name of a key's file until the catalog names the key.
const nextKey = ".next"

// ReplaceKeys gives roles new keys: snapshot, timestamp and targets, which the root names, or campaigns, revocations,
// operations and publishers' (PublisherRole), which the targets role does; not both at once. The keys are made here, beside
// those that they replace, and take their files once the catalog names them. For one role the new key may be given instead;
// its private half is then elsewhere.
//
// If the keys that must sign are not here, the change is returned as a draft. Called again it drafts the same keys.
func (r *Repo) ReplaceKeys(roles []string, given ed25519.PublicKey) (*Draft, error) {
	top := 0
	for i, role := range roles {
		switch {
		case role == metadata.SNAPSHOT || role == metadata.TIMESTAMP || role == metadata.TARGETS:
			top++
		case role != RoleCampaigns && role != RoleRevocations && role != RoleOperations && !strings.HasPrefix(role, PublisherRole("")):
			return nil, fmt.Errorf("no key of %q can be replaced", role)
		}
		if slices.Contains(roles[:i], role) {
			return nil, fmt.Errorf("%s is named twice", role)
		}
	}
	if len(roles) == 0 || top > 0 && top < len(roles) {
		return nil, errors.New("replace the keys that the root names (snapshot, timestamp, targets) apart from the others")
	}
	if given != nil && len(roles) > 1 {
		return nil, errors.New("one key for several roles: whoever loses it would lose all")
	}
	if err := r.rolesAreThere(roles, top > 0); err != nil {
		return nil, err
	}
	keys := map[string]ed25519.PublicKey{}
	for _, role := range roles {
		if keys[role] = given; given != nil {
			continue
		}
		var err error
		if keys[role], err = r.keyFor(role); err != nil {
			return nil, err
		}
	}
	if top > 0 {
		return r.replaceTop(keys)
	}
	change := func(tx *Tx) error {
		for _, role := range roles {
			if err := tx.replaceKey(role, keys[role]); err != nil {
				return err
			}
		}
		return nil
	}
	err := r.Update(change)
	if errors.Is(err, ErrNoKey) {
		return r.Draft([]string{"new keys of " + strings.Join(roles, ", ")}, change)
	}
	if err != nil {
		return nil, err
	}
	return nil, r.settleKeys()
}

// rolesAreThere keeps a key from being made for nobody.
func (r *Repo) rolesAreThere(roles []string, top bool) error {
	return r.View(func(tx *Tx) error {
		for _, role := range roles {
			if top || role == RoleOperations {
				continue
			}
			if _, err := tx.delegation(role); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *Repo) replaceTop(keys map[string]ed25519.PublicKey) (*Draft, error) {
	one := func(role string) []ed25519.PublicKey {
		if k := keys[role]; k != nil {
			return []ed25519.PublicKey{k}
		}
		return nil
	}
	d, err := r.DraftRoot(RootChange{
		Targets: one(metadata.TARGETS), Snapshot: one(metadata.SNAPSHOT), Timestamp: one(metadata.TIMESTAMP),
	})
	if err != nil {
		return nil, err
	}
	if err := r.signRoot(d); err != nil {
		return nil, err
	}
	err = r.Import(d)
	if errors.Is(err, ErrNoKey) {
		return d, nil
	}
	return nil, err
}

func (tx *Tx) replaceKey(role string, key ed25519.PublicKey) error {
	if role != RoleOperations {
		return tx.setRoleKey(role, key, true)
	}
	if err := tx.unusedKey(key); err != nil {
		return fmt.Errorf("operations: %w", err)
	}
	return tx.SetOperationsKeys([]ed25519.PublicKey{key})
}

// keyFor is the next key of a role: one that waits already, or a new one.
func (r *Repo) keyFor(role string) (ed25519.PublicKey, error) {
	b, err := durable.ReadFile(r.fs, filepath.Join(r.opt.Keys, role+nextKey+".pem"), 16<<10)
	var priv ed25519.PrivateKey
	if errors.Is(err, os.ErrNotExist) {
		priv, err = GenerateKey(r.fs, r.opt.Keys, role+nextKey)
	} else if err == nil {
		priv, err = ParseKey(b)
	}
	if err != nil {
		return nil, fmt.Errorf("next key of %s: %w", role, err)
	}
	return priv.Public().(ed25519.PublicKey), nil //nolint:forcetypeassert // documented by crypto/ed25519
}

// settleKeys gives the next keys that the catalog names by now the names of those that they have replaced.
func (r *Repo) settleKeys() error {
	entries, err := r.fs.ReadDir(r.opt.Keys)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keys in %s: %w", r.opt.Keys, err)
	}
	for _, e := range entries {
		role, isNext := strings.CutSuffix(e.Name(), nextKey+".pem")
		if !isNext {
			continue
		}
		pub, err := r.keyFor(role)
		if err != nil {
			return err
		}
		named := false
		err = r.View(func(tx *Tx) error {
			named, err = tx.names(role, pub)
			return err
		})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("next key of %s: %w", role, err)
		}
		if !named {
			continue
		}
		if err := r.fs.Rename(filepath.Join(r.opt.Keys, e.Name()), filepath.Join(r.opt.Keys, role+".pem")); err != nil {
			return fmt.Errorf("next key of %s: %w", role, err)
		}
		if err := r.fs.SyncDir(r.opt.Keys); err != nil {
			return fmt.Errorf("next key of %s: %w", role, err)
		}
	}
	return nil
}

// names reports whether the catalog as it is published has the key for a role.
func (tx *Tx) names(role string, key ed25519.PublicKey) (bool, error) {
	if role == RoleOperations {
		keys, err := tx.OperationsKeys()
		return slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool { return k.Equal(key) }), err
	}
	_, id, err := tufKey(key)
	if err != nil {
		return false, err
	}
	if top := tx.root.Signed.Roles[role]; top != nil {
		return slices.Contains(top.KeyIDs, id), nil
	}
	d, err := tx.delegation(role)
	return err == nil && slices.Contains(d.KeyIDs, id), err
}
