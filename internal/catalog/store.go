package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"boxd/internal/durable"
)

// maxBundleBytes bounds catalog.json: all metadata of one box, in base64.
const maxBundleBytes = 64 << 20

// bundle is the file catalog.json: all metadata that this box believes, in one file, so that one rename moves from one whole
// state to the next. Targets lie beside it under their hash.
type bundle struct {
	V int `json:"v"` // 1
	// Roots is the chain from the firmware's root to the newest; Timestamp and Snapshot are the newest that were verified,
	// which may be ahead of Good: they guard against rollback.
	Roots     [][]byte `json:"roots"`
	Timestamp []byte   `json:"timestamp,omitempty"`
	Snapshot  []byte   `json:"snapshot,omitempty"`
	Good      *good    `json:"good,omitempty"`
}

// good is the last catalog that was verified whole.
type good struct {
	Timestamp []byte            `json:"timestamp"`
	Snapshot  []byte            `json:"snapshot"`
	Roles     map[string][]byte `json:"roles"`
	Targets   map[string]string `json:"targets"` // path → SHA-256
	Groups    []string          `json:"groups"`
	BoxID     string            `json:"box_id"`
}

type store struct {
	fs   durable.FS
	dir  string
	made bool // the directories are there and durable
}

func (s *store) bundlePath() string { return filepath.Join(s.dir, "catalog.json") }

func (s *store) targetPath(sum string) string { return filepath.Join(s.dir, "targets", sum) }

// read returns the bundle; the zero bundle if there is none.
func (s *store) read() (bundle, error) {
	var b bundle
	raw, err := durable.ReadFile(s.fs, s.bundlePath(), maxBundleBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return bundle{}, fmt.Errorf("read %s: %w", s.bundlePath(), err)
	}
	if b.V != 1 {
		return bundle{}, fmt.Errorf("read %s: format version %d, this program knows 1", s.bundlePath(), b.V)
	}
	return b, nil
}

// write replaces the bundle durably.
func (s *store) write(b bundle) error {
	b.V = 1
	raw, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := s.mkdir(); err != nil {
		return err
	}
	return durable.WriteFile(s.fs, s.bundlePath(), raw, 0o600)
}

func (s *store) mkdir() error {
	if s.made {
		return nil
	}
	targets := filepath.Join(s.dir, "targets")
	if err := s.fs.MkdirAll(targets, 0o700); err != nil {
		return err
	}
	// An earlier run may have made them and lost its power before it synced them: so always, once.
	for i, d := 0, s.dir; i < 3; i, d = i+1, filepath.Dir(d) {
		if err := s.fs.SyncDir(d); err != nil {
			return fmt.Errorf("sync %s: %w", d, err)
		}
	}
	s.made = true
	return nil
}

// target reads a stored target; its content is checked against its name.
func (s *store) target(sum string, limit int64) ([]byte, error) {
	b, err := durable.ReadFile(s.fs, s.targetPath(sum), limit)
	if err != nil {
		return nil, err
	}
	if got := sumHex(b); got != sum {
		return nil, fmt.Errorf("stored target %s has SHA-256 %s", sum, got)
	}
	return b, nil
}

func (s *store) putTarget(sum string, b []byte) error {
	if err := s.mkdir(); err != nil {
		return err
	}
	return durable.WriteFile(s.fs, s.targetPath(sum), b, 0o600)
}

// collect removes the targets that a bundle does not name, and leftovers of writes that a power cut ended.
func (s *store) collect(g *good) error {
	dir := filepath.Join(s.dir, "targets")
	entries, err := s.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	if g != nil {
		for sum := range maps.Values(g.Targets) {
			keep[sum] = true
		}
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := s.fs.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil // not synced: a file that comes back after a power cut is removed next time
}

// setAside keeps a bundle that cannot be read for whoever looks into it, and makes room for a new one.
func (s *store) setAside() error {
	err := s.fs.Rename(s.bundlePath(), s.bundlePath()+".bad")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sameGroups reports whether g was read for these groups and this box.
func (g *good) sameReader(groups []string, boxID string) bool {
	return slices.Equal(g.Groups, groups) && g.BoxID == boxID
}

// urlName is where a target lies under targets/: consistent snapshots put the hash before the last element.
func urlName(path, sum string) string {
	i := strings.LastIndexByte(path, '/') + 1
	return path[:i] + sum + "." + path[i:]
}
