package state

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// badSector is a file of which some bytes cannot be read.
type badSector struct {
	io.ReaderAt
	at  int64
	err error
}

func (b badSector) ReadAt(p []byte, off int64) (int, error) {
	if off <= b.at && b.at < off+int64(len(p)) {
		return 0, &fs.PathError{Op: "read", Path: "state.db", Err: b.err}
	}
	return b.ReaderAt.ReadAt(p, off)
}

// What the storage does not give back is damage, which the backup mends; asking again would not. Other errors are none.
func TestBadSectorIsDamage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err := db.Put("b", []byte(strconv.Itoa(i)), make([]byte, 300)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(string, []byte, []byte) {}
	bad := map[error]int{}
	for _, tc := range []struct {
		cause  error
		damage bool
	}{{syscall.EIO, true}, {syscall.EUCLEAN, true}, {syscall.EACCES, false}} {
		for at := int64(20); at < int64(len(data)); at += int64(os.Getpagesize()) {
			_, _, err := Walk(badSector{bytes.NewReader(data), at, tc.cause}, int64(len(data)), false, nothing)
			if err == nil || at < 2*int64(os.Getpagesize()) {
				continue // a page that nothing uses, or one of the two that stand for each other
			}
			bad[tc.cause]++
			if damaged := errors.Is(err, ErrDamaged); damaged != tc.damage {
				t.Errorf("%v at %d: %v", tc.cause, at, err)
			}
		}
	}
	if bad[syscall.EIO] == 0 || bad[syscall.EIO] != bad[syscall.EUCLEAN] || bad[syscall.EIO] != bad[syscall.EACCES] {
		t.Errorf("pages that are needed: %v", bad)
	}
}
