package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
)

func (s *server) getAssets(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	return s.o.Fleet.Assets(r.Context(), r.URL.Query().Get("publisher"))
}

func (s *server) getAsset(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	id, err := assetOf(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	a, err := s.o.Fleet.Asset(r.Context(), r.URL.Query().Get("publisher"), id)
	if err != nil {
		return nil, err
	}
	counts, err := s.o.Fleet.Registry().CountAsset(r.Context(), "", id.String())
	return struct {
		operate.Asset
		Counts registry.AssetCount `json:"counts"`
		Origin int64               `json:"origin_bytes"`
	}{a, counts, s.o.Origin()[id]}, err
}

// publishAs settles under whose name a user may publish.
func publishAs(u who, name string) (string, error) {
	if u.role == Publisher {
		if name != "" && name != u.publisher {
			return "", fmt.Errorf("%w: publisher %q", errForbidden, name)
		}
		return u.publisher, nil
	}
	return name, nil
}

// errSendFile refuses a path; the file itself would be taken.
var errSendFile = fmt.Errorf("%w: a path on the manager's machine is for the administrator, or below a directory that "+
	"fleetd serves with --import; send the file instead", errForbidden)

// fromPath settles what may be read of the manager's machine: nothing of the manager's own directory, and, but for the
// administrator, only what lies in a directory that is there to be published from.
func (s *server) fromPath(u who, path string, req *operate.PublishRequest) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%w: want an absolute path or a url", operate.ErrBad)
	}
	req.Source, req.Forbid = filepath.Clean(path), s.o.Dir
	if u.role >= Admin {
		return nil
	}
	i := slices.IndexFunc(s.o.Imports, func(dir string) bool { return publish.Below(dir, req.Source) })
	if u.role < Operator || i < 0 {
		return errSendFile
	}
	req.Root = s.o.Imports[i]
	return nil
}

// publish takes an http(s) URL, or a file or directory of this machine.
func (s *server) publish(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		Path        string            `json:"path,omitempty"`
		URL         string            `json:"url,omitempty"`
		SHA256      string            `json:"sha256,omitempty"` // of what the url gives
		Name        string            `json:"name,omitempty"`
		Version     string            `json:"version,omitempty"`
		Publisher   string            `json:"publisher,omitempty"`
		Types       map[string]string `json:"types,omitempty"`
		Type        string            `json:"type,omitempty"`
		Replaces    asset.ID          `json:"replaces,omitzero"` // an asset whose place it takes in all campaigns
		PieceLength int64             `json:"piece_length,omitempty"`
	}
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	publisher, err := publishAs(u, in.Publisher)
	if err != nil {
		return nil, err
	}
	if (in.Path == "") == (in.URL == "") {
		return nil, fmt.Errorf("%w: want a path or a url", operate.ErrBad)
	}
	if sum, err := hex.DecodeString(in.SHA256); in.SHA256 != "" && (err != nil || len(sum) != sha256.Size || in.URL == "") {
		return nil, fmt.Errorf("%w: sha256 is 64 hexadecimal digits, and of what a url gives", operate.ErrBad)
	}
	req := operate.PublishRequest{
		Name: in.Name, Version: in.Version, Publisher: publisher, Types: in.Types, Type: in.Type,
		PieceLength: in.PieceLength, Replaces: in.Replaces, OwnOnly: u.role == Publisher,
	}
	if in.Path != "" {
		if err := s.fromPath(u, in.Path, &req); err != nil {
			return nil, err
		}
		return s.published(w, r, u, req)
	}
	most, done, err := s.o.Fleet.Receive(r.Context(), publisher, -1)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.MkdirAll(s.o.Staging, 0o700); err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	file, remove, err := publish.Fetch(r.Context(), publish.Download{
		URL: in.URL, SHA256: in.SHA256, Dir: s.o.Staging, AllowPrivate: u.role >= Operator, MaxBytes: min(most, maxFetch),
	})
	switch {
	case errors.Is(err, publish.ErrTooLong):
		return nil, fmt.Errorf("%w: %w", repo.ErrQuota, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", operate.ErrBad, err)
	}
	defer remove()
	req.Source = file
	return s.published(w, r, u, req)
}

const maxFetch = 1 << 40 // bytes of one URL

