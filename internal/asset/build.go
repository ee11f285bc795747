package asset

import (
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3 v1 names content by SHA-1; see torrent.go
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/bits"
	"strings"

	"github.com/anacrolix/torrent/bencode"
)

// Source is one file that Build reads. Path is relative and slash separated; Length is how many bytes Open must give.
type Source struct {
	Path   string
	Length int64
	Open   func() (io.ReadCloser, error)
}

// Extra is what an operator says about an asset beyond BEP 3. It travels in the .torrent's top-level key "boxd", outside
// the info dictionary: it has no part in the ID, other clients ignore it, and the catalog signs it with the rest of the file.
type Extra struct {
	Title     string            `bencode:"title,omitempty"`
	Version   string            `bencode:"version,omitempty"`
	Publisher string            `bencode:"publisher,omitempty"`
	Types     map[string]string `bencode:"types,omitempty"`  // file path → content type
	SHA256    map[string]string `bencode:"sha256,omitempty"` // file path → hexadecimal SHA-256; Build fills it
}

// BuildOptions says how Build writes the .torrent.
type BuildOptions struct {
	Name        string // BEP 3 "name"; for a single file it must be the Source's path
	Single      bool   // one file, with BEP 3 "length" in place of "files"
	PieceLength int64  // bytes; 0 chooses by size, see PieceLengthFor
	// WebSeeds is asked for the "url-list" (BEP 19) once the ID is known; nil means none.
	WebSeeds func(ID) []string
	Announce []string // BEP 12 tiers of one URL each; the first is also "announce"
	Extra    Extra
	// Progress, if set, is called with the bytes read so far, at most once for each piece.
	Progress func(done int64)
}

// ErrChanged is wrapped by Build's error when a file was longer or shorter than its Source said.
var ErrChanged = errors.New("the file changed while it was read")

// PieceLengthFor chooses the piece length for an asset of so many bytes: about 1,500 pieces, and never less than 256 KiB or
// more than 4 MiB, so that a .torrent stays below a few hundred kilobytes, a lost block costs little and a small box can hash
// a piece from its page cache.
func PieceLengthFor(length int64) int64 {
	const least, most = 256 << 10, 4 << 20
	want := length / 1500
	if want <= least {
		return least
	}
	return min(int64(1)<<bits.Len64(uint64(want-1)), most)
}

// Build reads the files in the order given and returns a private v1 .torrent (BEP 3, 12, 19, 27) and what ParseTorrent
// makes of it. It fails rather than describe bytes that it did not read.
func Build(ctx context.Context, files []Source, opt BuildOptions) ([]byte, *Info, error) {
	var total int64
	for _, f := range files {
		total += f.Length
	}
	if total == 0 {
		return nil, nil, fmt.Errorf("build %q: no content: 0 bytes in %d files", opt.Name, len(files))
	}
	pl := opt.PieceLength
	if pl == 0 {
		pl = PieceLengthFor(total)
	}
	h := newPieceHasher(ctx, pl, opt.Progress)
	sums := make(map[string]string, len(files))
	for _, f := range files {
		sum, err := h.file(f)
		if err != nil {
			return nil, nil, fmt.Errorf("build %q: %s: %w", opt.Name, f.Path, err)
		}
		sums[f.Path] = sum
	}
	opt.Extra.SHA256 = sums
	b, err := encodeTorrent(files, pl, h.finish(), opt)
	if err != nil {
		return nil, nil, fmt.Errorf("build %q: %w", opt.Name, err)
	}
	in, err := ParseTorrent(b)
	if err != nil {
		return nil, nil, fmt.Errorf("build %q: %w", opt.Name, err)
	}
	return b, in, nil
}

func encodeTorrent(files []Source, pl int64, pieces []byte, opt BuildOptions) ([]byte, error) {
	info := map[string]any{"name": opt.Name, "piece length": pl, "pieces": pieces, "private": 1}
	if opt.Single {
		if len(files) != 1 || files[0].Path != opt.Name {
			return nil, errors.New("a single-file asset has one file, whose path is its name")
		}
		info["length"] = files[0].Length
	} else {
		list := make([]any, len(files))
		for i, f := range files {
			list[i] = map[string]any{"length": f.Length, "path": strings.Split(f.Path, "/")}
		}
		info["files"] = list
	}
	rawInfo, err := bencode.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encode info dictionary: %w", err)
	}
	top := map[string]any{"info": bencode.Bytes(rawInfo), "created by": "boxd", "boxd": opt.Extra}
	if len(opt.Announce) > 0 {
		tiers := make([][]string, len(opt.Announce))
		for i, u := range opt.Announce {
			tiers[i] = []string{u}
		}
		top["announce"], top["announce-list"] = opt.Announce[0], tiers
	}
	if opt.WebSeeds != nil {
		if seeds := opt.WebSeeds(sha1.Sum(rawInfo)); len(seeds) > 0 { //nolint:gosec // the infohash
			top["url-list"] = seeds
		}
	}
	return bencode.Marshal(top)
}

// ParseExtra reads the "boxd" key of a .torrent that ParseTorrent accepted; a .torrent without it gives the zero Extra.
func ParseExtra(torrent []byte) (Extra, error) {
	var raw struct {
		Boxd *Extra `bencode:"boxd,omitempty"`
	}
	if err := bencode.Unmarshal(torrent, &raw); err != nil {
		return Extra{}, bad("boxd key: %w", err)
	}
	if raw.Boxd == nil {
		return Extra{}, nil
	}
	return *raw.Boxd, nil
}

// pieceHasher cuts a stream of files into pieces.
type pieceHasher struct {
	ctx      context.Context
	pl, done int64
	inPiece  int64
	piece    hash.Hash
	sums     []byte
	buf      []byte
	progress func(int64)
}

func newPieceHasher(ctx context.Context, pl int64, progress func(int64)) *pieceHasher {
	//nolint:gosec // SHA-1 is BEP 3's
	return &pieceHasher{ctx: ctx, pl: pl, piece: sha1.New(), buf: make([]byte, 256<<10), progress: progress}
}

func (h *pieceHasher) file(f Source) (sum string, err error) {
	r, err := f.Open()
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	whole := sha256.New()
	var got int64
	for {
		if err := h.ctx.Err(); err != nil {
			return "", err
		}
		n, err := r.Read(h.buf)
		got += int64(n)
		if got > f.Length {
			return "", fmt.Errorf("%w: it has more than %d bytes", ErrChanged, f.Length)
		}
		whole.Write(h.buf[:n])
		h.write(h.buf[:n])
		switch {
		case errors.Is(err, io.EOF) && got < f.Length:
			return "", fmt.Errorf("%w: it has %d bytes, not %d", ErrChanged, got, f.Length)
		case errors.Is(err, io.EOF):
			return hex.EncodeToString(whole.Sum(nil)), nil
		case err != nil:
			return "", err
		}
	}
}

func (h *pieceHasher) write(p []byte) {
	for len(p) > 0 {
		n := min(int64(len(p)), h.pl-h.inPiece)
		h.piece.Write(p[:n])
		h.inPiece += n
		h.done += n
		p = p[n:]
		if h.inPiece == h.pl {
			h.endPiece()
		}
	}
}

func (h *pieceHasher) endPiece() {
	h.sums = h.piece.Sum(h.sums)
	h.piece.Reset()
	h.inPiece = 0
	if h.progress != nil {
		h.progress(h.done)
	}
}

func (h *pieceHasher) finish() []byte {
	if h.inPiece > 0 {
		h.endPiece()
	}
	return h.sums
}
