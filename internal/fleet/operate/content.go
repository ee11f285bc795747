package operate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
)

// DefaultPublisher is who publishes when nobody is named. Its key is made by init and lies beside the others.
const DefaultPublisher = "operator"

// PublishRequest says what is published under whose name.
type PublishRequest struct {
	Source      string            // a file or directory on this machine
	Name        string            // title; empty takes the file's name
	Version     string            // of the title
	Publisher   string            // empty means DefaultPublisher
	Types       map[string]string // content types by file, where the name does not tell
	Type        string            // content type of a single file
	Replaces    asset.ID          // in all campaigns that name it; zero for none. The publisher's own, if it has it
	OwnOnly     bool              // Replaces may not be another publisher's
	Root        string            // a directory that Source may not lead out of; "" for none
	Forbid      string            // a directory that Source may not lead into; "" for none
	PieceLength int64             // bytes; 0 lets the size decide
	Progress    func(done, total int64)
}

// Asset is what the operator sees of an asset in the catalog.
type Asset struct {
	repo.AssetEntry
	Withdrawn bool `json:"withdrawn"`
}

// Publish hashes, copies to the origin, signs with the publisher's key and puts the asset into the catalog.
func (f *Fleet) Publish(ctx context.Context, who string, r PublishRequest) (Asset, error) {
	if r.Publisher == "" {
		r.Publisher = DefaultPublisher
	}
	if r.Type != "" {
		if len(r.Types) > 0 {
			return Asset{}, fmt.Errorf("%w: both a type and types by file", ErrBad)
		}
		r.Types = map[string]string{filepath.Base(r.Source): r.Type}
	}
	old, err := f.replaced(ctx, r)
	if err != nil {
		return Asset{}, err
	}
	res, done, err := f.copyToOrigin(ctx, r)
	if err != nil {
		return Asset{}, err
	}
	defer done()
	a, err := f.admit(ctx, who, r.Publisher, res, old)
	if err != nil {
		return a, errors.Join(err, f.dropCopy(ctx, res))
	}
	return a, nil
}

// replaced finds the asset whose place a new one takes; its path is empty when there is none.
func (f *Fleet) replaced(ctx context.Context, r PublishRequest) (repo.AssetEntry, error) {
	if r.Replaces.IsZero() {
		return repo.AssetEntry{}, nil
	}
	a, err := f.Asset(ctx, r.Publisher, r.Replaces)
	if errors.Is(err, repo.ErrNotFound) && !r.OwnOnly {
		a, err = f.Asset(ctx, "", r.Replaces)
	}
	if err != nil {
		return repo.AssetEntry{}, fmt.Errorf("what is to be replaced: %w", err)
	}
	return a.AssetEntry, nil
}

// importsAtOnce is how many assets are hashed at a time. One that hangs, on a share that is gone or a client that does not read,
// keeps no other waiting.
const importsAtOnce = 8

// copyToOrigin hashes an asset and copies it to the origin, if its publisher has room for it. What it has counts as the publisher's
// until done is called: when the catalog or a draft has it, or it was refused.
func (f *Fleet) copyToOrigin(ctx context.Context, r PublishRequest) (res *publish.Result, done func(), err error) {
	if room, err := f.room(ctx, r.Publisher); err != nil {
		return nil, nil, err
	} else if room <= 0 {
		return nil, nil, fmt.Errorf("%w: publisher %s has no byte left", repo.ErrQuota, r.Publisher)
	}
	select {
	case f.imports <- struct{}{}:
		defer func() { <-f.imports }()
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for other imports: %w", ctx.Err())
	}
	var refused error
	done = func() {}
	res, err = publish.Publish(ctx, publish.Options{
		Source: r.Source, OriginDir: f.o.OriginDir, OriginURLs: f.o.OriginURLs, Announce: f.o.Announce, Title: r.Name,
		Version: r.Version, Publisher: r.Publisher, Types: r.Types, PieceLength: r.PieceLength, Progress: r.Progress,
		Root: r.Root, Forbid: r.Forbid, Take: func(total int64) error {
			done, refused = f.takeRoom(ctx, r.Publisher, total)
			return refused
		},
	})
	switch {
	case refused != nil:
		return nil, nil, refused
	case err != nil:
		done()
		return nil, nil, fmt.Errorf("%w: %w", ErrBad, err)
	}
	return res, done, nil
}

