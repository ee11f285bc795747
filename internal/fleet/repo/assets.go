package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"boxd/internal/asset"
	"boxd/internal/catalog"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// AssetEntry is what the catalog says about an asset, short enough to list.
type AssetEntry struct {
	Path      string   `json:"path"`
	ID        asset.ID `json:"id"`
	Publisher string   `json:"publisher"`
	Name      string   `json:"name"` // title, or the torrent's name
	Version   string   `json:"version,omitempty"`
	Length    int64    `json:"length"` // bytes
}

// assetCustom is the "custom" part of an asset's target.
type assetCustom struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Length  int64  `json:"length"`
}

// PutAsset signs a .torrent under its publisher's role. The same .torrent again is no fault; another one with the same ID
// (other web seeds) replaces it.
func (tx *Tx) PutAsset(publisher string, torrent []byte) (catalog.AssetRef, error) {
	in, err := asset.ParseTorrent(torrent)
	if err != nil {
		return catalog.AssetRef{}, err
	}
	extra, err := asset.ParseExtra(torrent)
	if err != nil {
		return catalog.AssetRef{}, err
	}
	ref := catalog.AssetRef{Path: catalog.AssetPath(publisher, in.ID), ID: in.ID}
	fail := func(err error) (catalog.AssetRef, error) {
		return catalog.AssetRef{}, fmt.Errorf("asset %s of publisher %s: %w", in.ID, publisher, err)
	}
	if !in.Private {
		return fail(errors.New("the torrent is not private (BEP 27)"))
	}
	custom := assetCustom{Name: extra.Title, Version: extra.Version, Length: in.Length}
	if custom.Name == "" {
		custom.Name = in.Name
	}
	role, err := tx.roleFor(publisher, ref.Path)
	if err != nil {
		return fail(err)
	}
	if err := tx.setTarget(role, ref.Path, torrent, custom); err != nil {
		return fail(err)
	}
	if err := tx.checkQuota(publisher); err != nil {
		return fail(err)
	}
	return ref, tx.splitIfLarge(publisher)
}

// RemoveAsset takes an asset out of its publisher's role: boxes no longer believe it. Withdraw also erases it.
func (tx *Tx) RemoveAsset(path string) error {
	publisher := catalog.AssetRef{Path: path}.Publisher()
	role, err := tx.roleFor(publisher, path)
	if err != nil {
		return err
	}
	m, err := tx.role(role)
	if err != nil {
		return err
	}
	if m.Signed.Targets[path] == nil {
		return fmt.Errorf("asset %s: %w", path, ErrNotFound)
	}
	if m, err = tx.edit(role); err != nil {
		return err
	}
	delete(m.Signed.Targets, path)
	return nil
}

// Torrent reads the signed .torrent of an asset.
func (tx *Tx) Torrent(path string) ([]byte, error) {
	role, err := tx.roleFor(catalog.AssetRef{Path: path}.Publisher(), path)
	if err != nil {
		return nil, fmt.Errorf("asset %s: %w", path, err)
	}
	return tx.target(role, path)
}

// Assets lists a publisher's assets by name, then version, then path.
func (tx *Tx) Assets(publisher string) ([]AssetEntry, error) {
	roles, err := tx.rolesOf(publisher)
	if err != nil {
		return nil, err
	}
	var list []AssetEntry
	for _, role := range roles {
		m, err := tx.role(role)
		if errors.Is(err, ErrNotFound) {
			continue // delegated, nothing signed yet
		}
		if err != nil {
			return nil, err
		}
		for path, tf := range m.Signed.Targets {
			e, err := entryOf(publisher, path, tf)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b AssetEntry) int {
		return strings.Compare(a.Name+"\x00"+a.Version+"\x00"+a.Path, b.Name+"\x00"+b.Version+"\x00"+b.Path)
	})
	return list, nil
}

func entryOf(publisher, path string, tf *metadata.TargetFiles) (AssetEntry, error) {
	var c assetCustom
	if tf.Custom != nil {
		if err := json.Unmarshal(*tf.Custom, &c); err != nil {
			return AssetEntry{}, fmt.Errorf("asset %s: custom: %w", path, err)
		}
	}
	base := strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], ".torrent")
	id, err := asset.ParseID(base)
	if err != nil {
		return AssetEntry{}, fmt.Errorf("asset %s: %w", path, err)
	}
	return AssetEntry{Path: path, ID: id, Publisher: publisher, Name: c.Name, Version: c.Version, Length: c.Length}, nil
}

func (tx *Tx) checkQuota(publisher string) error {
	d, err := tx.delegation(PublisherRole(publisher))
	if err != nil {
		return err
	}
	quota := quotaOf(*d)
	if quota == 0 {
		return nil
	}
	list, err := tx.Assets(publisher)
	if err != nil {
		return err
	}
	var used int64
	for _, e := range list {
		used += e.Length
	}
	if used > quota {
		return fmt.Errorf("%w: %d of %d bytes with this asset", ErrQuota, used, quota)
	}
	return nil
}
