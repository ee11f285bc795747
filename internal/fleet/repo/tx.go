package repo

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Aliases that keep signatures readable.
type (
	rootMeta    = metadata.Metadata[metadata.RootType]
	targetsMeta = metadata.Metadata[metadata.TargetsType]
)

// Tx is a change to the repository in the making. It is valid inside the function that Update or Draft calls.
type Tx struct {
	r         *Repo
	ring      keyring
	root      *rootMeta
	rootRaw   []byte
	snapshot  *metadata.Metadata[metadata.SnapshotType] // as published; commit makes the next one
	timestamp *metadata.Metadata[metadata.TimestampType]
	roles     map[string]*targetsMeta // loaded so far
	dirty     map[string]bool         // roles that were changed
	wasRaw    map[string][]byte       // signed bytes ready to be published as they are (imports)
	files     map[string][]byte       // public path under Dir/targets → content to write
	floor     int64                   // versions are above it; see Raise
	rewrite   bool                    // write files that are there too, so that Collect counts their age from now
	touch     bool                    // publish a new snapshot and timestamp even if no role has changed

	beforeSnapshot func() error // a step of the commit, once everything is signed
}

// begin reads what is published now.
func (r *Repo) begin() (*Tx, error) {
	tx := &Tx{
		r: r, roles: map[string]*targetsMeta{}, dirty: map[string]bool{}, wasRaw: map[string][]byte{},
		files: map[string][]byte{},
	}
	var err error
	if tx.root, tx.rootRaw, err = r.newestRoot(); err != nil {
		return nil, err
	}
	if tx.ring, err = loadKeyring(r.fs, r.opt.Keys); err != nil {
		return nil, err
	}
	if tx.timestamp, err = load(r, "timestamp.json", metadata.Timestamp()); err != nil {
		return nil, err
	}
	ref := tx.timestamp.Signed.Meta["snapshot.json"]
	if ref == nil {
		return nil, errors.New("timestamp.json names no snapshot")
	}
	if tx.snapshot, err = load(r, versioned("snapshot", ref.Version), metadata.Snapshot()); err != nil {
		return nil, err
	}
	tx.floor = floorOf(tx.snapshot.Signed.UnrecognizedFields)
	return tx, nil
}

func versioned(role string, v int64) string { return strconv.FormatInt(v, 10) + "." + role + ".json" }

// role loads a targets role; ErrNotFound if it has never been published.
func (tx *Tx) role(name string) (*targetsMeta, error) {
	if m, ok := tx.roles[name]; ok {
		return m, nil
	}
	ref := tx.snapshot.Signed.Meta[name+".json"]
	if ref == nil {
		return nil, fmt.Errorf("role %s: %w", name, ErrNotFound)
	}
	m, err := load(tx.r, versioned(name, ref.Version), metadata.Targets())
	if err != nil {
		return nil, fmt.Errorf("role %s: %w", name, err)
	}
	tx.roles[name] = m
	return m, nil
}

// edit is role for changing it; a role that does not exist yet begins empty.
func (tx *Tx) edit(name string) (*targetsMeta, error) {
	m, err := tx.role(name)
	if errors.Is(err, ErrNotFound) {
		m, err = metadata.Targets(), nil
		m.Signed.Version = 0 // commit counts it up to 1
		tx.roles[name] = m
	}
	if err != nil {
		return nil, err
	}
	tx.dirty[name] = true
	return m, nil
}

// Update changes the repository: fn describes the change, then everything that it touched is signed, written durably and
// published at once by the new timestamp.json. ErrNoKey is wrapped, and nothing is published, when a role's keys are not here.
func (r *Repo) Update(fn func(*Tx) error) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	tx, err := r.begin()
	if err != nil {
		return fmt.Errorf("repository: %w", err)
	}
	if err := fn(tx); err != nil {
		return err
	}
	if len(tx.dirty) == 0 && !tx.touch {
		return nil
	}
	return tx.commit()
}

// View reads the repository as it is published; fn's changes come to nothing.
func (r *Repo) View(fn func(*Tx) error) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	tx, err := r.begin()
	if err != nil {
		return fmt.Errorf("repository: %w", err)
	}
	return fn(tx)
}

// commit signs and publishes, in the order that a power cut at any moment leaves the old or the new repository.
func (tx *Tx) commit() error {
	now := tx.r.now()
	raws, err := tx.signRoles(now)
	if err != nil {
		return err
	}
	snap := tx.nextSnapshot(raws, now)
	snapRaw, err := signTop(tx, snap, metadata.SNAPSHOT)
	if err != nil {
		return err
	}
	stampRaw, err := tx.signTimestamp(snap.Signed.Version, snapRaw, now)
	if err != nil {
		return err
	}
	if err := tx.mayPublish(); err != nil { // what is written has names that another's commit may have, too
		return err
	}
	if err := tx.writeFiles(); err != nil {
		return err
	}
	for name, b := range raws {
		if err := tx.write(versioned(name, tx.roles[name].Signed.Version), b); err != nil {
			return err
		}
	}
	if tx.beforeSnapshot != nil {
		if err := tx.beforeSnapshot(); err != nil {
			return err
		}
	}
	if err := tx.write(versioned(metadata.SNAPSHOT, snap.Signed.Version), snapRaw); err != nil {
		return err
	}
	if err := tx.mayPublish(); err != nil {
		return err
	}
	if err := tx.write("timestamp.json", stampRaw); err != nil {
		return err
	}
	tx.r.log.Info("catalog published", "version", tx.timestamp.Signed.Version, "roles", len(raws))
	tx.r.wake()
	return nil
}

