package durable

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sort"
	"sync"
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
