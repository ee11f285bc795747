// Package asset is the vocabulary that every other package shares about one thing to distribute: its identity, its
// files and its pieces, read from a standard v1 .torrent file (BEP 3) by a strict parser and written by Build.
//
// Invariants: an Info that this package returned is complete and consistent (lengths add up, every piece has a hash,
// every path is relative, clean and unique) and is never changed afterwards. ID is the v1 infohash, so two Infos
// with the same ID have the same bytes.
package asset

import (
	"encoding/hex"
	"fmt"
)

// HashSize is the length in bytes of a v1 infohash and of a piece hash (SHA-1, BEP 3).
const HashSize = 20

// ID names an asset: the SHA-1 of the bencoded info dictionary (BEP 3 "infohash").
type ID [HashSize]byte

// ParseID reads the 40 lower- or upper-case hexadecimal digits that String writes.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*HashSize {
		return id, fmt.Errorf("asset id %.60q: want 40 hexadecimal digits, have %d characters", s, len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("asset id %q: %w", s, err)
	}
	return id, nil
}

// String is the 40-digit lower-case hexadecimal form.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short is the first eight digits, for people.
func (id ID) Short() string { return id.String()[:8] }

// IsZero reports whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText makes an ID a JSON string and a JSON object key.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(b []byte) error {
	parsed, err := ParseID(string(b))
	if err == nil {
		*id = parsed
	}
	return err
}

// File is one file of an asset.
type File struct {
	Path   string // slash separated, relative, clean; a single-file torrent has its name here
	Length int64  // bytes
	Offset int64  // where the file begins in the asset, which is all its files one after another
}

// Info is what a .torrent file says about an asset.
type Info struct {
	ID          ID
	Name        string // BEP 3 "name": the single file's name, or the suggested directory
	PieceLength int64  // bytes of every piece but the last
	Length      int64  // bytes of all files
	Files       []File
	Private     bool     // BEP 27
	WebSeeds    []string // BEP 19 "url-list"
	Announce    []string // BEP 3 "announce" and BEP 12 "announce-list", flattened
	hashes      []byte   // HashSize bytes for each piece
}

// NumPieces is the number of pieces.
func (in *Info) NumPieces() int { return len(in.hashes) / HashSize }

// PieceHash is the SHA-1 that piece i must have.
func (in *Info) PieceHash(i int) [HashSize]byte {
	return [HashSize]byte(in.hashes[i*HashSize : (i+1)*HashSize])
}

// PieceSpan returns where piece i begins in the asset and how long it is, in bytes.
func (in *Info) PieceSpan(i int) (off, length int64) {
	off = int64(i) * in.PieceLength
	return off, min(in.PieceLength, in.Length-off)
}

// PiecesOf returns the first piece that holds a byte of [off, off+length) and the first piece after the last one.
// An empty span has no pieces: begin == end.
func (in *Info) PiecesOf(off, length int64) (begin, end int) {
	begin = int(off / in.PieceLength)
	if length <= 0 {
		return begin, begin
	}
	return begin, int((off+length-1)/in.PieceLength) + 1
}

// File finds a file by its path.
func (in *Info) File(path string) (File, bool) {
	for _, f := range in.Files {
		if f.Path == path {
			return f, true
		}
	}
	return File{}, false
}
