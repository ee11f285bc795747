// Package durable is the few file operations that survive a power cut, over a file system that tests can crash.
//
// Invariants: WriteFile leaves either the old content or the whole new content under a name, whenever the power goes;
// when it returned nil the new content stays. RemoveFile that returned nil stays removed. Sync that failed means that
// any byte written since the last good Sync may be gone, even if it still reads back from memory.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// ErrNoAllocate is what File.Allocate returns when the file system cannot reserve space ahead of writing. The caller
// then sets the size with Truncate and keeps account of the space itself.
var ErrNoAllocate = errors.New("the file system cannot preallocate")

// ErrTooLarge is what ReadFile returns for a file above the caller's limit.
var ErrTooLarge = errors.New("file is larger than allowed")

// FS is a file system. Names are paths in the form of the operating system. Its methods may be called from any
// goroutine. Errors wrap the usual fs.ErrNotExist, syscall.ENOSPC and so on.
type FS interface {
	Open(name string) (File, error)                     // for reading
	OpenRW(name string) (File, error)                   // for reading and writing; must exist
	Create(name string, perm fs.FileMode) (File, error) // O_CREATE|O_TRUNC|O_RDWR; durable after SyncDir
	Rename(oldName, newName string) error               // atomic; durable after SyncDir
	Remove(name string) error                           // durable after SyncDir
	MkdirAll(name string, perm fs.FileMode) error       // durable after SyncDir of the parents
	ReadDir(name string) ([]fs.DirEntry, error)         // sorted by name
	Stat(name string) (fs.FileInfo, error)              //
	SyncDir(name string) error                          // fsync of the directory itself
	Free(name string) (avail, total int64, err error)   // bytes that an unprivileged program may use; size
}

// File is an open file. Its methods may be called from any goroutine, as those of os.File.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error               // fdatasync: the data, and the size when it changed
	Allocate(size int64) error // reserves disk blocks for [0,size) and makes the file at least that long; ErrNoAllocate
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Name() string
}

// WriteFile replaces the content of a file: temporary file beside it, preallocated (so that a full disk is found out
// before the old content is touched), written, its length checked, synced, closed, renamed, directory synced.
func WriteFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	tmp := name + TempSuffix
	if err := writeTemp(fsys, tmp, data, perm); err != nil {
		_ = fsys.Remove(tmp) // best effort: leftovers are recognised by their suffix
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := fsys.Rename(tmp, name); err != nil {
		_ = fsys.Remove(tmp)
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("write %s: sync the directory: %w", name, err)
	}
	return nil
}

// TempSuffix ends the name of a file that WriteFile had not finished; whoever finds one may remove it.
const TempSuffix = ".tmp~"

func writeTemp(fsys FS, tmp string, data []byte, perm fs.FileMode) (err error) {
	f, err := fsys.Create(tmp, perm)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if len(data) > 0 {
		if err := f.Allocate(int64(len(data))); err != nil && !errors.Is(err, ErrNoAllocate) {
			return fmt.Errorf("allocate %d bytes: %w", len(data), err)
		}
		if n, err := f.WriteAt(data, 0); err != nil {
			return err
		} else if n != len(data) {
			return fmt.Errorf("%d of %d bytes: %w", n, len(data), io.ErrShortWrite)
		}
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != int64(len(data)) {
		return fmt.Errorf("length is %d after writing %d bytes: %w", fi.Size(), len(data), io.ErrShortWrite)
	}
	return f.Sync()
}

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing to lose
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := fi.Size()
	if size > limit {
		return nil, fmt.Errorf("read %s: %d bytes, limit %d: %w", name, size, limit, ErrTooLarge)
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		return b, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("read %s: %w", name, err)
}

// RemoveFile removes a file for good. A file that is not there is no error.
func RemoveFile(fsys FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("remove %s: sync the directory: %w", name, err)
	}
	return nil
}