// mayPublish asks the fence.
func (tx *Tx) mayPublish() error {
	if tx.r.opt.Fence == nil {
		return nil
	}
	if err := tx.r.opt.Fence(); err != nil {
		return fmt.Errorf("publish catalog: %w", err)
	}
	return nil
}

// signRoles signs every changed targets role, parents and children alike, and returns the bytes.
func (tx *Tx) signRoles(now time.Time) (map[string][]byte, error) {
	raws := map[string][]byte{}
	for _, name := range sortedKeys(tx.dirty) {
		m := tx.roles[name]
		if b, ok := tx.wasRaw[name]; ok {
			raws[name] = b
			continue
		}
		m.Signed.Version = tx.next(m.Signed.Version)
		m.Signed.Expires = now.Add(tx.r.opt.Expiry.of(name))
		ids, threshold, err := tx.keysOf(name)
		if err != nil {
			return nil, err
		}
		ok, err := sign(tx.ring, m, ids, threshold)
		if err != nil {
			return nil, fmt.Errorf("sign role %s: %w", name, err)
		}
		if !ok {
			return nil, fmt.Errorf("sign role %s: %w", name, ErrNoKey)
		}
		if raws[name], err = m.ToBytes(false); err != nil {
			return nil, fmt.Errorf("encode role %s: %w", name, err)
		}
	}
	return raws, nil
}

func (e Expiry) of(role string) time.Duration {
	switch role {
	case metadata.ROOT:
		return e.Root
	case metadata.TARGETS:
		return e.Targets
	case metadata.SNAPSHOT:
		return e.Snapshot
	case metadata.TIMESTAMP:
		return e.Timestamp
	case RoleCampaigns:
		return e.Campaigns
	case RoleRevocations:
		return e.Revocations
	default:
		return e.Publisher
	}
}

// keysOf finds who may sign a targets role.
func (tx *Tx) keysOf(name string) (ids []string, threshold int, err error) {
	if name == metadata.TARGETS {
		role := tx.root.Signed.Roles[metadata.TARGETS]
		return role.KeyIDs, role.Threshold, nil
	}
	if parent, ok := binParent(name); ok {
		name = parent // bins are signed with their publisher's keys
	}
	d, err := tx.delegation(name)
	if err != nil {
		return nil, 0, err
	}
	return d.KeyIDs, d.Threshold, nil
}

func (tx *Tx) nextSnapshot(raws map[string][]byte, now time.Time) *metadata.Metadata[metadata.SnapshotType] {
	snap := metadata.Snapshot(now.Add(tx.r.opt.Expiry.Snapshot))
	snap.Signed.Version = tx.next(tx.snapshot.Signed.Version)
	if tx.floor > 0 {
		snap.Signed.UnrecognizedFields = map[string]any{floorKey: tx.floor}
	}
	snap.Signed.Meta = map[string]*metadata.MetaFiles{}
	for name, ref := range tx.snapshot.Signed.Meta {
		snap.Signed.Meta[name] = ref // also of a role that is gone: TUF forbids taking one out of the snapshot
	}
	for name, b := range raws {
		snap.Signed.Meta[name+".json"] = metaFile(tx.roles[name].Signed.Version, b)
	}
	return snap
}

func metaFile(version int64, b []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(b)
	m := metadata.MetaFile(version)
	m.Length = int64(len(b))
	m.Hashes = metadata.Hashes{"sha256": sum[:]}
	return m
}

// signedAt is the key under which timestamp.json says when it was signed: what a box may raise its time floor to.
const signedAt = "boxd_signed_at"

func (tx *Tx) signTimestamp(snapVersion int64, snapRaw []byte, now time.Time) ([]byte, error) {
	next := metadata.Timestamp(now.Add(tx.r.opt.Expiry.Timestamp))
	next.Signed.Version = tx.next(tx.timestamp.Signed.Version)
	next.Signed.Meta["snapshot.json"] = metaFile(snapVersion, snapRaw)
	next.Signed.UnrecognizedFields = map[string]any{signedAt: now.Format(time.RFC3339)}
	b, err := signTop(tx, next, metadata.TIMESTAMP)
	if err == nil {
		tx.timestamp = next
	}
	return b, err
}

func signTop[T metadata.Roles](tx *Tx, m *metadata.Metadata[T], name string) ([]byte, error) {
	role := tx.root.Signed.Roles[name]
	if role == nil {
		return nil, fmt.Errorf("root names no role %s", name)
	}
	ok, err := sign(tx.ring, m, role.KeyIDs, role.Threshold)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", name, err)
	}
	if !ok {
		return nil, fmt.Errorf("sign %s: %w", name, ErrNoKey)
	}
	return m.ToBytes(false)
}

func (tx *Tx) write(name string, b []byte) error {
	return durable.WriteFile(tx.r.fs, tx.r.metaPath(name), b, 0o644)
}
