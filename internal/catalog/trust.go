package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Bounds of what is read from the network, in bytes, whatever the metadata say.
const (
	maxRootBytes      = 512 << 10
	maxTimestampBytes = 16 << 10
	maxSnapshotBytes  = 4 << 20
	maxRoleBytes      = 5 << 20
	maxRootSteps      = 64 // new roots in one refresh
	maxRoles          = 1024
)

// trust is one walk through the TUF client workflow (specification, section 5).
type trust struct {
	tm *trustedmetadata.TrustedMetadata
	// getRole returns the bytes of a role as the snapshot describes it.
	getRole func(role string, meta *metadata.MetaFiles) ([]byte, error)
	raw     map[string][]byte // bytes of the roles that were read, as the snapshot describes them
	failed  map[string]error  // roles whose bytes are what the snapshot says, but which cannot be believed
}

// newTrust starts from a chain of roots, oldest first; each must be signed by the one before. A zero ref expires nothing.
func newTrust(roots [][]byte, ref time.Time) (*trust, error) {
	t := &trust{raw: map[string][]byte{}, failed: map[string]error{}}
	err := guard("trusted root", func() (err error) {
		if t.tm, err = trustedmetadata.New(roots[0]); err != nil {
			return err
		}
		t.tm.RefTime = ref
		for _, b := range roots[1:] {
			if _, err := t.tm.UpdateRoot(b); err != nil {
				return err
			}
		}
		return nil
	})
	return t, err
}

// addRoot takes the next root.
func (t *trust) addRoot(b []byte) error {
	return guard("root.json", func() error {
		_, err := t.tm.UpdateRoot(b)
		return err
	})
}

// recallTimestamp loads the newest timestamp that was verified before, for protection against rollback. What a new root no
// longer vouches for is forgotten: that is how a fleet recovers from versions that a stolen key drove up (specification,
// 5.3.11).
func (t *trust) recallTimestamp(b []byte) {
	_ = guard("remembered timestamp", func() error {
		_, err := t.tm.UpdateTimestamp(b)
		return err // expired: it is loaded all the same; not signed by this root: it is not
	})
}

// recallSnapshot does the same for the snapshot, after the timestamp was set.
func (t *trust) recallSnapshot(b []byte) {
	_ = guard("remembered snapshot", func() error {
		_, err := t.tm.UpdateSnapshot(b, true)
		return err // as above
	})
}

// setTimestamp takes the offered timestamp. It reports whether it is newer than the remembered one.
func (t *trust) setTimestamp(b []byte) (newer bool, err error) {
	err = guard("timestamp.json", func() error {
		_, err := t.tm.UpdateTimestamp(b)
		if errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
			if t.tm.Timestamp.Signed.IsExpired(t.tm.RefTime) {
				return &metadata.ErrExpiredMetadata{Msg: "timestamp.json is expired"}
			}
			return nil
		}
		newer = err == nil
		return err
	})
	return newer, err
}

// snapshotRef is what the timestamp says about the snapshot.
func (t *trust) snapshotRef() (*metadata.MetaFiles, error) {
	ref := t.tm.Timestamp.Signed.Meta["snapshot.json"]
	return ref, checkRef("timestamp.json", "snapshot.json", ref)
}

func checkRef(where, name string, ref *metadata.MetaFiles) error {
	if ref == nil {
		return fail(CodeIncomplete, where, fmt.Errorf("it does not name %s", name))
	}
	if len(ref.Hashes["sha256"]) != sha256.Size || ref.Length <= 0 || ref.Version < 1 {
		return fail(CodeInvalid, where, fmt.Errorf("%s has no length, SHA-256 or version", name))
	}
	return nil
}

// setSnapshot takes the snapshot that the timestamp names.
func (t *trust) setSnapshot(b []byte) error {
	return guard("snapshot.json", func() error {
		_, err := t.tm.UpdateSnapshot(b, false)
		return err
	})
}

