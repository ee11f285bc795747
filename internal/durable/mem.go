package durable

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Kind names an operation of Mem.
type Kind string

// The operations that a fault can hit.
const (
	OpOpen     Kind = "open"
	OpCreate   Kind = "create"
	OpRename   Kind = "rename"
	OpRemove   Kind = "remove"
	OpMkdir    Kind = "mkdir"
	OpReadDir  Kind = "readdir"
	OpStat     Kind = "stat"
	OpSyncDir  Kind = "syncdir"
	OpFree     Kind = "free"
	OpRead     Kind = "read"
	OpWrite    Kind = "write"
	OpSync     Kind = "sync"
	OpAllocate Kind = "allocate"
	OpTruncate Kind = "truncate"
)

// Op is one operation that Mem is about to do.
type Op struct {
	Kind Kind
	Name string
	Off  int64
	Len  int
}

// Mutates says whether the operation changes or secures anything on the disk.
func (o Op) Mutates() bool {
	switch o.Kind {
	case OpOpen, OpReadDir, OpStat, OpFree, OpRead:
		return false
	default:
		return true
	}
}

// ShortError is a fault of a write or a read that does the first N bytes and then fails with Err.
type ShortError struct {
	N   int
	Err error
}

func (e *ShortError) Error() string { return "short: " + e.Err.Error() }
func (e *ShortError) Unwrap() error { return e.Err }

// ErrCrashed is what everything returns after the power went.
var ErrCrashed = errors.New("the power is out")

// Mem is a file system in memory that remembers what was synced, can lose the rest, can be full and can fail.
// A failed Sync behaves as Linux does: the dirty pages count as clean and what they held is lost at the next crash.
type Mem struct {
	mu       sync.Mutex // guards everything below and all nodes
	files    map[string]*memNode
	dirs     map[string]bool
	durable  map[string]*memNode // what the directories say after a crash
	ddirs    map[string]bool
	pending  []dirOp
	capacity int64
	others   int64 // bytes that other programs hold
	fault    func(Op) error
	crashed  bool
	noAlloc  bool
	lying    func(name string) bool
	clock    int64
}

type dirOp struct {
	dir      string
	from, to string // rename; from == "" for create, to == "" for remove
	node     *memNode
}

// NewMem returns an empty file system of the given capacity in bytes; 0 means 1 TiB.
func NewMem(capacity int64) *Mem {
	if capacity == 0 {
		capacity = 1 << 40
	}
	return &Mem{
		files: map[string]*memNode{}, dirs: map[string]bool{"/": true, ".": true}, durable: map[string]*memNode{},
		ddirs: map[string]bool{"/": true, ".": true}, capacity: capacity,
	}
}

