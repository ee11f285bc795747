package repo

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// verify checks a role's signatures against who may sign it.
func (tx *Tx) verify(role string, m *targetsMeta) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed metadata: %v", r)
		}
	}()
	switch parent, isBin := binParent(role); {
	case role == metadata.TARGETS:
		err = tx.root.VerifyDelegate(role, m)
	case isBin:
		p, perr := tx.role(parent)
		if perr != nil {
			return perr
		}
		if s := succinct(p); s == nil || !s.IsDelegatedRole(role) {
			return errors.New("its publisher has no such bin")
		}
		err = p.VerifyDelegate(role, m)
	default:
		top, terr := tx.role(metadata.TARGETS)
		if terr != nil {
			return terr
		}
		err = top.VerifyDelegate(role, m)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	return nil
}

// checkTarget checks one target of an imported role: in the role's own paths, its file here, and of the right form.
func (tx *Tx) checkTarget(role, name string, tf *metadata.TargetFiles) error {
	if !validTarget(role, name) {
		return fmt.Errorf("target %.120q is not one that this role may sign", name)
	}
	full := filepath.Join(tx.r.opt.Dir, "targets", filepath.FromSlash(publicName(name, tf)))
	b, err := durable.ReadFile(tx.r.fs, full, maxMetadataBytes)
	if err != nil {
		return fmt.Errorf("target %s: its file: %w", name, err)
	}
	if err := tf.VerifyLengthHashes(b); err != nil {
		return fmt.Errorf("target %s: %w", name, err)
	}
	switch {
	case strings.HasPrefix(name, "assets/"):
		in, err := asset.ParseTorrent(b)
		if err != nil {
			return fmt.Errorf("target %s: %w", name, err)
		}
		if !strings.HasSuffix(name, "/"+in.ID.String()+".torrent") {
			return fmt.Errorf("target %s: the .torrent's infohash is %s", name, in.ID)
		}
		e, err := entryOf(catalog.AssetRef{Path: name}.Publisher(), name, tf)
		if err == nil && e.Length != in.Length {
			err = fmt.Errorf("target %s: says %d bytes, the .torrent %d", name, e.Length, in.Length)
		}
		return err
	case strings.HasPrefix(name, "groups/"):
		_, err = catalog.ParseGroup(b)
	case name == catalog.OperationsPath:
		_, err = catalog.ParseOperations(b)
	case name == catalog.RevocationsPath:
		_, err = catalog.ParseRevocations(b)
	case name == catalog.WithdrawnPath:
		_, err = catalog.ParseWithdrawn(b)
	}
	return err
}

// validTarget says whether a role of this package's form may hold a path. Boxes judge by the delegations alone.
func validTarget(role, name string) bool {
	if parent, ok := binParent(role); ok {
		role = parent
	}
	switch role {
	case metadata.TARGETS:
		return name == catalog.OperationsPath
	case RoleRevocations:
		return name == catalog.RevocationsPath
	case RoleCampaigns:
		g, ok := strings.CutPrefix(name, "groups/")
		return name == catalog.WithdrawnPath || ok && catalog.ValidName(strings.TrimSuffix(g, ".json")) &&
			strings.HasSuffix(g, ".json")
	}
	publisher, ok := strings.CutPrefix(role, "publisher-")
	if !ok || !strings.HasPrefix(name, "assets/"+publisher+"/") {
		return false
	}
	base, ok := strings.CutSuffix(name[len("assets/"+publisher+"/"):], ".torrent")
	if _, err := hex.DecodeString(base); err != nil || !ok {
		return false
	}
	return len(base) == 2*asset.HashSize
}

// checkImported checks what concerns a publisher's roles together.
func (tx *Tx) checkImported(roles []DraftRole) error {
	for _, dr := range roles {
		name := dr.Role
		if parent, ok := binParent(name); ok {
			name = parent
		}
		if publisher, ok := strings.CutPrefix(name, "publisher-"); ok {
			if err := tx.checkQuota(publisher); err != nil {
				return fmt.Errorf("import role %s: %w", dr.Role, err)
			}
		}
	}
	return nil
}
