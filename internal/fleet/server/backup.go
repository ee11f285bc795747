package server

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"boxd/internal/durable"
	"boxd/internal/fleet/repo"
)

// dirStaging is where uploads and backups are made; each start empties it of what is left over.
const dirStaging = "staging"

// Backup writes a tar archive of all that cannot be made again: database, certificate authority, catalog, keys, secrets.
// The origin's copies are left out: they are media, and published again from their source.
func (s *Server) Backup(ctx context.Context, w io.Writer) error {
	if s.reg.Postgres() {
		return errors.New("the database is PostgreSQL: back it up with pg_dump, and this directory as files")
	}
	// In a directory of its own, as two may run at once, which the next start cleans if this one does not.
	if err := os.MkdirAll(filepath.Join(s.o.Dir, dirStaging), 0o700); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	dir, err := os.MkdirTemp(filepath.Join(s.o.Dir, dirStaging), "backup-")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	archive, err := os.OpenFile(filepath.Join(dir, "archive"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = archive.Close() }()
	// Whole before the first byte goes out: whoever reads slowly must not keep the catalog locked.
	if err := s.archive(ctx, archive, filepath.Join(dir, fileRegistry)); err != nil {
		return err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if _, err := io.Copy(w, archive); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// archive writes the backup; snap is where the database may be copied to.
func (s *Server) archive(ctx context.Context, w io.Writer, snap string) error {
	tw := tar.NewWriter(w)
	// The catalog first: a database that is newer than it is put in step at the start; see operate.Start. Locked, because
	// a timestamp without the snapshot that it names is no catalog.
	names := []string{fileFleet, fileToken, dirCA, dirKeys, dirTUF, filepath.Join(dirBroker, "creds.json"), dirFirmware}
	err := s.repo.View(func(*repo.Tx) error {
		for _, name := range names {
			if err := addTree(tw, s.o.Dir, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.reg.Snapshot(ctx, snap); err != nil {
		return err
	}
	if err := addFile(tw, snap, fileRegistry); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

func addTree(tw *tar.Writer, base, name string) error {
	return filepath.WalkDir(filepath.Join(base, name), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return fmt.Errorf("backup: %w", err)
		}
		if !d.Type().IsRegular() || strings.HasSuffix(path, ".tmp") {
			return nil
		}
		rel, err := filepath.Rel(base, path)
		if err != nil {
			return fmt.Errorf("backup: %w", err)
		}
		return addFile(tw, path, rel)
	})
}

// addFile copies a file into the archive; it may be larger than memory.
func addFile(tw *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	h := &tar.Header{
		Name: filepath.ToSlash(name), Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime(),
	}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if _, err := io.CopyN(tw, f, info.Size()); err != nil {
		return fmt.Errorf("backup %s: %w", name, err)
	}
	return nil
}

// Restore unpacks a backup into a directory that has no fleet. Nothing has its place there before all of the archive was read:
// one that is cut off leaves no keys behind. What a kill leaves in the staging directory goes at the next start or restore.
func Restore(dir string, r io.Reader) error {
	if _, err := os.Stat(filepath.Join(dir, fileFleet)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore: there is a fleet in %s already", dir)
	}
	aside := filepath.Join(dir, dirStaging, "restore")
	err := os.RemoveAll(aside)
	if err == nil {
		err = os.MkdirAll(aside, 0o700)
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	set, err := unpack(aside, r)
	if err == nil {
		err = moveAll(aside, dir)
	}
	if err := errors.Join(err, os.RemoveAll(aside)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	set.Restored = time.Now().UTC().Truncate(time.Second)
	last, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return fmt.Errorf("restore %s: %w", fileFleet, err)
	}
	return writeFile(filepath.Join(dir, fileFleet), last, 0o600) // a restore that was cut off is not a fleet
}

// unpack writes the files of an archive into a directory, but for the settings, which it returns.
func unpack(dir string, r io.Reader) (set settings, err error) {
	begun, last := false, "" // the database is written last
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return set, err
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(filepath.FromSlash(h.Name)) {
			return set, fmt.Errorf("%q does not belong in a backup", h.Name)
		}
		if last = h.Name; last == fileFleet {
			if err := json.NewDecoder(io.LimitReader(tr, 1<<20)).Decode(&set); err != nil {
				return set, fmt.Errorf("%s: %w", h.Name, err)
			}
			begun = true
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := restoreFile(path, tr, fs.FileMode(h.Mode).Perm()); err != nil { //nolint:gosec // permission bits only
			return set, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if !begun || last != fileRegistry {
		return set, errors.New("the archive has no fleet.json, or does not end with the database: it is cut off or no backup")
	}
	return set, nil
}

// moveAll gives all files below one directory their place below another on the same disk, durably.
func moveAll(from, to string) error {
	dirs := map[string]bool{}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		there := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(there), 0o700); err != nil {
			return err
		}
		for d := filepath.Dir(there); !dirs[d] && len(d) >= len(to); d = filepath.Dir(d) {
			dirs[d] = true
		}
		return os.Rename(path, there)
	})
	for d := range dirs {
		err = errors.Join(err, durable.OS().SyncDir(d))
	}
	return err
}

// restoreFile copies a file out of the archive; it may be larger than memory.
func restoreFile(path string, r io.Reader, perm fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

// FleetOf is the id of the fleet in a directory, or empty.
func FleetOf(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, fileFleet))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var set settings
	if err == nil {
		err = json.Unmarshal(data, &set)
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", fileFleet, err)
	}
	return set.Fleet, nil
}

// floor is a number above all versions that were given before a backup was restored, and below those that will be.
func (s *Server) floor() int64 {
	if s.set.Restored.IsZero() {
		return 0
	}
	return s.set.Restored.Unix()
}

// raiseRestored makes the catalog of a backup one that boxes believe although they have seen a newer one.
func (s *Server) raiseRestored() error {
	if s.floor() == 0 {
		return nil
	}
	left, err := s.repo.Raise(s.floor())
	if err != nil {
		return fmt.Errorf("publish the restored catalog again: %w", err)
	}
	if len(left) > 0 {
		s.log.Warn("roles of the restored catalog keep their versions, as their keys are elsewhere: if boxes say catalog-rollback, "+
			"sign them again (fleetd keys raise)", "roles", left)
	}
	return nil
}
