package control

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/fetch"
)

// far is a file on another box, which counts what was read there.
type far struct {
	*bytes.Reader
	read   int
	closed bool
}

func (f *far) Read(p []byte) (int, error) { n, err := f.Reader.Read(p); f.read += n; return n, err }
func (f *far) Close() error               { f.closed = true; return nil }

// prefixOf is the data of an asset of 8 pieces, of which a cache that has room for no more has the first 2.
func prefixOf(t *testing.T, b *Box) (*playing, []byte) {
	t.Helper()
	const piece = asset.MinPieceLength
	data := make([]byte, 8*piece)
	for i := range data {
		data[i] = byte(i / 7)
	}
	file := filepath.Join(t.TempDir(), "film.mp4")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	torrent, info, err := asset.Build(t.Context(), []asset.Source{{
		Path: "film.mp4", Length: int64(len(data)), Open: func() (io.ReadCloser, error) { return os.Open(file) },
	}}, asset.BuildOptions{Name: "film.mp4", Single: true, PieceLength: piece})
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(cache.Options{Dir: t.TempDir(), StateDir: t.TempDir(), Quota: 4 * piece})
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Create(torrent, cache.Attr{Name: "film.mp4", PrefixBytes: 2 * piece})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.WriteAt(data[:2*piece], 0); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := a.MarkVerified(i); err != nil {
			t.Fatal(err)
		}
	}
	r, err := a.OpenFile(t.Context(), "film.mp4")
	if err != nil {
		t.Fatal(err)
	}
	p := &playing{box: b, held: a, file: info.Files[0], Reader: r}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, data
}

func TestAPlayerGoesOnFromAnotherBoxWhereTheCacheIsFull(t *testing.T) {
	const piece = asset.MinPieceLength
	p, data := prefixOf(t, newRig(t).box)
	other := &far{Reader: bytes.NewReader(data)}
	p.afar = func() (io.ReadSeekCloser, error) { return other, nil }
	if err := p.begin(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(p)
	if err != nil || !bytes.Equal(got, data) || other.read != 6*piece {
		t.Errorf("%d of %d bytes, %d of them from the other box: %v", len(got), len(data), other.read, err)
	}
	// Back to what is here, on into what is not, and there at once.
	for _, from := range []int64{piece, 5*piece + 3} {
		other.read = 0
		var out bytes.Buffer
		if err := p.begin(t.Context(), from); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Seek(from, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		n, err := p.send(&out, int64(len(data)))
		want := data[from:]
		if n != int64(len(want)) || err != nil || !bytes.Equal(out.Bytes(), want) || other.read != len(data)-int(max(from, 2*piece)) {
			t.Errorf("from %d: %d of %d bytes, %d of them from the other box: %v", from, n, len(want), other.read, err)
		}
	}
	if err := p.Close(); err != nil || !other.closed {
		t.Errorf("closed: %v, %v", other.closed, err)
	}
}

func TestAPlayerIsToldOfWhatHasNoRoomAnywhere(t *testing.T) {
	const piece = asset.MinPieceLength
	p, data := prefixOf(t, newRig(t).box)
	p.afar = func() (io.ReadSeekCloser, error) { return nil, errors.New("nobody") }
	var told *NotNowError
	if err := p.begin(t.Context(), 3*piece); !errors.As(err, &told) || told.Code != "no-space" {
		t.Errorf("behind what is here: %v", err)
	}
	if err := p.begin(t.Context(), 0); err != nil {
		t.Errorf("what is here: %v", err)
	}
	got, err := io.ReadAll(p)
	if !errors.Is(err, cache.ErrNoSpace) || !bytes.Equal(got, data[:2*piece]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A player waits a while for a box of the home that might give or carry what this one may not fetch.
func TestAPlayerHopesForTheHome(t *testing.T) {
	r := newRig(t)
	id := r.add(t, "none.mp4", 2, 0)
	held, _ := r.cache.Asset(id)
	for name, comes := range map[string]func(*fakeFetch){
		"nothing":   nil,
		"an answer": func(f *fakeFetch) { f.state.Assets = map[asset.ID]AssetFetch{id: {Reason: "window"}} },
		"a courier": func(f *fakeFetch) { f.state.Assets = map[asset.ID]AssetFetch{id: {Reason: "follower"}} },
	} {
		f := &fakeFetch{state: FetchState{Assets: map[asset.ID]AssetFetch{id: {Reason: "window", Outlook: fetch.MayCome}}}}
		if name == "an answer" {
			f.state.Assets = nil // it does not know the asset yet
		}
		changed := make(chan struct{})
		f.changed = func() <-chan struct{} { // asked before the state: it is another one afterwards
			if comes != nil {
				comes(f)
				close(changed)
				comes = nil
				return changed
			}
			return nil
		}
		r.box.o.Fetch = f
		p := &playing{box: r.box, held: held, file: held.Info().Files[0], patience: time.Millisecond}
		if comes != nil {
			p.patience = time.Hour
		}
		wants := comes == nil
		var err error
		p.Reader, err = held.OpenFile(t.Context(), "none.mp4")
		if err != nil {
			t.Fatal(err)
		}
		err = p.begin(t.Context(), 0)
		var told *NotNowError
		if wants && (!errors.As(err, &told) || told.Code != "window") || !wants && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