// roleRef is what the snapshot says about a role.
func (t *trust) roleRef(role string) (*metadata.MetaFiles, error) {
	ref := t.tm.Snapshot.Signed.Meta[role+".json"]
	return ref, checkRef("snapshot.json", role+".json", ref)
}

// load verifies a targets role. An error that isBelief accepts means: the bytes are those of this snapshot, but they are not
// signed as they must be, or have expired.
func (t *trust) load(role, delegator string) (*metadata.Metadata[metadata.TargetsType], error) {
	if m := t.tm.Targets[role]; m != nil {
		return m, nil
	}
	if err := t.failed[role]; err != nil {
		return nil, err
	}
	if len(t.raw)+len(t.failed) >= maxRoles {
		return nil, fail(CodeInvalid, "role "+role, fmt.Errorf("more than %d roles are needed", maxRoles))
	}
	ref, err := t.roleRef(role)
	if err != nil {
		if t.tm.Snapshot.Signed.Meta[role+".json"] == nil && delegator != metadata.ROOT {
			return nil, t.disbelieve(role, errors.New("it is delegated, but nothing was ever signed under it"))
		}
		return nil, err
	}
	b, err := t.getRole(role, ref)
	if err != nil {
		return nil, err
	}
	op := "role " + role
	if err := guard(op, func() error { return ref.VerifyLengthHashes(b) }); err != nil {
		return nil, err
	}
	t.raw[role] = b // also if it is not believed: after a restart it is not believed again
	var m *metadata.Metadata[metadata.TargetsType]
	err = guard(op, func() (err error) {
		m, err = t.tm.UpdateDelegatedTargets(b, role, delegator)
		return err
	})
	if err != nil {
		return nil, t.disbelieve(role, err)
	}
	return m, nil
}

// beliefError marks what is wrong with one role alone.
type beliefError struct{ err error }

func (e *beliefError) Error() string { return e.err.Error() }
func (e *beliefError) Unwrap() error { return e.err }

func isBelief(err error) bool {
	var b *beliefError
	return errors.As(err, &b)
}

func (t *trust) disbelieve(role string, err error) error {
	var own *Error
	if !errors.As(err, &own) {
		err = fail(CodeInvalid, "role "+role, err)
	}
	t.failed[role] = &beliefError{err}
	return t.failed[role]
}

// lookup finds who signs a path: the top-level targets, else the delegated role and its bins, each trusted for this path
// alone. It returns nil without an error if nobody has signed it, and the time at which the signing role expires.
func (t *trust) lookup(path string) (*metadata.TargetFiles, time.Time, error) {
	none := time.Time{}
	role, delegator := metadata.TARGETS, metadata.ROOT
	for range 4 { // targets, a delegated role, a bin, and one to spare
		m, err := t.load(role, delegator)
		if err != nil {
			return nil, none, err
		}
		if tf := m.Signed.Targets[path]; tf != nil {
			if len(tf.Hashes["sha256"]) != sha256.Size || tf.Length < 0 {
				return nil, none, fail(CodeInvalid, "target "+path, errors.New("no SHA-256 or a negative length"))
			}
			return tf, m.Signed.Expires, nil
		}
		next := ""
		err = guard("role "+role, func() error {
			if d := m.Signed.Delegations; d != nil {
				if who := d.GetRolesForTarget(path); len(who) > 0 {
					next = who[0].Name // the first delegation of a path decides; the repository never delegates one twice
				}
			}
			return nil
		})
		if err != nil || next == "" {
			return nil, none, err
		}
		if strings.ContainsAny(next, "/\\%?#") || next == metadata.TARGETS {
			return nil, none, fail(CodeInvalid, "role "+role, fmt.Errorf("it delegates to %.60q", next))
		}
		role, delegator = next, role
	}
	return nil, none, fail(CodeInvalid, "target "+path, errors.New("delegated too many times"))
}

func sumHex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
