package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"boxd/internal/asset"
)

// source is where files are read from: the whole file system, or one directory that symbolic links do not lead out of.
type source struct {
	root   *os.Root // nil: the whole file system
	dir    string   // root's
	forbid string   // a directory whose files are not read; "" for none
}

func openSource(opt Options) (*source, error) {
	s := &source{}
	var err error
	if opt.Forbid != "" {
		if s.forbid, err = filepath.EvalSymlinks(opt.Forbid); err != nil {
			return nil, err
		}
	}
	if opt.Root != "" {
		if s.dir, err = filepath.Abs(opt.Root); err == nil {
			s.root, err = os.OpenRoot(s.dir)
		}
	}
	return s, err
}

func (s *source) close() {
	if s.root != nil {
		_ = s.root.Close() // nothing was written
	}
}

// within makes a path relative to the root.
func (s *source) within(full string) (string, error) {
	rel, err := filepath.Rel(s.dir, full)
	if err != nil || !filepath.IsLocal(rel) {
		return "", ErrOutside
	}
	return rel, nil
}

func (s *source) stat(full string) (fs.FileInfo, error) {
	if s.forbid != "" {
		real, err := filepath.EvalSymlinks(full)
		if err != nil {
			return nil, err
		}
		if Below(s.forbid, real) {
			return nil, ErrOutside
		}
	}
	if s.root == nil {
		return os.Stat(full)
	}
	rel, err := s.within(full)
	if err != nil {
		return nil, err
	}
	return s.root.Stat(rel)
}

func (s *source) open(full string) (*os.File, error) {
	if s.root == nil {
		return os.Open(full)
	}
	rel, err := s.within(full)
	if err != nil {
		return nil, err
	}
	return s.root.Open(rel)
}

// walk calls fn with the full path of everything in a directory.
func (s *source) walk(dir string, fn fs.WalkDirFunc) error {
	if s.root == nil {
		return filepath.WalkDir(dir, fn)
	}
	rel, err := s.within(dir)
	if err != nil {
		return err
	}
	return fs.WalkDir(s.root.FS(), filepath.ToSlash(rel), func(path string, d fs.DirEntry, err error) error {
		return fn(filepath.Join(s.dir, filepath.FromSlash(path)), d, err)
	})
}

// Below reports whether a path is a directory or lies in it. Both are absolute and free of symbolic links.
func Below(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// file is one file that was found.
type file struct {
	path string // relative, slash separated
	full string
	info fs.FileInfo
	src  *source
}

func (f file) unchanged() error {
	now, err := f.src.stat(f.full)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", f.path, ErrChanged, err)
	}
	if !os.SameFile(now, f.info) || now.Size() != f.info.Size() || !now.ModTime().Equal(f.info.ModTime()) {
		return fmt.Errorf("%s: %w", f.path, ErrChanged)
	}
	return nil
}

// scan lists what is published: hidden files too, in lexical order, symbolic links followed to files only.
func (s *source) scan(name string) (files []file, single bool, err error) {
	fi, err := s.stat(name)
	if err != nil {
		return nil, false, err
	}
	if fi.Mode().IsRegular() {
		return []file{{path: filepath.Base(filepath.Clean(name)), full: name, info: fi, src: s}}, true, nil
	}
	if !fi.IsDir() {
		return nil, false, ErrSpecial
	}
	if b := filepath.Base(filepath.Clean(name)); b == "." || b == string(filepath.Separator) {
		return nil, false, errors.New("the directory has no name of its own")
	}
	err = s.walk(name, func(full string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(name, full)
		if err != nil {
			return err
		}
		fi, err := s.stat(full)
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		if !fi.Mode().IsRegular() {
			return fmt.Errorf("%s: %w", rel, ErrSpecial)
		}
		files = append(files, file{path: filepath.ToSlash(rel), full: full, info: fi, src: s})
		if len(files) > asset.MaxFiles {
			return fmt.Errorf("more than %d files", asset.MaxFiles)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = ErrEmpty
	}
	return files, false, err
}
