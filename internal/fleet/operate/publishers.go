package operate

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"boxd/internal/catalog"
	"boxd/internal/durable"
	"boxd/internal/fleet/repo"
)

// Publishers lists who may publish.
func (f *Fleet) Publishers() ([]repo.Publisher, error) {
	var list []repo.Publisher
	err := f.o.Repo.View(func(tx *repo.Tx) error {
		var err error
		list, err = tx.Publishers()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list publishers: %w", err)
	}
	return list, nil
}

// AddPublisher delegates assets/<name>/… to a key: the given public one, whose private half stays with the publisher,
// or, when nil, a new one on this machine.
func (f *Fleet) AddPublisher(ctx context.Context, who, name string, key ed25519.PublicKey, quota int64) error {
	_, err := f.AddPublisherOrDraft(ctx, who, name, key, quota, false)
	return err
}

// AddPublisherOrDraft is AddPublisher that returns a draft if the targets key is elsewhere and a draft will do.
func (f *Fleet) AddPublisherOrDraft(
	ctx context.Context, who, name string, key ed25519.PublicKey, quota int64, draft bool,
) (*repo.Draft, error) {
	if !catalog.ValidName(name) || quota < 0 {
		return nil, fmt.Errorf("%w: publisher %q with quota %d", ErrBad, name, quota)
	}
	undo := func() error { return nil }
	if key == nil {
		var err error
		if key, undo, err = f.publisherKey(name); err != nil {
			return nil, err
		}
	}
	d, err := f.updateOrDraft(draft, "publisher "+name+" is added", func(tx *repo.Tx) error { return tx.AddPublisher(name, key, quota) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("add publisher %s: %w", name, err), undo())
	}
	return d, f.o.Registry.Audit(ctx, who, didOrDrafted("add-publisher", d), name, fmt.Sprintf("quota %d", quota))
}

// publisherKey makes a key on this machine; undo removes it again.
func (f *Fleet) publisherKey(name string) (key ed25519.PublicKey, undo func() error, err error) {
	role := repo.PublisherRole(name)
	file := filepath.Join(f.o.Keys, role+".pem")
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: there is a key %s already: use it (--public-key), or take it away", ErrConflict, file)
	}
	priv, err := repo.GenerateKey(durable.OS(), f.o.Keys, role)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of publisher %s: %w", name, err)
	}
	undo = func() error { return durable.RemoveFile(durable.OS(), file) }
	return priv.Public().(ed25519.PublicKey), undo, nil //nolint:forcetypeassert // documented by crypto/ed25519
}

// RemovePublisher takes a publisher's delegation away: boxes no longer believe anything that it signed. What is to be erased
// has to be withdrawn as well. If the targets key is elsewhere and a draft will do, it returns one.
func (f *Fleet) RemovePublisher(ctx context.Context, who, name string, draft bool) (*repo.Draft, error) {
	f.editing.Lock()
	defer f.editing.Unlock()
	d, err := f.updateOrDraft(draft, "publisher "+name+" is removed", func(tx *repo.Tx) error { return tx.RemovePublisher(name) })
	if err != nil {
		return nil, fmt.Errorf("remove publisher %s: %w", name, err)
	}
	return d, f.o.Registry.Audit(ctx, who, didOrDrafted("remove-publisher", d), name, "")
}

func didOrDrafted(action string, d *repo.Draft) string {
	if d != nil {
		return "draft-" + action
	}
	return action
}

// updateOrDraft changes the catalog or, when the key for that is elsewhere and a draft will do, drafts the change.
func (f *Fleet) updateOrDraft(draft bool, note string, change func(*repo.Tx) error) (*repo.Draft, error) {
	err := f.o.Repo.Update(change)
	if err == nil || !draft || !errors.Is(err, repo.ErrNoKey) {
		return nil, keyless(err)
	}
	return f.o.Repo.Draft([]string{note}, change)
}

// RevokeSerial revokes one certificate: an old intermediate, a server's, or one of a box's. The catalog says so, and what the
// box has open is closed.
func (f *Fleet) RevokeSerial(ctx context.Context, who, serial, reason string) error {
	if err := f.o.CA.RevokeSerial(ctx, serial, reason); err != nil {
		return err
	}
	if err := f.o.Registry.Audit(ctx, who, "revoke-certificate", serial, reason); err != nil {
		return err
	}
	return f.syncRevocations(ctx)
}