// admit signs a .torrent whose bytes are at the origin. It takes old's place in all campaigns, if that has a path.
func (f *Fleet) admit(ctx context.Context, who, publisher string, res *publish.Result, old repo.AssetEntry) (Asset, error) {
	f.editing.Lock()
	defer f.editing.Unlock()
	if err := stillThere(res); err != nil {
		return Asset{}, err
	}
	var ref catalog.AssetRef
	err := f.o.Repo.Update(func(tx *repo.Tx) error {
		var err error
		if ref, err = tx.PutAsset(publisher, res.Torrent); err != nil {
			return err
		}
		gone, err := tx.Withdrawn()
		if err != nil {
			return err
		}
		if slices.Contains(gone, ref.ID) {
			return fmt.Errorf("%w: %s was withdrawn; readmit it first", ErrConflict, ref.ID)
		}
		if old.Path != "" && old.Path != ref.Path {
			_, err = tx.ReplaceAsset(old.Path, ref)
		}
		return err
	})
	if err != nil {
		return Asset{}, fmt.Errorf("sign asset: %w", keyless(err))
	}
	a, err := f.Asset(ctx, publisher, ref.ID)
	if err != nil {
		return Asset{}, err
	}
	if err := f.remember(ctx, &a); err != nil {
		return a, err
	}
	detail := a.Name + " " + a.Version
	if old.Path != "" && old.Path != ref.Path {
		if _, err := f.swapInCampaigns(ctx, old.Path, &ref); err != nil {
			return a, err
		}
		detail += " replaces " + old.Path
	}
	return a, f.o.Registry.Audit(ctx, who, "publish", a.Path, detail)
}

// stillThere is an error when the copy at the origin is another import's of the same bytes, which was removed just now.
func stillThere(res *publish.Result) error {
	if _, err := os.Stat(res.Dir); err != nil {
		return fmt.Errorf("%w: the origin's copy is gone; publish it again: %w", ErrConflict, err)
	}
	return nil
}

func keyless(err error) error {
	if errors.Is(err, repo.ErrNoKey) {
		return fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	return err
}

// Assets lists the catalog's assets, of one publisher or of all.
func (f *Fleet) Assets(ctx context.Context, publisher string) ([]Asset, error) {
	paths, err := registry.ListDocs[string](ctx, f.o.Registry, tableWithdrawn)
	if err != nil {
		return nil, err
	}
	list := []Asset{}
	err = f.o.Repo.View(func(tx *repo.Tx) error {
		gone, err := tx.Withdrawn()
		if err != nil {
			return err
		}
		withdrawn := map[asset.ID]bool{}
		for _, id := range gone {
			withdrawn[id] = true
		}
		publishers, err := tx.Publishers()
		if err != nil {
			return err
		}
		for _, p := range publishers {
			if publisher != "" && p.Name != publisher {
				continue
			}
			entries, err := tx.Assets(p.Name)
			if err != nil {
				return err
			}
			for _, e := range entries {
				list = append(list, Asset{e, withdrawn[e.ID] || slices.Contains(paths, e.Path)})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list assets: %w", err)
	}
	return list, nil
}

// Asset finds one asset of the catalog. Several publishers may have the same bytes, and so the same id: without a publisher's
// name it is found only when one of them has it.
func (f *Fleet) Asset(ctx context.Context, publisher string, id asset.ID) (Asset, error) {
	list, err := f.Assets(ctx, publisher)
	if err != nil {
		return Asset{}, err
	}
	list = slices.DeleteFunc(list, func(a Asset) bool { return a.ID != id })
	switch len(list) {
	case 0:
		return Asset{}, fmt.Errorf("asset %s: %w", id, repo.ErrNotFound)
	case 1:
		return list[0], nil
	}
	var names []string
	for _, a := range list {
		names = append(names, a.Publisher)
	}
	return Asset{}, fmt.Errorf("%w: asset %s is of several publishers (%s): say whose", ErrConflict, id, strings.Join(names, ", "))
}
