package operate

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/durable"
	"boxd/internal/fleet/publish"
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
	Replaces    asset.ID          // in all campaigns that name it; zero for none
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
	f.publishing.Lock()
	defer f.publishing.Unlock()
	res, err := publish.Publish(ctx, publish.Options{
		Source: r.Source, OriginDir: f.o.OriginDir, OriginURLs: f.o.OriginURLs, Announce: f.o.Announce, Title: r.Name,
		Version: r.Version, Publisher: r.Publisher, Types: r.Types, PieceLength: r.PieceLength, Progress: r.Progress,
	})
	if err != nil {
		return Asset{}, fmt.Errorf("%w: %w", ErrBad, err)
	}
	return f.admit(ctx, who, r.Publisher, res.Torrent, r.Replaces)
}

// admit signs a .torrent whose bytes are at the origin.
func (f *Fleet) admit(ctx context.Context, who, publisher string, torrent []byte, old asset.ID) (Asset, error) {
	f.editing.Lock()
	defer f.editing.Unlock()
	var ref catalog.AssetRef
	err := f.o.Repo.Update(func(tx *repo.Tx) error {
		var err error
		if ref, err = tx.PutAsset(publisher, torrent); err != nil {
			return err
		}
		gone, err := tx.Withdrawn()
		if err != nil {
			return err
		}
		for _, id := range gone {
			if id == ref.ID {
				return fmt.Errorf("%w: %s was withdrawn; readmit it first", ErrConflict, id)
			}
		}
		if !old.IsZero() && old != ref.ID {
			_, err = tx.ReplaceAsset(old, ref)
		}
		return err
	})
	if err != nil {
		return Asset{}, fmt.Errorf("sign asset: %w", keyless(err))
	}
	a, err := f.Asset(ref.ID)
	if err != nil {
		return Asset{}, err
	}
	if !old.IsZero() && old != ref.ID {
		if _, err := f.swapInCampaigns(ctx, old, &ref); err != nil {
			return a, err
		}
	}
	return a, f.o.Registry.Audit(ctx, who, "publish", a.Path, a.Name+" "+a.Version)
}

func keyless(err error) error {
	if errors.Is(err, repo.ErrNoKey) {
		return fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	return err
}

// Assets lists the catalog's assets, of one publisher or of all.
func (f *Fleet) Assets(publisher string) ([]Asset, error) {
	list := []Asset{}
	err := f.o.Repo.View(func(tx *repo.Tx) error {
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
				list = append(list, Asset{e, withdrawn[e.ID]})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list assets: %w", err)
	}
	return list, nil
}

// Asset finds one asset of the catalog.
func (f *Fleet) Asset(id asset.ID) (Asset, error) {
	list, err := f.Assets("")
	if err != nil {
		return Asset{}, err
	}
	for _, a := range list {
		if a.ID == id {
			return a, nil
		}
	}
	return Asset{}, fmt.Errorf("asset %s: %w", id, repo.ErrNotFound)
}

// Withdraw stops an asset everywhere: it leaves its campaigns, boxes stop playing it and erase it, with proof.
func (f *Fleet) Withdraw(ctx context.Context, who string, id asset.ID) error {
	if _, err := f.Asset(id); err != nil {
		return err
	}
	f.editing.Lock()
	defer f.editing.Unlock()
	if err := f.o.Repo.Update(func(tx *repo.Tx) error { return tx.Withdraw(id) }); err != nil {
		return fmt.Errorf("withdraw %s: %w", id, keyless(err))
	}
	if _, err := f.swapInCampaigns(ctx, id, nil); err != nil {
		return err
	}
	return f.o.Registry.Audit(ctx, who, "withdraw", id.String(), "")
}

// Readmit takes a withdrawal back.
func (f *Fleet) Readmit(ctx context.Context, who string, id asset.ID) error {
	if err := f.o.Repo.Update(func(tx *repo.Tx) error { return tx.Readmit(id) }); err != nil {
		return fmt.Errorf("readmit %s: %w", id, keyless(err))
	}
	return f.o.Registry.Audit(ctx, who, "readmit", id.String(), "")
}

// Remove takes an asset out of the catalog and deletes the origin's copy. Boxes drop it with their next cleaning;
// Withdraw is what erases it at once.
func (f *Fleet) Remove(ctx context.Context, who string, id asset.ID) error {
	a, err := f.Asset(id)
	if err != nil {
		return err
	}
	f.editing.Lock()
	defer f.editing.Unlock()
	// Kept until all is done: when fleetd dies before the origin's copy is gone, nothing else would know of it.
	if err := f.o.Registry.PutDoc(ctx, tableRemoving, id.String(), a.Path); err != nil {
		return err
	}
	if err := f.o.Repo.Update(func(tx *repo.Tx) error { return tx.RemoveAsset(a.Path) }); err != nil {
		return errors.Join(fmt.Errorf("remove %s: %w", id, keyless(err)),
			f.o.Registry.DeleteDoc(ctx, tableRemoving, id.String()))
	}
	changed, err := f.swapInCampaigns(ctx, id, nil)
	if err != nil {
		return err
	}
	for i := range changed {
		if changed[i].State == CampaignDrafted {
			continue
		}
		if err := f.publishCampaign(&changed[i]); err != nil {
			f.log.Warn("campaign still names a removed asset", "campaign", changed[i].ID, "asset", id, "err", err)
		}
	}
	if err := publish.Remove(f.o.OriginDir, id); err != nil {
		return err
	}
	if err := f.o.Registry.DeleteDoc(ctx, tableRemoving, id.String()); err != nil {
		return err
	}
	return f.o.Registry.Audit(ctx, who, "remove", a.Path, a.Name)
}

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
	if !catalog.ValidName(name) || quota < 0 {
		return fmt.Errorf("%w: publisher %q with quota %d", ErrBad, name, quota)
	}
	if key == nil {
		file := filepath.Join(f.o.Keys, repo.PublisherRole(name)+".pem")
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: there is a key %s already", ErrConflict, file)
		}
		priv, err := repo.GenerateKey(durable.OS(), f.o.Keys, repo.PublisherRole(name))
		if err != nil {
			return fmt.Errorf("make key of publisher %s: %w", name, err)
		}
		key = priv.Public().(ed25519.PublicKey) //nolint:forcetypeassert // documented by crypto/ed25519
	}
	if err := f.o.Repo.Update(func(tx *repo.Tx) error { return tx.AddPublisher(name, key, quota) }); err != nil {
		return fmt.Errorf("add publisher %s: %w", name, keyless(err))
	}
	return f.o.Registry.Audit(ctx, who, "add-publisher", name, fmt.Sprintf("quota %d", quota))
}
