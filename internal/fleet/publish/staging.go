package publish

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"boxd/internal/asset"
)

// stagingPrefix begins the names of unfinished copies; the origin does not serve them.
const stagingPrefix = ".staging-"

// staging is the origin's copy in the making.
type staging struct {
	origin, dir string
	dirs        map[string]bool // made below dir, to be synced
}

func newStaging(origin string) (*staging, error) {
	if err := os.MkdirAll(origin, 0o755); err != nil { //nolint:gosec // public files
		return nil, err
	}
	dir, err := os.MkdirTemp(origin, stagingPrefix+stamp()+"-")
	if err != nil {
		return nil, err
	}
	return &staging{origin: origin, dir: dir, dirs: map[string]bool{dir: true}}, os.Chmod(dir, 0o755) //nolint:gosec // public
}

// discard removes what commit has not moved away.
func (s *staging) discard() { _ = os.RemoveAll(s.dir) } // a leftover is removed by CleanStaging

// tee opens a file so that reading it copies it to the staging directory. Close fails unless all of it was copied durably
// and it is still the file that scan saw.
func (s *staging) tee(f file, to string) (io.ReadCloser, error) {
	in, err := f.src.open(f.full)
	if err != nil {
		return nil, err
	}
	dst := filepath.Join(s.dir, to)
	for d := filepath.Dir(dst); d != s.dir; d = filepath.Dir(d) {
		s.dirs[d] = true
	}
	err = os.MkdirAll(filepath.Dir(dst), 0o755) //nolint:gosec // public files
	var out *os.File
	if err == nil {
		out, err = os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // public files
	}
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return &teeFile{f: f, in: in, out: out, to: &Roomy{Writer: out, Dir: s.origin}}, nil
}

type teeFile struct {
	f       file
	in, out *os.File
	to      io.Writer // out
}

func (t *teeFile) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	if n > 0 {
		if _, werr := t.to.Write(p[:n]); werr != nil {
			return 0, fmt.Errorf("copy to the origin: %w", werr)
		}
	}
	return n, err
}

func (t *teeFile) Close() error {
	now, err := t.in.Stat()
	if err == nil && (now.Size() != t.f.info.Size() || !now.ModTime().Equal(t.f.info.ModTime()) ||
		!os.SameFile(now, t.f.info)) {
		err = ErrChanged
	}
	return errors.Join(err, t.in.Close(), t.out.Sync(), t.out.Close())
}

// commit gives the copy its place. An asset that is published again keeps the copy that is there.
func (s *staging) commit(id asset.ID) (dir string, fresh bool, err error) {
	for d := range s.dirs {
		if err := syncDir(d); err != nil {
			return "", false, err
		}
	}
	final := filepath.Join(s.origin, id.String())
	if _, err := os.Stat(final); err == nil {
		return final, false, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", false, err
	}
	if err := os.Rename(s.dir, final); errors.Is(err, fs.ErrExist) { // the same bytes were published at the same time
		return final, false, nil
	} else if err != nil {
		return "", false, fmt.Errorf("place the origin's copy: %w", err)
	}
	return final, true, syncDir(s.origin)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// CleanStaging removes copies that a crash left unfinished, if nothing in them was touched since before. A zero time takes
// all of them: then call it while nothing is being published.
func CleanStaging(originDir string, before time.Time) error {
	return RemoveUntouched(originDir, stagingPrefix, before)
}

// RemoveUntouched removes what in dir begins with prefix and was not touched since before; all of it when before is zero.
func RemoveUntouched(dir, prefix string, before time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var faults []error
	for _, e := range entries {
		full := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), prefix) && (before.IsZero() || !touchedSince(full, before)) {
			faults = append(faults, os.RemoveAll(full))
		}
	}
	return errors.Join(faults...)
}

// touchedSince reports whether something in a tree is newer, or cannot be looked at.
func touchedSince(root string, since time.Time) bool {
	return filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !info.ModTime().Before(since) {
			return errTouched
		}
		return err
	}) != nil
}

var errTouched = errors.New("touched")

// Remove deletes the origin's copy of an asset; one that is not there is no fault.
func Remove(originDir string, id asset.ID) error {
	dir := filepath.Join(originDir, id.String())
	gone := filepath.Join(originDir, stagingPrefix+stamp()+"-removed-"+id.String())
	if err := os.Rename(dir, gone); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return errors.Join(syncDir(originDir), os.RemoveAll(gone))
}
