// Package web is the fleet's dashboard: plain files that the API serves, and the numbers that they show.
//
// Invariants: what a page asks for does not grow with the fleet: counts come from indexes, lists come in pages, and what
// must look at every box (how far a campaign is) is counted in the background, at most a tenth of the time, and says how
// old it is. The files load nothing from elsewhere and hold no inline script or style, so the strictest policy fits.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"

	"boxd/internal/httpapi/page"
)

// Policy is the content security policy of the dashboard.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed static
var files embed.FS

var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// shared names the files of the box's page that the dashboard uses as they are.
var shared = map[string]bool{"style.css": true, "core.js": true, "charts.js": true, "icon.svg": true}

// Serve answers with one of the dashboard's files.
func Serve(w http.ResponseWriter, r *http.Request, name string) {
	var from fs.FS = files
	at := "static/" + name
	if shared[name] {
		from, at = page.Files, name
	}
	body, err := fs.ReadFile(from, at)
	kind, known := types[path.Ext(name)]
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
	h.Set("Content-Security-Policy", Policy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(body) // the reader may be gone
}