// SetFault sets what is asked before every operation; an error that it returns is what the operation returns.
// A Sync that fails so loses what it should have secured. nil ends the faults.
func (m *Mem) SetFault(f func(Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// SetOthers says how many bytes other programs hold on the disk.
func (m *Mem) SetOthers(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.others = n
}

// SetNoAllocate makes Allocate return ErrNoAllocate, as FAT does.
func (m *Mem) SetNoAllocate(v bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noAlloc = v
}

// SetLying makes Sync of the files for which f is true return nil without securing anything, as a cheap disk does: for
// negative controls.
func (m *Mem) SetLying(f func(name string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lying = f
}

// PowerOff makes every later operation, also of open files, fail with ErrCrashed.
func (m *Mem) PowerOff() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = true
}

// Crash returns the file system as it may be after a power cut now. What was synced is there. What was not: nothing
// of it when rnd is nil, else a random choice of pages, of sizes and of directory changes (in their order).
// The old one is dead afterwards.
func (m *Mem) Crash(rnd *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = true
	n := NewMem(m.capacity)
	n.others, n.noAlloc, n.clock = m.others, m.noAlloc, m.clock
	names := make(map[string]*memNode, len(m.durable))
	for k, v := range m.durable {
		names[k] = v
	}
	for d := range m.ddirs {
		n.dirs[d], n.ddirs[d] = true, true
	}
	if rnd != nil {
		for _, op := range m.pending {
			if rnd.IntN(2) == 0 {
				applyDirOp(names, n.dirs, op)
			}
		}
	}
	dropUnreachable(names, n.dirs)
	n.ddirs = maps.Clone(n.dirs)
	copies := map[*memNode]*memNode{}
	sorted := make([]string, 0, len(names))
	for k := range names {
		sorted = append(sorted, k)
	}
	sort.Strings(sorted) // so that a seed always gives the same crash
	for _, k := range sorted {
		c, ok := copies[names[k]]
		if !ok {
			c = names[k].afterCrash(rnd)
			copies[names[k]] = c
		}
		n.files[k], n.durable[k] = c, c
	}
	return n
}

// dropUnreachable removes what lies below a directory that did not survive.
func dropUnreachable(names map[string]*memNode, dirs map[string]bool) {
	reachable := func(d string) bool {
		for dirs[d] && d != filepath.Dir(d) {
			d = filepath.Dir(d)
		}
		return dirs[d]
	}
	for d := range dirs {
		if !reachable(d) {
			delete(dirs, d)
		}
	}
	for name := range names {
		if !reachable(filepath.Dir(name)) {
			delete(names, name)
		}
	}
}

func applyDirOp(names map[string]*memNode, dirs map[string]bool, op dirOp) {
	switch {
	case op.node == nil && op.to != "":
		dirs[op.to] = true
	case op.to == "":
		delete(names, op.from)
	default:
		if op.from != "" {
			delete(names, op.from)
		}
		names[op.to] = op.node
	}
}

// check must be called with mu held, first thing in every operation.
func (m *Mem) check(op Op) error {
	if m.crashed {
		return ErrCrashed
	}
	if m.fault == nil {
		return nil
	}
	f := m.fault
	m.mu.Unlock() // the fault may look at the file system
	err := f(op)
	m.mu.Lock()
	if m.crashed {
		return ErrCrashed
	}
	return err
}

func pathErr(op Kind, name string, err error) error {
	return &fs.PathError{Op: string(op), Path: name, Err: err}
}

// Open opens a file for reading.
func (m *Mem) Open(name string) (File, error) { return m.open(name, false) }

// OpenRW opens a file for reading and writing.
func (m *Mem) OpenRW(name string) (File, error) { return m.open(name, true) }

func (m *Mem) open(name string, rw bool) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpOpen, Name: name}); err != nil {
		return nil, pathErr(OpOpen, name, err)
	}
	n := m.files[name]
	if n == nil {
		return nil, pathErr(OpOpen, name, fs.ErrNotExist)
	}
	n.handles++
	return &memFile{m: m, n: n, name: name, rw: rw}, nil
}

// Create makes an empty file or empties an old one.
func (m *Mem) Create(name string, _ fs.FileMode) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpCreate, Name: name}); err != nil {
		return nil, pathErr(OpCreate, name, err)
	}
	if !m.dirs[filepath.Dir(name)] {
		return nil, pathErr(OpCreate, name, fs.ErrNotExist)
	}
	n := m.files[name]
	if n == nil {
		n = &memNode{links: 1}
		m.files[name] = n
		m.pending = append(m.pending, dirOp{dir: filepath.Dir(name), to: name, node: n})
	} else {
		n.truncate(0)
	}
	n.handles++
	m.clock++
	n.mtime = m.clock
	return &memFile{m: m, n: n, name: name, rw: true}, nil
}

// Rename gives a file another name, replacing what has it.
func (m *Mem) Rename(oldName, newName string) error {
	oldName, newName = filepath.Clean(oldName), filepath.Clean(newName)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpRename, Name: oldName}); err != nil {
		return pathErr(OpRename, oldName, err)
	}
	n := m.files[oldName]
	if n == nil || !m.dirs[filepath.Dir(newName)] {
		return pathErr(OpRename, oldName, fs.ErrNotExist)
	}
	if old := m.files[newName]; old != nil && old != n {
		old.links--
	}
	delete(m.files, oldName)
	m.files[newName] = n
	m.pending = append(m.pending, dirOp{dir: filepath.Dir(newName), from: oldName, to: newName, node: n})
	return nil
}

