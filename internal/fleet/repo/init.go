package repo

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"

	"boxd/internal/catalog"
	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// InitOptions says what Init makes.
type InitOptions struct {
	RootKeys      int // how many root keys to make; 0 means 1
	RootThreshold int // how many of them must sign; 0 means a majority
}

// Init makes a new repository with new keys: root-1.pem …, targets.pem, campaigns.pem, revocations.pem, snapshot.pem and
// timestamp.pem. All keys are on this machine then; take the root and targets keys away once the publishers are in.
func Init(opt Options, in InitOptions) (*Repo, error) {
	r, err := newRepo(opt)
	if err != nil {
		return nil, err
	}
	if _, err := r.fs.Stat(r.metaPath("timestamp.json")); err == nil {
		return nil, fmt.Errorf("init repository %s: %w", opt.Dir, ErrExists)
	}
	if in.RootKeys == 0 {
		in.RootKeys = 1
	}
	if in.RootThreshold == 0 {
		in.RootThreshold = in.RootKeys/2 + 1
	}
	if in.RootThreshold > in.RootKeys {
		return nil, fmt.Errorf("init repository: threshold %d with %d root keys", in.RootThreshold, in.RootKeys)
	}
	for _, d := range []string{"metadata", filepath.Join("targets", "groups"), filepath.Join("targets", "fleet")} {
		if err := r.mkdirAll(filepath.Join(opt.Dir, d)); err != nil {
			return nil, fmt.Errorf("init repository: %w", err)
		}
	}
	if err := r.initKeys(in); err != nil {
		return nil, fmt.Errorf("init repository: %w", err)
	}
	return r, nil
}

func (r *Repo) initKeys(in InitOptions) error {
	now := r.now()
	root := metadata.Root(now.Add(r.opt.Expiry.Root))
	keys := map[string]ed25519.PrivateKey{}
	key := func(name string) (ed25519.PrivateKey, error) {
		k, err := GenerateKey(r.fs, r.opt.Keys, name)
		if errors.Is(err, ErrExists) { // an Init that was cut off: its keys have signed nothing that was published
			b, rerr := durable.ReadFile(r.fs, filepath.Join(r.opt.Keys, name+".pem"), 16<<10)
			if rerr != nil {
				return nil, rerr
			}
			k, err = ParseKey(b)
		}
		keys[name] = k
		return k, err
	}
	add := func(role, name string) error {
		k, err := key(name)
		if err != nil {
			return err
		}
		tk, _, err := tufKey(k.Public().(ed25519.PublicKey))
		if err != nil {
			return err
		}
		return root.Signed.AddKey(tk, role)
	}
	for i := range in.RootKeys {
		if err := add(metadata.ROOT, fmt.Sprintf("root-%d", i+1)); err != nil {
			return err
		}
	}
	root.Signed.Roles[metadata.ROOT].Threshold = in.RootThreshold
	for _, role := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if err := add(role, role); err != nil {
			return err
		}
	}
	for _, role := range []string{RoleCampaigns, RoleRevocations} {
		if _, err := key(role); err != nil {
			return err
		}
	}
	return r.firstCommit(root, keys)
}

func (r *Repo) firstCommit(root *rootMeta, keys map[string]ed25519.PrivateKey) error {
	ring, err := loadKeyring(r.fs, r.opt.Keys)
	if err != nil {
		return err
	}
	role := root.Signed.Roles[metadata.ROOT]
	if ok, err := sign(ring, root, role.KeyIDs, role.Threshold); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("root: %w", ErrNoKey))
	}
	raw, err := root.ToBytes(true)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(r.fs, r.metaPath("1.root.json"), raw, 0o644); err != nil {
		return err
	}
	tx := &Tx{
		r: r, ring: ring, root: root, rootRaw: raw, roles: map[string]*targetsMeta{}, dirty: map[string]bool{},
		wasRaw: map[string][]byte{}, files: map[string][]byte{},
		snapshot: metadata.Snapshot(), timestamp: metadata.Timestamp(),
	}
	tx.snapshot.Signed.Version, tx.timestamp.Signed.Version = 0, 0
	tx.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{}
	top, err := tx.edit(metadata.TARGETS)
	if err != nil {
		return err
	}
	top.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	delegations := []struct {
		role  string
		paths []string
	}{
		{RoleCampaigns, []string{"groups/*.json", catalog.WithdrawnPath}},
		{RoleRevocations, []string{catalog.RevocationsPath}},
	}
	for _, d := range delegations {
		if err := tx.delegate(d.role, d.paths, keys[d.role].Public().(ed25519.PublicKey)); err != nil {
			return err
		}
	}
	if err := tx.SetRevocations(nil); err != nil {
		return err
	}
	if err := tx.setWithdrawn(nil); err != nil {
		return err
	}
	if err := tx.SetOperationsKeys(nil); err != nil {
		return err
	}
	return tx.commit()
}
