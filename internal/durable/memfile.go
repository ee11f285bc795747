package durable

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"syscall"
)

const memPage = 4096

// memNode is a file's content: what a program sees, and what the disk has.
type memNode struct {
	data    map[int64]*[memPage]byte // pages as programs see them; an absent page is zeros
	disk    map[int64]*[memPage]byte // pages as the disk has them
	dirty   map[int64]bool
	size    int64
	dsize   int64 // the size that the disk knows
	alloc   int64 // [0,alloc) is reserved
	links   int
	handles int
	mtime   int64
}

func (n *memNode) info(name string) memInfo {
	return memInfo{name: name, size: n.size, mode: 0o644, mtime: n.mtime}
}

func (n *memNode) allocated() int64 {
	total := (n.alloc + memPage - 1) / memPage
	for p := range n.data {
		if p*memPage >= n.alloc {
			total++
		}
	}
	return total * memPage
}

func (n *memNode) page(i int64) *[memPage]byte {
	if n.data == nil {
		n.data, n.dirty = map[int64]*[memPage]byte{}, map[int64]bool{}
	}
	p := n.data[i]
	if p == nil {
		p = new([memPage]byte)
		n.data[i] = p
	}
	return p
}

// newPages is how many pages outside what is reserved a write would need.
func (n *memNode) newPages(off int64, length int) int64 {
	var need int64
	for i := off / memPage; i*memPage < off+int64(length); i++ {
		if n.data[i] == nil && i*memPage >= n.alloc {
			need++
		}
	}
	return need
}

func (n *memNode) write(p []byte, off int64) {
	n.size = max(n.size, off+int64(len(p)))
	for len(p) > 0 {
		i, o := off/memPage, off%memPage
		pg := n.page(i)
		// The disk may still point at the old page: copy before the first change.
		if n.disk[i] == pg {
			c := *pg
			pg = &c
			n.data[i] = pg
		}
		k := copy(pg[o:], p)
		n.dirty[i] = true
		p, off = p[k:], off+int64(k)
	}
}

func (n *memNode) read(p []byte, off int64) {
	for len(p) > 0 {
		i, o := off/memPage, off%memPage
		k := int(min(memPage-o, int64(len(p))))
		if pg := n.data[i]; pg != nil {
			copy(p[:k], pg[o:])
		} else {
			clear(p[:k])
		}
		p, off = p[k:], off+int64(k)
	}
}

func (n *memNode) truncate(size int64) {
	for i := range n.data {
		if i*memPage >= size {
			delete(n.data, i)
			n.dirty[i] = true
		}
	}
	if o := size % memPage; o != 0 && n.data[size/memPage] != nil && size < n.size {
		n.write(make([]byte, memPage-o), size)
	}
	n.size, n.alloc = size, min(n.alloc, size)
}

// sync makes the disk hold what programs see; with lose, the dirty pages are forgotten instead, as after EIO.
func (n *memNode) sync(lose bool) {
	if !lose {
		if n.disk == nil {
			n.disk = map[int64]*[memPage]byte{}
		}
		for i := range n.dirty {
			if pg := n.data[i]; pg != nil {
				n.disk[i] = pg
			} else {
				delete(n.disk, i)
			}
		}
		n.dsize = n.size
	}
	clear(n.dirty)
}

func (n *memNode) afterCrash(rnd *rand.Rand) *memNode {
	c := &memNode{links: 1, mtime: n.mtime, dsize: n.dsize, alloc: n.alloc}
	c.data, c.disk, c.dirty = map[int64]*[memPage]byte{}, map[int64]*[memPage]byte{}, map[int64]bool{}
	for i, pg := range n.disk {
		c.disk[i] = pg
	}
	if rnd != nil {
		if rnd.IntN(2) == 0 {
			c.dsize = n.size
		}
		for i := int64(0); i*memPage < max(n.size, n.dsize); i++ {
			if n.dirty[i] && rnd.IntN(2) == 0 {
				if pg := n.data[i]; pg != nil {
					c.disk[i] = pg
				} else {
					delete(c.disk, i)
				}
			}
		}
	}
	c.size, c.alloc = c.dsize, min(c.alloc, c.dsize)
	for i, pg := range c.disk {
		if i*memPage < c.size {
			c.data[i] = pg
		}
	}
	return c
}

type memFile struct {
	m      *Mem
	n      *memNode
	name   string
	rw     bool
	closed bool // guarded by m.mu
}

func (f *memFile) Name() string { return f.name }

// begin must be called with m.mu held.
func (f *memFile) begin(op Op) error {
	op.Name = f.name
	if f.closed {
		return pathErr(op.Kind, f.name, fs.ErrClosed)
	}
	if err := f.m.check(op); err != nil {
		return pathErr(op.Kind, f.name, err)
	}
	if !f.rw && op.Mutates() {
		return pathErr(op.Kind, f.name, syscall.EBADF)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.begin(Op{Kind: OpRead, Off: off, Len: len(p)})
	limit, short := len(p), (*ShortError)(nil)
	if errors.As(err, &short) {
		limit = min(limit, short.N)
	} else if err != nil {
		return 0, err
	}
	if off >= f.n.size {
		return 0, io.EOF
	}
	k := int(min(int64(limit), f.n.size-off))
	f.n.read(p[:k], off)
	if err == nil && k < len(p) {
		err = io.EOF
	}
	return k, err
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.begin(Op{Kind: OpWrite, Off: off, Len: len(p)})
	short := (*ShortError)(nil)
	if errors.As(err, &short) {
		p = p[:min(len(p), short.N)]
	} else if err != nil {
		return 0, err
	}
	if f.n.newPages(off, len(p))*memPage > f.m.free() {
		return 0, pathErr(OpWrite, f.name, syscall.ENOSPC)
	}
	f.n.write(p, off)
	f.m.clock++
	f.n.mtime = f.m.clock
	return len(p), err
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.begin(Op{Kind: OpSync})
	if err != nil && (f.closed || f.m.crashed) {
		return err
	}
	if err != nil || f.m.lying == nil || !f.m.lying(f.name) {
		f.n.sync(err != nil)
	}
	return err
}

func (f *memFile) Allocate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.begin(Op{Kind: OpAllocate, Len: int(size)}); err != nil {
		return err
	}
	if f.m.noAlloc {
		return pathErr(OpAllocate, f.name, ErrNoAllocate)
	}
	free, before, old := f.m.free(), f.n.allocated(), f.n.alloc
	f.n.alloc = max(old, size)
	if f.n.allocated()-before > free {
		f.n.alloc = old
		return pathErr(OpAllocate, f.name, syscall.ENOSPC)
	}
	f.n.size = max(f.n.size, size)
	return nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.begin(Op{Kind: OpTruncate, Off: size}); err != nil {
		return err
	}
	f.n.truncate(size)
	return nil
}

func (f *memFile) Stat() (fs.FileInfo, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.begin(Op{Kind: OpStat}); err != nil {
		return nil, err
	}
	return f.n.info(f.name), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return pathErr("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	f.n.handles--
	return nil
}
