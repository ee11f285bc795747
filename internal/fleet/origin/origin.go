// Package origin serves the operator's copies of assets over HTTP: the BEP 19 web seed of last resort, with byte ranges.
//
// Invariants: nothing outside <dir>/<40 hexadecimal digits>/ is served, no listing is; every body byte that was handed to a
// connection is counted for its asset; when a proof of identity is asked for, a request without one gets no byte.
package origin

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"boxd/internal/asset"
)

// Options says what is served to whom.
type Options struct {
	Dir string // Dir/<id>/<name>[/<path>]
	// RequireClientCert lets only requests pass that came over TLS with a verified client certificate.
	RequireClientCert bool
	// Bearer, if set, also lets requests with "Authorization: Bearer <it>" pass.
	Bearer string
	// SignKey, if set, also lets URLs pass that SignURL made with it.
	SignKey []byte
	// Allowed, if set, is asked with the common name of the client certificate ("" without one) and the asset.
	Allowed func(commonName string, id asset.ID) bool
	Now     func() time.Time // nil means time.Now
	// Stall is how long a client may take none of what it asked for before its connection is ended; 0 means 2 minutes.
	Stall time.Duration
}

// Handler is the origin. Mount it with its prefix stripped: it sees /<id>/<name>[/<path>].
type Handler struct {
	opt    Options
	mu     sync.RWMutex // guards counts
	counts map[asset.ID]*Count
}

// Count is what the origin sent of one asset. A copy is Bytes divided by the asset's length.
type Count struct {
	Bytes    atomic.Int64 // of bodies
	Requests atomic.Int64 // that were answered with content
	Denied   atomic.Int64
}

// Sent is a Count at one moment.
type Sent struct {
	ID       asset.ID `json:"id"`
	Bytes    int64    `json:"bytes"`
	Requests int64    `json:"requests"`
	Denied   int64    `json:"denied"`
}

// New returns an origin.
func New(opt Options) *Handler {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Stall == 0 {
		opt.Stall = 2 * time.Minute
	}
	return &Handler{opt: opt, counts: map[asset.ID]*Count{}}
}

// Sent is what was sent of one asset.
func (h *Handler) Sent(id asset.ID) Sent {
	h.mu.RLock()
	defer h.mu.RUnlock()
	c := h.counts[id]
	if c == nil {
		return Sent{ID: id}
	}
	return Sent{ID: id, Bytes: c.Bytes.Load(), Requests: c.Requests.Load(), Denied: c.Denied.Load()}
}

// All is what was sent of every asset, most bytes first.
func (h *Handler) All() []Sent {
	h.mu.RLock()
	list := make([]Sent, 0, len(h.counts))
	for id, c := range h.counts {
		list = append(list, Sent{ID: id, Bytes: c.Bytes.Load(), Requests: c.Requests.Load(), Denied: c.Denied.Load()})
	}
	h.mu.RUnlock()
	sort.Slice(list, func(i, j int) bool {
		if list[i].Bytes != list[j].Bytes {
			return list[i].Bytes > list[j].Bytes
		}
		return list[i].ID.String() < list[j].ID.String()
	})
	return list
}

func (h *Handler) count(id asset.ID) *Count {
	h.mu.RLock()
	c := h.counts[id]
	h.mu.RUnlock()
	if c != nil {
		return c
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c = h.counts[id]; c == nil {
		c = &Count{}
		h.counts[id] = c
	}
	return c
}

// ServeHTTP answers GET and HEAD with ranges (RFC 9110, section 14) and a strong ETag.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	id, rel, err := split(r.URL.Path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	f, fi, err := h.open(id, rel)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer func() { _ = f.Close() }() // opened for reading
	c := h.count(id)
	if !h.allowed(r, id) {
		c.Denied.Add(1)
		http.Error(w, "a client certificate of the fleet, a token or a signed address is needed", http.StatusForbidden)
		return
	}
	c.Requests.Add(1)
	w.Header().Set("ETag", `"`+id.String()+"-"+strconv.FormatInt(fi.Size(), 16)+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	out := &counter{ResponseWriter: w, n: &c.Bytes, ctl: http.NewResponseController(w), stall: h.opt.Stall}
	http.ServeContent(out, r, "", fi.ModTime(), f)
}

// open finds a regular file below the asset's directory, whatever links lie there.
func (h *Handler) open(id asset.ID, rel string) (*os.File, os.FileInfo, error) {
	root, err := os.OpenRoot(filepath.Join(h.opt.Dir, id.String()))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = root.Close() }() // nothing was written
	f, err := root.Open(filepath.FromSlash(rel))
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// split takes /<id>/<rel> apart.
func split(p string) (asset.ID, string, error) {
	first, rel, ok := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	if !ok || rel == "" || strings.Contains("/"+rel+"/", "/../") || strings.Contains(rel, "\x00") {
		return asset.ID{}, "", fmt.Errorf("path %.100q is not /<id>/<file>", p)
	}
	id, err := asset.ParseID(first)
	if err == nil && id.String() != first {
		err = errors.New("the id is not in lower case")
	}
	return id, rel, err
}

func (h *Handler) allowed(r *http.Request, id asset.ID) bool {
	cn := ""
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		cn = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	proven := cn != "" || !h.opt.RequireClientCert && h.opt.Bearer == "" && len(h.opt.SignKey) == 0
	if !proven && h.opt.Bearer != "" {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		proven = ok && subtle.ConstantTimeCompare([]byte(token), []byte(h.opt.Bearer)) == 1
		if proven {
			return true // a CDN that fetches for all boxes
		}
	}
	if !proven && len(h.opt.SignKey) > 0 && h.signed(r) {
		return true // who may have the address was decided when it was signed
	}
	return proven && (h.opt.Allowed == nil || h.opt.Allowed(cn, id))
}

// SignURL returns the query that lets a path (/<id>/<file>, without the mount's prefix) pass until a time.
func SignURL(key []byte, path string, until time.Time) string {
	exp := strconv.FormatInt(until.Unix(), 10)
	return "expires=" + exp + "&signature=" + mac(key, path, exp)
}

func mac(key []byte, path, exp string) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("boxd-origin\n" + path + "\n" + exp))
	return hex.EncodeToString(m.Sum(nil))
}

func (h *Handler) signed(r *http.Request) bool {
	q := r.URL.Query()
	exp, err := strconv.ParseInt(q.Get("expires"), 10, 64)
	if err != nil || h.opt.Now().Unix() > exp {
		return false
	}
	return hmac.Equal([]byte(q.Get("signature")), []byte(mac(h.opt.SignKey, r.URL.Path, q.Get("expires"))))
}

// counter counts the body's bytes and gives each write its time: a client that stops reading holds a file and a goroutine
// no longer than that. On plain TCP it hides sendfile; over TLS, which the fleet uses, there is none to lose.
type counter struct {
	http.ResponseWriter
	n     *atomic.Int64
	ctl   *http.ResponseController
	stall time.Duration
}

func (c *counter) Write(p []byte) (int, error) {
	// A recorder of a test has no deadlines; a server's connection always has.
	_ = c.ctl.SetWriteDeadline(time.Now().Add(c.stall))
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}
