package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"boxd/internal/asset"
)

// row is what the index knows about one asset. docs/on-disk.md describes its bytes.
type row struct {
	gen        uint32 // the row is believed only when the blob's name has the same
	length     int64
	pieceLen   int64
	alloc      int64 // bytes reserved, whole pieces or all
	torrentLen int64
	sparse     bool // the file system could not reserve
	created    time.Time
	lastUse    time.Time
	scrubbed   time.Time
	attr       Attr
	have       bitset
}

const rowVersion = 1

const (
	rowSparse   = 1 << 0
	rowBitsNone = 0
	rowBitsFull = 1
	rowBitsMap  = 2
)

const (
	maxText  = 1024
	maxBytes = 1 << 50
)

var errRow = errors.New("bad index row")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func rowSum(id asset.ID, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(id[:], castagnoli), castagnoli, b)
}

// pieces is how many pieces cover length bytes.
func pieces(length, pieceLen int64) int { return int((length + pieceLen - 1) / pieceLen) }

func toUnix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromUnix(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

func (r *row) encode(id asset.ID) []byte {
	b := make([]byte, 0, 128+len(r.attr.Name)+r.have.n/8)
	b = append(b, rowVersion)
	flags := byte(0)
	if r.sparse {
		flags |= rowSparse
	}
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint32(b, r.gen)
	for _, v := range []int64{
		r.length, r.pieceLen, r.alloc, r.torrentLen, toUnix(r.created), toUnix(r.lastUse), toUnix(r.scrubbed),
		int64(r.attr.Priority), toUnix(r.attr.Deadline), toUnix(r.attr.KeepUntil), r.attr.PrefixBytes,
	} {
		b = binary.AppendVarint(b, v)
	}
	for _, s := range []string{r.attr.Name, r.attr.Version, r.attr.Publisher} {
		s = s[:min(len(s), maxText)]
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	switch {
	case r.have.ones == 0:
		b = append(b, rowBitsNone)
	case r.have.full():
		b = append(b, rowBitsFull)
	default:
		b = append(b, rowBitsMap)
		b = append(b, r.have.bytes()...)
	}
	return binary.LittleEndian.AppendUint32(b, rowSum(id, b))
}

type rowReader struct {
	b   []byte
	bad bool
}

func (d *rowReader) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad = true
		return make([]byte, min(max(n, 0), 8))
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *rowReader) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *rowReader) text() string {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > maxText {
		d.bad = true
		return ""
	}
	d.b = d.b[n:]
	return string(d.take(int(v)))
}

func decodeRow(id asset.ID, raw []byte) (*row, error) {
	if len(raw) < 10 {
		return nil, fmt.Errorf("%w of %s: %d bytes", errRow, id.Short(), len(raw))
	}
	body := raw[:len(raw)-4]
	if binary.LittleEndian.Uint32(raw[len(body):]) != rowSum(id, body) {
		return nil, fmt.Errorf("%w of %s: checksum", errRow, id.Short())
	}
	if body[0] != rowVersion {
		return nil, fmt.Errorf("%w of %s: version %d", errRow, id.Short(), body[0])
	}
	d := &rowReader{b: body[2:]}
	r := &row{sparse: body[1]&rowSparse != 0}
	r.gen = binary.LittleEndian.Uint32(d.take(4))
	r.length, r.pieceLen, r.alloc, r.torrentLen = d.varint(), d.varint(), d.varint(), d.varint()
	r.created, r.lastUse, r.scrubbed = fromUnix(d.varint()), fromUnix(d.varint()), fromUnix(d.varint())
	r.attr.Priority = int(d.varint())
	r.attr.Deadline, r.attr.KeepUntil, r.attr.PrefixBytes = fromUnix(d.varint()), fromUnix(d.varint()), d.varint()
	r.attr.Name, r.attr.Version, r.attr.Publisher = d.text(), d.text(), d.text()
	if d.bad || !r.sane() {
		return nil, fmt.Errorf("%w of %s: fields", errRow, id.Short())
	}
	n := pieces(r.length, r.pieceLen)
	r.have = newBits(n)
	ok := true
	switch mode := d.take(1)[0]; mode {
	case rowBitsNone:
	case rowBitsFull:
		r.have.ones = n
	case rowBitsMap:
		r.have, ok = bitsOf(d.take((n+7)/8), n)
	default:
		ok = false
	}
	if d.bad || !ok || len(d.b) != 0 || r.have.next(pieces(r.alloc, r.pieceLen), true) < n {
		return nil, fmt.Errorf("%w of %s: pieces", errRow, id.Short())
	}
	return r, nil
}

func (r *row) sane() bool {
	return r.length > 0 && r.length <= maxBytes &&
		r.pieceLen >= asset.MinPieceLength && r.pieceLen <= asset.MaxPieceLength && r.pieceLen&(r.pieceLen-1) == 0 &&
		r.alloc >= 0 && r.alloc <= r.length &&
		(r.alloc == r.length || r.alloc%r.pieceLen == 0) &&
		r.torrentLen >= 0 && r.torrentLen <= asset.MaxTorrentBytes && r.attr.PrefixBytes >= 0 &&
		(r.length-1)/r.pieceLen < asset.MaxTorrentBytes/asset.HashSize
}
