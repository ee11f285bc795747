package repo

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
)

var publicRE = regexp.MustCompile(`^/(metadata/[a-z0-9.-]+\.json|targets/[a-z0-9-]+(/[a-z0-9-]+)?/[0-9a-f]{64}\.[a-z0-9.-]+)$`)

// Handler serves the repository's public files under /metadata/ and /targets/: timestamp.json with an ETag and to be asked
// for again each time, all else as files that never change. Any other web server can do the same from Options.Dir.
func (r *Repo) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		if !publicRE.MatchString(req.URL.Path) || strings.Contains(req.URL.Path, "..") {
			w.Header().Set("Cache-Control", "no-store")
			http.NotFound(w, req)
			return
		}
		r.serveFile(w, req)
	})
}

func (r *Repo) serveFile(w http.ResponseWriter, req *http.Request) {
	f, err := r.fs.Open(filepath.Join(r.opt.Dir, filepath.FromSlash(req.URL.Path)))
	if err != nil {
		// The next root.json is asked for before it exists: nobody may remember that it was not there.
		w.Header().Set("Cache-Control", "no-store")
		http.NotFound(w, req)
		return
	}
	defer func() { _ = f.Close() }() // opened for reading
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		http.NotFound(w, req)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if strings.HasSuffix(req.URL.Path, ".torrent") {
		h.Set("Content-Type", "application/x-bittorrent")
	}
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if strings.HasSuffix(req.URL.Path, "/timestamp.json") {
		b := make([]byte, fi.Size())
		if _, err := f.ReadAt(b, 0); err != nil {
			http.Error(w, "cannot be read", http.StatusInternalServerError)
			return
		}
		sum := sha256.Sum256(b)
		h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
		h.Set("Cache-Control", "no-cache")
	}
	http.ServeContent(w, req, "", fi.ModTime(), io.NewSectionReader(f, 0, fi.Size()))
}
