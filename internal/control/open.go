package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
)

// OpenFile opens a file of an asset for a player. An asset that the catalog names and that is not in the cache yet is
// admitted first: to play is to want it, when it may be had now. It fails with a *NotNowError when it may not, as before
// its campaign begins, and nothing of the file is here.
func (b *Box) OpenFile(ctx context.Context, id asset.ID, file string) (*Content, error) {
	cat := b.o.Catalog.Snapshot()
	if cat.IsWithdrawn(id) {
		return nil, ErrNoAsset
	}
	ctx, end := context.WithCancel(ctx)
	c, err := b.openFile(ctx, cat, id, file)
	if err != nil {
		end()
		return nil, err
	}
	go b.endWithdrawn(ctx, end, id)
	c.ReadSeekCloser = ending{c.ReadSeekCloser, end}
	return c, nil
}

// endWithdrawn ends what plays an asset that is withdrawn.
func (b *Box) endWithdrawn(ctx context.Context, end func(), id asset.ID) {
	for {
		changed := b.o.Catalog.Changed()
		if b.o.Catalog.Snapshot().IsWithdrawn(id) {
			end()
			b.log.Info("playout of a withdrawn asset ends", "asset", id.Short())
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// ending calls end when it is closed.
type ending struct {
	io.ReadSeekCloser
	end func()
}

func (e ending) Close() error {
	e.end()
	return e.ReadSeekCloser.Close()
}

func (b *Box) openFile(ctx context.Context, cat *catalog.Snapshot, id asset.ID, file string) (*Content, error) {
	listed := cat.Assets[id]
	held, ok := b.o.Cache.Asset(id)
	if !ok {
		if listed == nil {
			return nil, ErrNoAsset
		}
		if _, ok := listed.Info.File(file); !ok {
			return nil, ErrNoFile
		}
		if err := b.notNow(id); err != nil {
			return nil, err
		}
		var err error
		held, err = b.o.Cache.Create(listed.Torrent, cache.Attr{
			Name: listed.Name, Version: listed.Version, Publisher: listed.Publisher,
		})
		if errors.Is(err, cache.ErrNoSpace) && b.o.Remote != nil {
			return b.openRemote(ctx, listed, file, err)
		}
		if errors.Is(err, cache.ErrNoSpace) {
			return nil, errNoRoom
		}
		if err != nil {
			return nil, fmt.Errorf("admit %s for a player: %w", id.Short(), err)
		}
	}
	f, ok := held.Info().File(file)
	if !ok {
		return nil, ErrNoFile
	}
	if !anyOf(held, f) {
		if err := b.notNow(id); err != nil {
			return nil, err
		}
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
	p := &playing{box: b, held: held, file: f, Reader: r}
	if listed != nil && b.o.Remote != nil {
		p.afar = func() (io.ReadSeekCloser, error) { return b.o.Remote.Open(ctx, listed.Info, file) }
	}
	c := content(id, f, signed, p, p.send)
	c.Begin = func(off int64) error { return p.begin(ctx, off) }
	return c, nil
}

// notNow is why nothing of an asset comes now, for sure; nil when it does, it may, or that is not known yet.
func (b *Box) notNow(id asset.ID) error {
	if look, err := b.outlook(id); look == fetch.Stays {
		return err
	}
	return nil
}

// outlook is what a player of an asset that is not here can hope for; the error says why it should not.
func (b *Box) outlook(id asset.ID) (fetch.Outlook, error) {
	if b.o.Fetch == nil {
		return fetch.Comes, nil
	}
	a, known := b.o.Fetch.State().Assets[id]
	switch {
	case !known: // it will be in a moment
		return fetch.MayCome, nil
	case a.Reason == "":
		return fetch.Comes, nil
	}
	return a.Outlook, &NotNowError{Code: a.Reason, Text: a.Why}
}

// anyOf says that something of a file is here.
func anyOf(a *cache.Asset, f asset.File) bool {
	begin, end := a.Info().PiecesOf(f.Offset, f.Length)
	for i := begin; i < end; i++ {
		if a.Have(i) {
			return true
		}
	}
	return begin == end
}

// openRemote opens a file that has no room here from a box of the home that holds it. The catalog's word is needed for
// that: what it does not name is not wanted here.
func (b *Box) openRemote(ctx context.Context, listed *catalog.Asset, file string, full error) (*Content, error) {
	id := listed.Info.ID
	r, err := b.o.Remote.Open(ctx, listed.Info, file)
	if err != nil {
		b.log.Info("a player gets nothing", "asset", id.Short(), "why", errors.Join(full, err))
		return nil, errNoRoom
	}
	f, _ := listed.Info.File(file)
	b.log.Info("a player plays from another box of the home", "asset", id.Short())
	return content(id, f, listed.Types[file], r, func(w io.Writer, n int64) (int64, error) { return sendFrom(r, w, n) }), nil
}

// sendFrom copies the next n bytes, or until the end, piece by piece: each renews the player's time.
func sendFrom(r io.Reader, w io.Writer, n int64) (int64, error) {
	sent, err := io.CopyN(struct{ io.Writer }{w}, r, n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return sent, err
}

func content(
	id asset.ID, f asset.File, signed string, r io.ReadSeekCloser, send func(io.Writer, int64) (int64, error),
) *Content {
	return &Content{
		ReadSeekCloser: r, Send: send, Name: path.Base(f.Path), Type: contentType(f.Path, signed), Length: f.Length,
		ETag: fmt.Sprintf(`"%s-%x"`, id, f.Offset), // the infohash fixes every byte
		// No ModTime: the infohash says more than any date, and a box's dates may lie.
		ModTime: time.Time{},
	}
}
