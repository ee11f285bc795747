package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
)

// OpenFile opens a file of an asset for a player. An asset that the catalog names and that is not in the cache yet is
// admitted first: to play is to want it.
func (b *Box) OpenFile(ctx context.Context, id asset.ID, file string) (*Content, error) {
	cat := b.o.Catalog.Snapshot()
	if slices.Contains(cat.Withdrawn, id) {
		return nil, ErrNoAsset
	}
	listed := cat.Assets[id]
	held, ok := b.o.Cache.Asset(id)
	if !ok {
		if listed == nil {
			return nil, ErrNoAsset
		}
		if _, ok := listed.Info.File(file); !ok {
			return nil, ErrNoFile
		}
		var err error
		held, err = b.o.Cache.Create(listed.Torrent, cache.Attr{
			Name: listed.Name, Version: listed.Version, Publisher: listed.Publisher,
		})
		if err != nil {
			return nil, fmt.Errorf("admit %s for a player: %w", id.Short(), err)
		}
	}
	f, ok := held.Info().File(file)
	if !ok {
		return nil, ErrNoFile
	}
	r, err := held.OpenFile(ctx, file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, cache.ErrGone) {
		return nil, ErrNoFile
	}
	if err != nil {
		return nil, err
	}
	signed := ""
	if listed != nil {
		signed = listed.Types[file]
	}
	return &Content{
		ReadSeekCloser: r, Send: r.SendN, Name: path.Base(file), Type: contentType(file, signed), Length: f.Length,
		ETag: fmt.Sprintf(`"%s-%x"`, id, f.Offset), // the infohash fixes every byte
		// No ModTime: the infohash says more than any date, and a box's dates may lie.
		ModTime: time.Time{},
	}, nil
}
