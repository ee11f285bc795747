package durable

import (
	"io/fs"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
)

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
