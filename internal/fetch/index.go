package fetch

import (
	"encoding/binary"
	"time"
)

// indexFor is how long the index of a film is wanted before its player has asked for it.
const indexFor = 5 * time.Second

// opened notes that the first piece of a place has come to which a player went. Where a film begins there, what its player
// reads next is known from it.
func (f *Fetcher) opened(it *item, r *originRun, mono time.Time) {
	p := &it.player
	p.place, p.wait = r.end, mono.Add(afterFirst)
	// The next film of a series may begin in the piece in which an index ends: nobody has asked for that.
	if index, ok := it.indexOf(r.first); ok && !r.index {
		p.index, p.indexEnds, p.wait, p.indexed = index, mono.Add(indexFor), mono, true
	}
	time.AfterFunc(afterFirst, f.wake)
}

// indexNeeds is what is missing of the index of a film whose beginning has just come: its player waits for that before all
// else.
func (it *item) indexNeeds() []Span {
	p := &it.player
	if p.index.End == 0 || time.Now().After(p.indexEnds) || p.index.End > it.reservedPieces() {
		return nil
	}
	for i := p.index.First; i < p.index.End; i++ {
		if !it.store.Have(i) {
			return []Span{{i, p.index.End, true, true}}
		}
	}
	p.index = Span{}
	return nil
}

// indexOf is where the index of the film is that begins in a verified piece; empty when that begins there, too. It is not
// known of films other than MP4 and its kin.
func (it *item) indexOf(piece int) (index Span, ok bool) {
	off, n := it.info.PieceSpan(piece)
	for _, file := range it.info.Files {
		if file.Length <= maxRun || file.Offset < off || file.Offset >= off+n {
			continue
		}
		from, ok := filmIndex(func(p []byte, at int64) bool {
			_, err := it.store.ReadVerifiedAt(p, file.Offset+at)
			return err == nil
		}, min(off+n-file.Offset, file.Length), file.Length)
		switch {
		case !ok:
			return Span{}, false
		case file.Offset+from < off+n:
			return Span{}, true
		}
		first, end := it.info.PiecesOf(file.Offset+from, min(file.Length-from, maxRun))
		return Span{First: first, End: end}, true
	}
	return Span{}, false
}

// filmIndex finds where the index of an ISO base media file begins (ISO 14496-12, section 4.2), or what follows the
// film itself, from what is here of its beginning.
func filmIndex(read func(p []byte, at int64) bool, here, length int64) (from int64, ok bool) {
	var head [16]byte
	const most = 64 // boxes before the film itself
	for at, boxes := int64(0), 0; at+int64(len(head)) <= here && boxes < most; boxes++ {
		if !read(head[:], at) {
			return 0, false
		}
		kind, size := string(head[4:8]), uint64(binary.BigEndian.Uint32(head[:4]))
		switch {
		case at == 0 && kind != "ftyp":
			return 0, false
		case kind == "moov":
			return at, true
		case size == 1:
			size = binary.BigEndian.Uint64(head[8:])
		}
		if size < 8 || size >= uint64(length-at) { // nothing follows it
			return 0, false
		}
		if at += int64(size); kind == "mdat" || at >= here { //nolint:gosec // less than a file
			return at, true
		}
	}
	return 0, false
}
