package asset

import (
	"crypto/sha1" //nolint:gosec // BEP 3 v1 names content by SHA-1; who may publish is decided by TUF, not by this hash
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/anacrolix/torrent/bencode"
)

// Limits of ParseTorrent. A .torrent that exceeds one is refused with an error that names it.
const (
	MaxTorrentBytes = 8 << 20  // bytes of a .torrent file
	MaxFiles        = 20_000   // files in an asset
	MaxPathBytes    = 1024     // bytes of one file's path
	MinPieceLength  = 16 << 10 // bytes; one BitTorrent block
	MaxPieceLength  = 16 << 20 // bytes
)

// ErrTorrent is wrapped by every error of ParseTorrent.
var ErrTorrent = errors.New("bad .torrent file")

type rawTorrent struct {
	Info         bencode.Bytes `bencode:"info"`
	Announce     string        `bencode:"announce,omitempty"`
	AnnounceList [][]string    `bencode:"announce-list,omitempty"`
	URLList      any           `bencode:"url-list,omitempty"`
}

type rawInfo struct {
	Name        string    `bencode:"name"`
	PieceLength int64     `bencode:"piece length"`
	Pieces      []byte    `bencode:"pieces"`
	Length      *int64    `bencode:"length,omitempty"`
	Files       []rawFile `bencode:"files,omitempty"`
	Private     *int64    `bencode:"private,omitempty"`
	MetaVersion *int64    `bencode:"meta version,omitempty"`
}

type rawFile struct {
	Length int64    `bencode:"length"`
	Path   []string `bencode:"path"`
	Attr   string   `bencode:"attr,omitempty"`
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrTorrent, fmt.Errorf(format, args...))
}

// ParseTorrent reads a v1 .torrent file (BEP 3, with BEP 12, 19 and 27) and checks all that a box later relies on.
func ParseTorrent(b []byte) (*Info, error) {
	if len(b) > MaxTorrentBytes {
		return nil, bad("%d bytes, more than %d", len(b), MaxTorrentBytes)
	}
	var raw rawTorrent
	if err := bencode.Unmarshal(b, &raw); err != nil {
		return nil, bad("%w", err)
	}
	if len(raw.Info) == 0 {
		return nil, bad("no info dictionary")
	}
	var ri rawInfo
	if err := bencode.Unmarshal(raw.Info, &ri); err != nil {
		return nil, bad("info dictionary: %w", err)
	}
	in := &Info{
		ID:          sha1.Sum(raw.Info), //nolint:gosec // see the import
		Name:        ri.Name,
		PieceLength: ri.PieceLength,
		hashes:      ri.Pieces,
		Private:     ri.Private != nil && *ri.Private == 1,
	}
	if ri.MetaVersion != nil && *ri.MetaVersion != 1 {
		return nil, bad("meta version %d; only v1 torrents are distributed", *ri.MetaVersion)
	}
	if err := in.setFiles(&ri); err != nil {
		return nil, err
	}
	if err := in.checkPieces(); err != nil {
		return nil, err
	}
	in.setSources(&raw)
	return in, nil
}

func (in *Info) setFiles(ri *rawInfo) error {
	if err := checkElement(ri.Name); err != nil {
		return bad("name %.80q: %w", ri.Name, err)
	}
	switch {
	case ri.Length != nil && len(ri.Files) > 0:
		return bad("both length and files")
	case ri.Length != nil:
		in.Files = []File{{Path: ri.Name, Length: *ri.Length}}
	case len(ri.Files) > MaxFiles:
		return bad("%d files, more than %d", len(ri.Files), MaxFiles)
	default:
		for i, f := range ri.Files {
			if strings.Contains(f.Attr, "p") {
				return bad("file %d is a padding file (BEP 47), which boxd does not store", i)
			}
			for _, e := range f.Path {
				if err := checkElement(e); err != nil {
					return bad("file %d: path element %.80q: %w", i, e, err)
				}
			}
			in.Files = append(in.Files, File{Path: strings.Join(f.Path, "/"), Length: f.Length})
		}
	}
	return in.placeFiles()
}

func (in *Info) placeFiles() error {
	seen := make(map[string]bool, len(in.Files))
	for i := range in.Files {
		f := &in.Files[i]
		switch {
		case f.Path == "" || len(f.Path) > MaxPathBytes:
			return bad("file %d: path of %d bytes; want 1 to %d", i, len(f.Path), MaxPathBytes)
		case seen[f.Path]:
			return bad("file %d: path %q appears twice", i, f.Path)
		case f.Length < 0 || in.Length > math.MaxInt64-f.Length:
			return bad("file %d %q: length %d bytes", i, f.Path, f.Length)
		}
		seen[f.Path] = true
		f.Offset = in.Length
		in.Length += f.Length
	}
	for _, f := range in.Files {
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			if seen[d] {
				return bad("%q is both a file and a directory", d)
			}
		}
	}
	if in.Length == 0 {
		return bad("no content: 0 bytes in %d files", len(in.Files))
	}
	return nil
}

func (in *Info) checkPieces() error {
	if in.PieceLength < MinPieceLength || in.PieceLength > MaxPieceLength || in.PieceLength&(in.PieceLength-1) != 0 {
		return bad("piece length %d bytes; want a power of two from %d to %d", in.PieceLength, MinPieceLength, MaxPieceLength)
	}
	want := (in.Length-1)/in.PieceLength + 1
	if int64(len(in.hashes)) != want*HashSize {
		return bad("%d bytes of piece hashes for %d pieces; want %d", len(in.hashes), want, want*HashSize)
	}
	return nil
}

func (in *Info) setSources(raw *rawTorrent) {
	if raw.Announce != "" {
		in.Announce = append(in.Announce, raw.Announce)
	}
	for _, tier := range raw.AnnounceList {
		in.Announce = append(in.Announce, tier...)
	}
	switch u := raw.URLList.(type) {
	case string:
		in.WebSeeds = []string{u}
	case []any:
		for _, v := range u {
			if s, ok := v.(string); ok {
				in.WebSeeds = append(in.WebSeeds, s)
			}
		}
	}
}

func checkElement(e string) error {
	switch {
	case e == "" || e == "." || e == "..":
		return errors.New("empty or a directory reference")
	case !utf8.ValidString(e):
		return errors.New("not UTF-8")
	case strings.ContainsAny(e, "/\\\x00"):
		return errors.New("has a separator or a NUL")
	}
	return nil
}