// Remove removes a file.
func (m *Mem) Remove(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpRemove, Name: name}); err != nil {
		return pathErr(OpRemove, name, err)
	}
	n := m.files[name]
	if n == nil {
		return pathErr(OpRemove, name, fs.ErrNotExist)
	}
	n.links--
	delete(m.files, name)
	m.pending = append(m.pending, dirOp{dir: filepath.Dir(name), from: name, node: n})
	return nil
}

// MkdirAll makes a directory and its parents.
func (m *Mem) MkdirAll(name string, _ fs.FileMode) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpMkdir, Name: name}); err != nil {
		return pathErr(OpMkdir, name, err)
	}
	var missing []string
	for d := name; !m.dirs[d]; d = filepath.Dir(d) {
		if m.files[d] != nil {
			return pathErr(OpMkdir, d, syscall.ENOTDIR)
		}
		missing = append(missing, d)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		m.dirs[missing[i]] = true
		m.pending = append(m.pending, dirOp{dir: filepath.Dir(missing[i]), to: missing[i]})
	}
	return nil
}

// ReadDir lists a directory, sorted.
func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpReadDir, Name: name}); err != nil {
		return nil, pathErr(OpReadDir, name, err)
	}
	if !m.dirs[name] {
		return nil, pathErr(OpReadDir, name, fs.ErrNotExist)
	}
	var list []fs.DirEntry
	for k, n := range m.files {
		if filepath.Dir(k) == name {
			list = append(list, fs.FileInfoToDirEntry(n.info(filepath.Base(k))))
		}
	}
	for d := range m.dirs {
		if d != name && filepath.Dir(d) == name {
			list = append(list, fs.FileInfoToDirEntry(memInfo{name: filepath.Base(d), mode: fs.ModeDir | 0o755}))
		}
	}
	sort.Slice(list, func(i, j int) bool { return strings.Compare(list[i].Name(), list[j].Name()) < 0 })
	return list, nil
}

// Stat describes a file or a directory.
func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpStat, Name: name}); err != nil {
		return nil, pathErr(OpStat, name, err)
	}
	if n := m.files[name]; n != nil {
		return n.info(filepath.Base(name)), nil
	}
	if m.dirs[name] {
		return memInfo{name: filepath.Base(name), mode: fs.ModeDir | 0o755}, nil
	}
	return nil, pathErr(OpStat, name, fs.ErrNotExist)
}

// SyncDir makes the changes of names in a directory durable.
func (m *Mem) SyncDir(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpSyncDir, Name: name}); err != nil {
		return pathErr(OpSyncDir, name, err)
	}
	if !m.dirs[name] {
		return pathErr(OpSyncDir, name, fs.ErrNotExist)
	}
	var rest []dirOp
	for _, op := range m.pending {
		if op.dir == name {
			applyDirOp(m.durable, m.ddirs, op)
		} else {
			rest = append(rest, op)
		}
	}
	m.pending = rest
	return nil
}

// Free says how many bytes are left.
func (m *Mem) Free(name string) (avail, total int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(Op{Kind: OpFree, Name: name}); err != nil {
		return 0, 0, pathErr(OpFree, name, err)
	}
	return m.free(), m.capacity, nil
}

// free must be called with mu held.
func (m *Mem) free() int64 {
	used := m.others
	seen := map[*memNode]bool{}
	for _, n := range m.files {
		if !seen[n] {
			seen[n] = true
			used += n.allocated()
		}
	}
	return max(0, m.capacity-used)
}

type memInfo struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime int64
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) Mode() fs.FileMode  { return i.mode }
func (i memInfo) ModTime() time.Time { return time.Unix(i.mtime, 0) }
func (i memInfo) IsDir() bool        { return i.mode.IsDir() }
func (i memInfo) Sys() any           { return nil }
