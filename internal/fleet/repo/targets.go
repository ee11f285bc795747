package repo

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"

	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// writeFiles writes the target files; a file that is there already is right, as its name is its hash.
func (tx *Tx) writeFiles() error {
	for name, b := range tx.files {
		full := filepath.Join(tx.r.opt.Dir, "targets", filepath.FromSlash(name))
		if fi, err := tx.r.fs.Stat(full); err == nil && fi.Size() == int64(len(b)) && !tx.rewrite {
			continue
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := tx.r.mkdirAll(filepath.Dir(full)); err != nil {
			return err
		}
		if err := durable.WriteFile(tx.r.fs, full, b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mkdirAll makes a directory durable up to the parents that may be new: at most three levels in this package. An earlier
// run may have made it and lost its power before it synced: so always, once for each directory.
func (r *Repo) mkdirAll(dir string) error {
	if r.made[dir] {
		return nil
	}
	if err := r.fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i, d := 0, dir; i < 3; i++ {
		d = filepath.Dir(d)
		if err := r.fs.SyncDir(d); err != nil {
			return fmt.Errorf("sync %s: %w", d, err)
		}
	}
	r.made[dir] = true
	return nil
}

// setTarget puts a file under a role.
func (tx *Tx) setTarget(role, name string, content []byte, custom any) error {
	m, err := tx.edit(role)
	if err != nil {
		return err
	}
	tf, err := metadata.TargetFile().FromBytes(name, content, "sha256")
	if err != nil {
		return fmt.Errorf("target %s: %w", name, err)
	}
	if custom != nil {
		b, err := json.Marshal(custom)
		if err != nil {
			return fmt.Errorf("target %s: %w", name, err)
		}
		raw := json.RawMessage(b)
		tf.Custom = &raw
	}
	m.Signed.Targets[name] = tf
	tx.files[publicName(name, tf)] = content
	return nil
}

// publicName is where a target lies under Dir/targets: consistent snapshots put the hash before the last element.
func publicName(name string, tf *metadata.TargetFiles) string {
	dir, base := path.Split(name)
	return dir + hex.EncodeToString(tf.Hashes["sha256"]) + "." + base
}

// target reads the content of a target of a role.
func (tx *Tx) target(role, name string) ([]byte, error) {
	m, err := tx.role(role)
	if err != nil {
		return nil, err
	}
	tf := m.Signed.Targets[name]
	if tf == nil {
		return nil, fmt.Errorf("target %s: %w", name, ErrNotFound)
	}
	public := publicName(name, tf)
	if b, ok := tx.files[public]; ok {
		return b, nil
	}
	b, err := durable.ReadFile(tx.r.fs, filepath.Join(tx.r.opt.Dir, "targets", filepath.FromSlash(public)), maxMetadataBytes)
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", name, err)
	}
	if err := tf.VerifyLengthHashes(b); err != nil {
		return nil, fmt.Errorf("target %s: %w", name, err)
	}
	return b, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
