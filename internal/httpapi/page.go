package httpapi

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
)

// pageFiles is the status page: plain files, no build step, nothing from elsewhere.
//
//go:embed page
var pageFiles embed.FS

var pageTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

func (s *Server) pageRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", s.timed(s.page("index.html")))
	mux.HandleFunc("GET /page/{name}", s.timed(func(w http.ResponseWriter, r *http.Request) {
		s.page(r.PathValue("name"))(w, r)
	}))
	mux.HandleFunc("GET /favicon.ico", s.timed(s.page("icon.svg")))
}

// isPagePart reports whether a path is code or style of the page, which is the same for every box and tells nothing.
func isPagePart(p string) bool { return strings.HasPrefix(p, "/page/") || p == "/favicon.ico" }

// page serves one embedded file.
func (s *Server) page(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := pageFiles.ReadFile("page/" + name)
		kind, known := pageTypes[path.Ext(name)]
		if err != nil || !known {
			http.NotFound(w, r)
			return
		}
		sum := sha256.Sum256(body)
		etag := `"` + hex.EncodeToString(sum[:8]) + `"`
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("ETag", etag)
		h.Set("Cache-Control", "no-cache")
		h.Set("Content-Security-Policy", pagePolicy)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(body) // the reader has gone
	}
}