// published answers with lines of progress and then the asset when asked to, or with the asset alone.
func (s *server) published(w http.ResponseWriter, r *http.Request, u who, req operate.PublishRequest) (any, error) {
	if r.Header.Get("Accept") != "application/x-ndjson" {
		_, out, err := s.publishOrDraft(r, u, req)
		return out, err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	last := time.Time{}
	req.Progress = func(done, total int64) {
		if time.Since(last) > 200*time.Millisecond {
			last = time.Now()
			_ = enc.Encode(map[string]int64{"done": done, "total": total}) // the client may be gone: its context ends the work
			_ = flush.Flush()
		}
	}
	kind, out, err := s.publishOrDraft(r, u, req)
	if err != nil {
		_ = enc.Encode(map[string]string{"error": err.Error()})
		return nil, nil
	}
	_ = enc.Encode(map[string]any{kind: out})
	return nil, nil
}

func (s *server) stage() (string, error) {
	if err := os.MkdirAll(s.o.Staging, 0o700); err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	dir, err := os.MkdirTemp(s.o.Staging, "upload-")
	if err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	return dir, nil
}

// publishUpload takes the file itself as the request's body.
func (s *server) publishUpload(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	q := r.URL.Query()
	file := q.Get("file")
	if file == "" || file != filepath.Base(file) || strings.HasPrefix(file, ".") || len(file) > 200 {
		return nil, fmt.Errorf("%w: file=%.60q is not a file name", operate.ErrBad, file)
	}
	publisher, err := publishAs(u, q.Get("publisher"))
	if err != nil {
		return nil, err
	}
	var replaces asset.ID
	if v := q.Get("replaces"); v != "" {
		if replaces, err = assetOf(v); err != nil {
			return nil, err
		}
	}
	most, done, err := s.o.Fleet.Receive(r.Context(), publisher, r.ContentLength)
	if err != nil {
		return nil, err
	}
	defer done()
	dir, err := s.stage()
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, file)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	n, err := io.Copy(&publish.Roomy{Writer: f, Dir: dir}, http.MaxBytesReader(w, impatient{r.Body, http.NewResponseController(w)}, most))
	err = errors.Join(err, f.Close())
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return nil, fmt.Errorf("%w: %d bytes are left", repo.ErrQuota, most)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: receive %s: %w", operate.ErrBad, file, err)
	}
	if r.ContentLength >= 0 && n != r.ContentLength {
		return nil, fmt.Errorf("%w: %d bytes came of %d", operate.ErrBad, n, r.ContentLength)
	}
	return s.published(
		w,
		r,
		u,
		operate.PublishRequest{
			Source:    path,
			Name:      q.Get("name"),
			Version:   q.Get("version"),
			Type:      q.Get("type"),
			Publisher: publisher,
			Replaces:  replaces,
			OwnOnly:   u.role == Publisher,
		},
	)
}

// ownAsset finds an asset to change: ?publisher= says whose, where several have the same bytes. A publisher may touch only
// what is theirs.
func (s *server) ownAsset(r *http.Request, u who) (operate.Asset, error) {
	id, err := assetOf(r.PathValue("id"))
	if err != nil {
		return operate.Asset{}, err
	}
	publisher, err := publishAs(u, r.URL.Query().Get("publisher"))
	if err != nil {
		return operate.Asset{}, err
	}
	a, err := s.o.Fleet.Asset(r.Context(), publisher, id)
	if u.role == Publisher && errors.Is(err, repo.ErrNotFound) {
		if all, _ := s.o.Fleet.Assets(r.Context(), ""); slices.ContainsFunc(all, func(a operate.Asset) bool { return a.ID == id }) {
			err = fmt.Errorf("%w: asset of another publisher", errForbidden)
		}
	}
	return a, err
}

func (s *server) withdraw(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	a, err := s.ownAsset(r, u)
	if err != nil {
		return nil, err
	}
	return ok, s.o.Fleet.Withdraw(r.Context(), u.name, a)
}

func (s *server) readmit(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	a, err := s.ownAsset(r, u)
	if err != nil {
		return nil, err
	}
	return ok, s.o.Fleet.Readmit(r.Context(), u.name, a)
}

func (s *server) removeAsset(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	a, err := s.ownAsset(r, u)
	if err != nil {
		return nil, err
	}
	return ok, s.o.Fleet.Remove(r.Context(), u.name, a)
}
