package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"syscall"
)

// The file format of bbolt (version 2), read without mapping the file and without trusting a byte of it. bbolt itself
// panics, in a goroutine of its own, when it opens a file whose tree is damaged; so every file is walked first.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	pageHeader     = 16
	elemSize       = 16
	flagBranch     = 0x01
	flagLeaf       = 0x02
	flagMeta       = 0x04
	flagFreelist   = 0x10
	leafBucket     = 0x01
	bucketHeader   = 16
	noFreelist     = ^uint64(0)
	maxDepth       = 24
	maxPageBytes   = 64 << 20 // a page with its overflow
	metaSize       = 64
	minPageSize    = 512
	maxBoltPageLen = 64 << 10
)

var le = binary.LittleEndian

type meta struct {
	pageSize             uint32
	root, freelist, pgid uint64
	txid                 uint64
}

// walker reads one bbolt file.
type walker struct {
	r       io.ReaderAt
	m       meta
	salvage bool // go on after damage, and tell of what is still whole
	damage  error
	seen    map[uint64]bool
	emit    func(bucket string, key, val []byte)
	pages   uint64 // reachable, with overflow
}

// Walk checks the structure of a bbolt file: meta pages, tree, key order, free list. It tells emit of every pair in a
// top-level bucket; the slices are valid during the call. With salvage it goes on after damage and tells of all that
// can still be reached, once; the error is then the first damage. Any error wraps ErrDamaged or is the reader's own.
//
// live is the bytes of pages that are in use, total the size of the file.
func Walk(
	r io.ReaderAt, size int64, salvage bool, emit func(bucket string, key, val []byte),
) (live, total int64, err error) {
	w := &walker{r: r, salvage: salvage, emit: emit, seen: map[uint64]bool{}}
	if w.m, err = readMeta(r, size); err != nil {
		return 0, 0, err
	}
	if w.m.pgid > uint64(size)/uint64(w.m.pageSize) {
		if err := w.bad("high water mark %d beyond the file of %d bytes", w.m.pgid, size); err != nil {
			return 0, 0, err
		}
		w.m.pgid = uint64(size) / uint64(w.m.pageSize)
	}
	if err := w.tree(w.m.root, 0, nil, nil, w.bucketOrPair("")); err != nil {
		return 0, 0, err
	}
	if err := w.checkFreelist(); err != nil {
		return 0, 0, err
	}
	return int64(w.pages) * int64(w.m.pageSize), size, w.damage
}

func (w *walker) bad(format string, args ...any) error {
	err := fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
	if !w.salvage {
		return err
	}
	if w.damage == nil {
		w.damage = err
	}
	return nil
}

func readMeta(r io.ReaderAt, size int64) (meta, error) {
	var best meta
	found := false
	try := func(off int64) {
		b := make([]byte, metaSize)
		if off+pageHeader+metaSize > size {
			return
		}
		if _, err := r.ReadAt(b, off+pageHeader); err != nil {
			return
		}
		m, ok := parseMeta(b)
		if ok && (!found || m.txid > best.txid) {
			best, found = m, true
		}
	}
	try(0)
	for ps := int64(minPageSize); ps <= maxBoltPageLen; ps *= 2 {
		if !found || ps == int64(best.pageSize) {
			try(ps)
		}
	}
	if !found {
		return meta{}, fmt.Errorf("%w: no valid meta page in %d bytes", ErrDamaged, size)
	}
	return best, nil
}

func parseMeta(b []byte) (meta, bool) {
	h := fnv.New64a()
	_, _ = h.Write(b[:56]) // never fails
	m := meta{
		pageSize: le.Uint32(b[8:]), root: le.Uint64(b[16:]), freelist: le.Uint64(b[32:]), pgid: le.Uint64(b[40:]),
		txid: le.Uint64(b[48:]),
	}
	ok := le.Uint32(b) == boltMagic && le.Uint32(b[4:]) == boltVersion && le.Uint64(b[56:]) == h.Sum64() &&
		m.pageSize >= minPageSize && m.pageSize <= maxBoltPageLen && m.pageSize&(m.pageSize-1) == 0
	return m, ok
}

// page reads a page with its overflow. A nil slice without an error means damage that salvage goes around.
func (w *walker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= w.m.pgid {
		return nil, w.bad("page %d is out of bounds (2 to %d)", id, w.m.pgid)
	}
	if w.seen[id] {
		return nil, w.bad("page %d is reached twice", id)
	}
	ps := uint64(w.m.pageSize)
	head := make([]byte, pageHeader)
	if _, err := w.r.ReadAt(head, int64(id*ps)); err != nil {
		return nil, w.readErr(id, err)
	}
	n := uint64(le.Uint32(head[12:])) + 1
	if le.Uint64(head) != id || n > w.m.pgid-id || n*ps > maxPageBytes {
		return nil, w.bad("page %d: header says page %d with %d pages", id, le.Uint64(head), n)
	}
	for i := id; i < id+n; i++ {
		if w.seen[i] {
			return nil, w.bad("page %d is used twice", i)
		}
	}
	for i := id; i < id+n; i++ {
		w.seen[i] = true
	}
	w.pages += n
	b := make([]byte, n*ps)
	if _, err := w.r.ReadAt(b, int64(id*ps)); err != nil {
		return nil, w.readErr(id, err)
	}
	return b, nil
}

func (w *walker) readErr(id uint64, err error) error {
	if errors.Is(err, io.EOF) {
		return w.bad("page %d is beyond the end", id)
	}
	if w.salvage || unreadable(err) {
		return w.bad("page %d: %v", id, err)
	}
	return fmt.Errorf("read page %d: %w", id, err)
}

