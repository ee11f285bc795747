// Package publish turns a file or a directory into an asset: hashed pieces, a .torrent, and a copy that the origin serves.
//
// Invariants: the origin's copy is made of the very bytes that were hashed; it is durable before Publish returns; a file that
// changes, vanishes or cannot be read while it is published is an error that names it, and leaves nothing behind.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"path"
	"path/filepath"
	"strings"
	"time"

	"boxd/internal/asset"
)

// Errors that callers branch on. Each is wrapped together with the name of the file.
var (
	ErrEmpty   = errors.New("there is nothing to publish: 0 bytes")
	ErrSpecial = errors.New("not a regular file")
	ErrChanged = asset.ErrChanged
	ErrOutside = errors.New("it lies where nothing may be published from")
)

// Options says what is published where.
type Options struct {
	Source     string   // a file, or a directory whose files are published with their relative paths
	OriginDir  string   // the asset is copied to OriginDir/<id>/<name>
	OriginURLs []string // bases that serve OriginDir: the web seeds become <base>/<id>/ (BEP 19)
	Announce   []string // tracker URLs, for other clients; boxes know their own
	Title      string
	Version    string
	Publisher  string
	// Types overrides the content types that file names suggest.
	Types       map[string]string
	PieceLength int64 // bytes; 0: by size
	// Take, if set, is asked whether so many bytes, which all files have, may come, before anything is copied.
	Take func(total int64) error
	// Root, if set, is a directory outside of which nothing is read, wherever symbolic links lead.
	Root string
	// Forbid, if set, is a directory of which no file is read, under whatever name.
	Forbid string
	// Progress, if set, is called with bytes done and in all.
	Progress func(done, total int64)
}

// Result is a published asset.
type Result struct {
	Torrent []byte
	Info    *asset.Info
	Dir     string // where the origin's copy lies
	New     bool   // it was not there before
}

// Publish hashes and copies the source. It signs nothing: give Result.Torrent to repo's PutAsset.
func Publish(ctx context.Context, opt Options) (*Result, error) {
	src, err := openSource(opt)
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", opt.Source, err)
	}
	defer src.close()
	files, single, err := src.scan(opt.Source)
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", opt.Source, err)
	}
	staging, err := newStaging(opt.OriginDir)
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", opt.Source, err)
	}
	defer staging.discard()
	name := filepath.Base(filepath.Clean(opt.Source))
	res, err := build(ctx, staging, name, single, files, opt)
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", opt.Source, err)
	}
	return res, nil
}

func build(ctx context.Context, st *staging, name string, single bool, files []file, opt Options) (*Result, error) {
	var total int64
	sources := make([]asset.Source, len(files))
	extra := asset.Extra{Title: opt.Title, Version: opt.Version, Publisher: opt.Publisher, Types: map[string]string{}}
	for i, f := range files {
		to := filepath.Join(name, filepath.FromSlash(f.path))
		if single {
			to = name
		}
		total += f.info.Size()
		sources[i] = asset.Source{Path: f.path, Length: f.info.Size(), Open: func() (io.ReadCloser, error) {
			return st.tee(f, to)
		}}
		if t := contentType(f.path, opt.Types); t != "" {
			extra.Types[f.path] = t
		}
	}
	if total == 0 {
		return nil, ErrEmpty
	}
	if opt.Take != nil {
		if err := opt.Take(total); err != nil {
			return nil, err
		}
	}
	bo := asset.BuildOptions{
		Name: name, Single: single, PieceLength: opt.PieceLength, Announce: opt.Announce, Extra: extra,
		WebSeeds: func(id asset.ID) []string {
			var seeds []string
			for _, base := range opt.OriginURLs {
				seeds = append(seeds, strings.TrimSuffix(base, "/")+"/"+id.String()+"/")
			}
			return seeds
		},
	}
	if opt.Progress != nil {
		bo.Progress = func(done int64) { opt.Progress(done, total) }
	}
	torrent, in, err := asset.Build(ctx, sources, bo)
	if err != nil {
		return nil, err
	}
	for _, f := range files { // a file may have changed after it was read, in place, as a part of a set that does not fit
		if err := f.unchanged(); err != nil {
			return nil, err
		}
	}
	dir, fresh, err := st.commit(in.ID)
	if err != nil {
		return nil, err
	}
	return &Result{Torrent: torrent, Info: in, Dir: dir, New: fresh}, nil
}

// mediaTypes are those that matter here and that the operating system's table may lack.
var mediaTypes = map[string]string{
	".mp4": "video/mp4", ".m4v": "video/mp4", ".m4s": "video/iso.segment", ".webm": "video/webm", ".mkv": "video/x-matroska",
	".ts": "video/mp2t", ".m3u8": "application/vnd.apple.mpegurl", ".mpd": "application/dash+xml", ".m4a": "audio/mp4",
	".vtt": "text/vtt", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".json": "application/json",
}

func contentType(name string, over map[string]string) string {
	if t := over[name]; t != "" {
		return t
	}
	ext := strings.ToLower(path.Ext(name))
	if t := mediaTypes[ext]; t != "" {
		return t
	}
	return mime.TypeByExtension(ext)
}

// stamp makes names of staging directories that sort by time.
func stamp() string { return time.Now().UTC().Format("20060102T150405.000000000") }
