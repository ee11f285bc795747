package repo

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxDraftBytes bounds a draft that is imported.
const maxDraftBytes = 64 << 20

// DraftLife is how long a draft can be imported: Collect keeps the files that it brings for so long.
const DraftLife = 90 * 24 * time.Hour

// Draft is a change that waits for signatures from keys that are elsewhere. It is a plain JSON file: carry it to the
// machine with the key, sign it there with SignDraft, carry it back and import it.
type Draft struct {
	V     int         `json:"v"` // 1
	Roles []DraftRole `json:"roles"`
	// Notes says in words what the draft changes, for the person who signs.
	Notes []string `json:"notes,omitempty"`
	// Until says, for people, when the draft is too old to be imported.
	Until time.Time `json:"until,omitzero"`
}

// DraftRole is one role's new metadata.
type DraftRole struct {
	Role     string          `json:"role"`
	Metadata json.RawMessage `json:"metadata"`
}

// ParseDraft reads a draft file.
func ParseDraft(b []byte) (*Draft, error) {
	if len(b) > maxDraftBytes {
		return nil, fmt.Errorf("draft: %d bytes, more than %d", len(b), maxDraftBytes)
	}
	var d Draft
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("draft: %w", err)
	}
	if d.V != 1 || len(d.Roles) == 0 {
		return nil, fmt.Errorf("draft: v is %d with %d roles, want v 1 and at least one role", d.V, len(d.Roles))
	}
	return &d, nil
}

// Draft describes a change as Update would make it, but publishes nothing: the changed roles are returned, signed with those
// keys that are here, for signing elsewhere. Files that the change adds are stored already, which publishes them to nobody.
func (r *Repo) Draft(notes []string, fn func(*Tx) error) (*Draft, error) {
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	tx, err := r.begin()
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	if err := fn(tx); err != nil {
		return nil, err
	}
	now := r.now()
	d := &Draft{V: 1, Notes: notes, Until: now.Add(DraftLife).UTC()}
	for _, name := range sortedKeys(tx.dirty) {
		dr, err := tx.draftRole(name, now)
		if err != nil {
			return nil, fmt.Errorf("draft role %s: %w", name, err)
		}
		d.Roles = append(d.Roles, dr)
	}
	if len(d.Roles) == 0 {
		return nil, errors.New("the change touches no role")
	}
	tx.rewrite = true
	return d, tx.writeFiles()
}

func (tx *Tx) draftRole(name string, now time.Time) (DraftRole, error) {
	m := tx.roles[name]
	m.Signed.Version = tx.next(m.Signed.Version)
	m.Signed.Expires = now.Add(tx.r.opt.Expiry.of(name))
	ids, threshold, err := tx.keysOf(name)
	if err != nil {
		return DraftRole{}, err
	}
	if _, err := sign(tx.ring, m, ids, threshold); err != nil {
		return DraftRole{}, err
	}
	raw, err := m.ToBytes(false)
	return DraftRole{Role: name, Metadata: raw}, err
}

// SignDraft adds the key's signature to every role of the draft. It needs no repository.
func SignDraft(d *Draft, key ed25519.PrivateKey) error {
	for i := range d.Roles {
		raw, err := signRaw(d.Roles[i].Role, d.Roles[i].Metadata, key)
		if err != nil {
			return fmt.Errorf("sign role %s: %w", d.Roles[i].Role, err)
		}
		d.Roles[i].Metadata = raw
	}
	return nil
}

func signRaw(role string, raw []byte, key ed25519.PrivateKey) ([]byte, error) {
	if role == metadata.ROOT {
		m, err := parse(metadata.Root(), raw)
		if err != nil {
			return nil, err
		}
		return resign(m, key)
	}
	m, err := parse(metadata.Targets(), raw)
	if err != nil {
		return nil, err
	}
	return resign(m, key)
}

func resign[T metadata.Roles](m *metadata.Metadata[T], key ed25519.PrivateKey) ([]byte, error) {
	_, id, err := tufKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	m.Signatures = slices.DeleteFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
	if err := addSignature(m, key); err != nil {
		return nil, err
	}
	return m.ToBytes(false)
}

// parse is FromBytes for bytes that came from outside: go-tuf follows pointers that they can leave nil.
func parse[T metadata.Roles](as *metadata.Metadata[T], raw []byte) (m *metadata.Metadata[T], err error) {
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("malformed metadata: %v", r)
		}
	}()
	return as.FromBytes(raw)
}

// Import publishes a signed draft, after the same checks that Update makes. ErrStale is wrapped if the repository has moved
// on since; ErrNoKey if signatures are still missing. Each of checks may refuse what the catalog would become; a new root is
// nobody's to refuse.
func (r *Repo) Import(d *Draft, checks ...func(*Tx) error) error {
	if err := r.importDraft(d, checks); err != nil {
		return err
	}
	return r.settleKeys()
}

func (r *Repo) importDraft(d *Draft, checks []func(*Tx) error) error {
	if len(d.Roles) > 0 && d.Roles[0].Role == metadata.ROOT {
		return r.importRoot(d.Roles[0].Metadata, d.Roles[1:])
	}
	if !d.Until.IsZero() && r.now().After(d.Until) {
		return fmt.Errorf("the draft could be imported until %s: %w", d.Until.Format(time.DateOnly), ErrStale)
	}
	return r.Update(func(tx *Tx) error {
		// Parents first: a draft may delegate a role and bring it.
		roles := slices.Clone(d.Roles)
		slices.SortStableFunc(roles, func(a, b DraftRole) int { return depth(a.Role) - depth(b.Role) })
		for _, dr := range roles {
			if err := tx.importRole(dr); err != nil {
				return fmt.Errorf("import role %s: %w", dr.Role, err)
			}
		}
		if err := tx.checkImported(roles); err != nil {
			return err
		}
		for _, check := range checks {
			if err := check(tx); err != nil {
				return err
			}
		}
		return nil
	})
}

func depth(role string) int {
	if role == metadata.TARGETS {
		return 0
	}
	return 1 + strings.Count(role, ".bin-")
}

func (tx *Tx) importRole(dr DraftRole) error {
	m, err := parse(metadata.Targets(), dr.Metadata)
	if err != nil {
		return err
	}
	var have int64
	if ref := tx.snapshot.Signed.Meta[dr.Role+".json"]; ref != nil {
		have = ref.Version
	}
	if m.Signed.Version != tx.next(have) {
		return fmt.Errorf("version %d, published is %d: %w", m.Signed.Version, have, ErrStale)
	}
	if !m.Signed.Expires.After(tx.r.now()) {
		return fmt.Errorf("it expired on %s: %w", m.Signed.Expires, ErrStale)
	}
	if err := tx.verify(dr.Role, m); err != nil {
		return err
	}
	if tx.dirty[dr.Role] {
		return errors.New("the draft has it twice")
	}
	for name, tf := range m.Signed.Targets {
		if err := tx.checkTarget(dr.Role, name, tf); err != nil {
			return err
		}
	}
	tx.roles[dr.Role], tx.dirty[dr.Role], tx.wasRaw[dr.Role] = m, true, dr.Metadata
	return nil
}