// unreadable says that the storage does not give the bytes back: asking again will not help.
func unreadable(err error) bool {
	for _, e := range []error{syscall.EIO, syscall.EUCLEAN, syscall.EBADMSG, syscall.ENODATA, syscall.EILSEQ} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

type leafFunc func(flags uint32, key, val []byte, depth int) error

// tree walks a subtree; every key must be in [lo, hi).
func (w *walker) tree(id uint64, depth int, lo, hi []byte, leaf leafFunc) error {
	if depth > maxDepth {
		return w.bad("deeper than %d pages", maxDepth)
	}
	b, err := w.page(id)
	if b == nil {
		return err
	}
	switch le.Uint16(b[8:]) {
	case flagLeaf:
		return w.leafPage(id, b, depth, lo, hi, leaf)
	case flagBranch:
		return w.branchPage(id, b, depth, lo, hi, leaf)
	default:
		return w.bad("page %d: flags %#x inside the tree", id, le.Uint16(b[8:]))
	}
}

// slice is b[off:off+n] when it lies after the elements and inside the page.
func slice(b []byte, off, n uint64, count int) ([]byte, bool) {
	if off < uint64(pageHeader+count*elemSize) || n > uint64(len(b)) || off > uint64(len(b))-n {
		return nil, false
	}
	return b[off : off+n : off+n], true
}

func (w *walker) branchPage(id uint64, b []byte, depth int, lo, hi []byte, leaf leafFunc) error {
	count := int(le.Uint16(b[10:]))
	if count == 0 || pageHeader+count*elemSize > len(b) {
		return w.bad("branch page %d: %d elements", id, count)
	}
	type child struct {
		key []byte
		id  uint64
	}
	var children []child
	for i := range count {
		e := pageHeader + i*elemSize
		key, ok := slice(b, uint64(e)+uint64(le.Uint32(b[e:])), uint64(le.Uint32(b[e+4:])), count)
		if !ok || !inOrder(key, lo, hi, i == 0) {
			if err := w.bad("branch page %d: key %d", id, i); err != nil {
				return err
			}
			continue
		}
		lo = key
		children = append(children, child{key, le.Uint64(b[e+8:])})
	}
	for i, c := range children {
		end := hi
		if i+1 < len(children) {
			end = children[i+1].key
		}
		if err := w.tree(c.id, depth+1, c.key, end, leaf); err != nil {
			return err
		}
	}
	return nil
}

// inOrder: the first key of a page may equal the one that its parent has for it; later ones must grow.
func inOrder(key, lo, hi []byte, first bool) bool {
	if lo != nil {
		if c := bytes.Compare(key, lo); c < 0 || c == 0 && !first {
			return false
		}
	}
	return hi == nil || bytes.Compare(key, hi) < 0
}

func (w *walker) leafPage(id uint64, b []byte, depth int, lo, hi []byte, leaf leafFunc) error {
	count := int(le.Uint16(b[10:]))
	if pageHeader+count*elemSize > len(b) {
		return w.bad("leaf page %d: %d elements", id, count)
	}
	for i := range count {
		e := pageHeader + i*elemSize
		flags, pos := le.Uint32(b[e:]), uint64(e)+uint64(le.Uint32(b[e+4:]))
		klen, vlen := uint64(le.Uint32(b[e+8:])), uint64(le.Uint32(b[e+12:]))
		key, ok := slice(b, pos, klen, count)
		val, vok := slice(b, pos+klen, vlen, count)
		if !ok || !vok || !inOrder(key, lo, hi, i == 0) {
			if err := w.bad("leaf page %d: element %d", id, i); err != nil {
				return err
			}
			continue
		}
		lo = key
		if err := leaf(flags, key, val, depth); err != nil {
			return err
		}
	}
	return nil
}

// bucketOrPair handles what a leaf holds: a bucket within the root, a pair within a bucket.
func (w *walker) bucketOrPair(bucket string) leafFunc {
	return func(flags uint32, key, val []byte, depth int) error {
		switch {
		case flags == leafBucket && bucket == "":
			return w.bucket(string(key), val, depth)
		case flags == leafBucket:
			return w.bad("bucket %q has a bucket in it", bucket)
		case flags != 0:
			return w.bad("element flags %#x", flags)
		case bucket == "":
			return w.bad("pair outside of any bucket")
		}
		if w.emit != nil {
			w.emit(bucket, key, val)
		}
		return nil
	}
}

func (w *walker) bucket(name string, val []byte, depth int) error {
	if len(val) < bucketHeader || name == "" {
		return w.bad("bucket %q: header of %d bytes", name, len(val))
	}
	if root := le.Uint64(val); root != 0 {
		return w.tree(root, depth+1, nil, nil, w.bucketOrPair(name))
	}
	inline := val[bucketHeader:]
	if len(inline) < pageHeader || le.Uint16(inline[8:]) != flagLeaf {
		return w.bad("bucket %q: inline page", name)
	}
	return w.leafPage(0, inline, depth, nil, nil, w.bucketOrPair(name))
}

func (w *walker) checkFreelist() error {
	if w.m.freelist == noFreelist {
		return nil
	}
	b, err := w.page(w.m.freelist)
	if b == nil {
		return err
	}
	n, at := uint64(le.Uint16(b[10:])), pageHeader
	if n == 0xFFFF {
		n, at = le.Uint64(b[at:]), at+8
	}
	if le.Uint16(b[8:]) != flagFreelist || n > uint64(len(b)-at)/8 {
		return w.bad("free list page %d: %d entries", w.m.freelist, n)
	}
	for ; n > 0; n, at = n-1, at+8 {
		if id := le.Uint64(b[at:]); id < 2 || id >= w.m.pgid || w.seen[id] {
			return w.bad("free list has page %d", id)
		}
	}
	return nil
}
