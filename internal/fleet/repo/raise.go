package repo

import (
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// floorKey is the key under which snapshot.json keeps the number that the versions of all roles stay above from a Raise on.
const floorKey = "boxd_floor"

// next is the version that follows one of a role.
func (tx *Tx) next(version int64) int64 { return max(version, tx.floor) + 1 }

func floorOf(fields map[string]any) int64 {
	switch n := fields[floorKey].(type) {
	case int64:
		return n
	case float64: // as read back from JSON
		return int64(n)
	}
	return 0
}

// Raise publishes the catalog again with versions above floor, now and for roles that are added later, so that boxes believe
// a repository that came from a backup and is older than what they have seen. It returns the roles that keep their version
// because their keys are not here; DraftRaised drafts those. Once the floor is reached it does nothing more.
//
// Boxes accept a raised catalog whose remaining roles did not change after the backup. A root that was published after the
// backup cannot be made good here: put its file back into metadata.
func (r *Repo) Raise(floor int64) (left []string, err error) {
	if floor < 1 {
		return nil, fmt.Errorf("raise the versions above %d: want a positive number", floor)
	}
	err = r.Update(func(tx *Tx) error {
		left, err = tx.below(floor, false)
		if err != nil || tx.floor >= floor {
			return err
		}
		tx.floor, tx.touch = floor, true
		names, err := tx.below(floor, true)
		if err != nil {
			return err
		}
		return tx.editWhole(names)
	})
	return left, err
}

// DraftRaised drafts the roles that Raise had to leave, for signing where their keys are.
func (r *Repo) DraftRaised() (*Draft, error) {
	return r.Draft([]string{"versions above those of the time before a backup was restored"}, func(tx *Tx) error {
		left, err := tx.below(tx.floor, false)
		if err != nil {
			return err
		}
		return tx.editWhole(left)
	})
}

// below lists the roles, but bins, whose version is not above a floor and whose keys are here, or are not.
func (tx *Tx) below(floor int64, here bool) (names []string, err error) {
	all, err := tx.plainRoles()
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		ref := tx.snapshot.Signed.Meta[name+".json"]
		if ref == nil || ref.Version > floor {
			continue
		}
		ids, threshold, err := tx.keysOf(name)
		if err != nil {
			return nil, err
		}
		if (tx.have(ids) >= threshold) == here {
			names = append(names, name)
		}
	}
	return names, nil
}

// have counts the keys that are here.
func (tx *Tx) have(ids []string) (n int) {
	for _, id := range ids {
		if _, ok := tx.ring[id]; ok {
			n++
		}
	}
	return n
}

// editWhole edits roles with their bins.
func (tx *Tx) editWhole(names []string) error {
	for _, name := range names {
		m, err := tx.edit(name)
		if err != nil {
			return err
		}
		s := succinct(m)
		if s == nil || name == metadata.TARGETS {
			continue
		}
		for _, bin := range s.GetRoles() {
			if _, err := tx.edit(bin); err != nil {
				return err
			}
		}
	}
	return nil
}
