package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

type osFS struct{}

// OS is the file system of the machine.
func OS() FS { return osFS{} }

type osFile struct{ *os.File }

func wrap(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Open(name string) (File, error)   { return wrap(os.Open(name)) }
func (osFS) OpenRW(name string) (File, error) { return wrap(os.OpenFile(name, os.O_RDWR, 0)) }

func (osFS) Create(name string, perm fs.FileMode) (File, error) {
	return wrap(os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm))
}

func (osFS) Rename(oldName, newName string) error         { return os.Rename(oldName, newName) }
func (osFS) Remove(name string) error                     { return os.Remove(name) }
func (osFS) MkdirAll(name string, perm fs.FileMode) error { return os.MkdirAll(name, perm) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error)   { return os.ReadDir(name) }
func (osFS) Stat(name string) (fs.FileInfo, error)        { return os.Stat(name) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		_ = d.Close() // the first error says more
		return err
	}
	return d.Close()
}

func (osFS) Free(name string) (avail, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(name, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: name, Err: err}
	}
	bsize := int64(st.Bsize) //nolint:unconvert // it has 32 bits on ARM
	//nolint:gosec // block counts of a real file system fit
	return int64(st.Bavail) * bsize, int64(st.Blocks) * bsize, nil
}

// OSFile is what a File of OS can give more: the os.File itself, for sendfile.
type OSFile interface{ OSFile() *os.File }

func (f osFile) OSFile() *os.File { return f.File }

func (f osFile) Sync() error {
	return f.control("fdatasync", unix.Fdatasync)
}

func (f osFile) Allocate(size int64) error {
	err := f.control("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", ErrNoAllocate, err)
	}
	return err
}

// Advice tells the kernel what will happen to a part of a file.
type Advice int

// What Advise knows.
const (
	Uncache   Advice = iota // drop clean pages, so that the next read comes from the disk
	WriteSoon               // begin to write dirty pages, so that a later Sync finds little to do
)

// Adviser is what a File of OS can do more.
type Adviser interface {
	Advise(a Advice, off, length int64)
}

// Advise is a hint: errors do not matter.
func (f osFile) Advise(a Advice, off, length int64) {
	_ = f.control("advise", func(fd int) error {
		if a == WriteSoon {
			return unix.SyncFileRange(fd, off, length, unix.SYNC_FILE_RANGE_WRITE)
		}
		return unix.Fadvise(fd, off, length, unix.FADV_DONTNEED)
	})
}

// Extents is what a File of OS can do more: say where data is.
type Extents interface {
	// NextData returns the first span at or after off that has data, as opposed to a hole or space that was
	// reserved and never written. begin == end means that there is none.
	NextData(off int64) (begin, end int64, err error)
}

func (f osFile) NextData(off int64) (begin, end int64, err error) {
	// The file offset is moved: callers read with ReadAt only.
	begin, err = f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return off, off, nil
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = f.Seek(begin, unix.SEEK_HOLE)
	return begin, end, err
}

// control runs a system call on the descriptor while it cannot be closed under it, again when it was interrupted.
func (f osFile) control(op string, call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return &fs.PathError{Op: op, Path: f.Name(), Err: err}
	}
	cerr := rc.Control(func(fd uintptr) {
		for {
			if err = call(int(fd)); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if err == nil {
		err = cerr
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return nil
}
