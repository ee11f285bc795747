package api

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/mqttwire"
)

func (s *server) getAssets(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	return s.o.Fleet.Assets(r.URL.Query().Get("publisher"))
}

func (s *server) getAsset(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	id, err := assetOf(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	a, err := s.o.Fleet.Asset(id)
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

// publish takes a file or directory of this machine, or an http(s) URL. Reading files of the manager's machine is for
// its own operators.
func (s *server) publish(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		Path        string            `json:"path,omitempty"`
		URL         string            `json:"url,omitempty"`
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
	if in.Path != "" && u.role < Operator {
		return nil, fmt.Errorf("%w: send the file instead of its path", errForbidden)
	}
	if in.Path != "" && !filepath.IsAbs(in.Path) || (in.Path == "") == (in.URL == "") {
		return nil, fmt.Errorf("%w: want an absolute path or a url", operate.ErrBad)
	}
	req := operate.PublishRequest{
		Source:      in.Path,
		Name:        in.Name,
		Version:     in.Version,
		Publisher:   publisher,
		Types:       in.Types,
		Type:        in.Type,
		PieceLength: in.PieceLength,
		Replaces:    in.Replaces,
	}
	if in.URL != "" {
		if err := os.MkdirAll(s.o.Staging, 0o700); err != nil {
			return nil, fmt.Errorf("stage: %w", err)
		}
		file, remove, err := publish.Fetch(r.Context(), publish.Download{
			URL: in.URL, Dir: s.o.Staging, AllowPrivate: u.role >= Operator,
		})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", operate.ErrBad, err)
		}
		defer remove()
		req.Source = file
	}
	return s.published(w, r, u, req)
}

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
	n, err := io.Copy(f, r.Body)
	if err := errors.Join(err, f.Close()); err != nil {
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
		},
	)
}

// ownAsset lets a publisher touch only what is theirs.
func (s *server) ownAsset(r *http.Request, u who) (operate.Asset, error) {
	id, err := assetOf(r.PathValue("id"))
	if err != nil {
		return operate.Asset{}, err
	}
	a, err := s.o.Fleet.Asset(id)
	if err == nil && u.role == Publisher && a.Publisher != u.publisher {
		err = fmt.Errorf("%w: asset of %q", errForbidden, a.Publisher)
	}
	return a, err
}

func (s *server) withdraw(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	a, err := s.ownAsset(r, u)
	if err != nil {
		return nil, err
	}
	return ok, s.o.Fleet.Withdraw(r.Context(), u.name, a.ID)
}

func (s *server) readmit(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	a, err := s.ownAsset(r, u)
	if err != nil {
		return nil, err
	}
	return ok, s.o.Fleet.Readmit(r.Context(), u.name, a.ID)
}

func (s *server) removeAsset(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	a, err := s.ownAsset(r, u)
	if err != nil {
		return nil, err
	}
	return ok, s.o.Fleet.Remove(r.Context(), u.name, a.ID)
}

func (s *server) getPublishers(http.ResponseWriter, *http.Request, who) (any, error) {
	return s.o.Fleet.Publishers()
}

func (s *server) addPublisher(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		Name      string `json:"name"`
		PublicKey string `json:"public_key,omitempty"` // PEM; empty: a key is made on this machine
		Quota     int64  `json:"quota,omitempty"`      // bytes; 0: none
	}
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	if in.PublicKey == "" {
		return ok, s.o.Fleet.AddPublisher(r.Context(), u.name, in.Name, nil, in.Quota)
	}
	key, err := repo.ParsePublicKey([]byte(in.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", operate.ErrBad, err)
	}
	return ok, s.o.Fleet.AddPublisher(r.Context(), u.name, in.Name, key, in.Quota)
}

func (s *server) getConfig(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	c, version, err := s.o.Fleet.Config(r.Context(), r.PathValue("target"))
	return map[string]any{"config": c, "version": version}, err
}

func (s *server) putConfig(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in mqttwire.Config
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	version, err := s.o.Fleet.SetConfig(r.Context(), u.name, r.PathValue("target"), &in)
	return map[string]int64{"version": version}, err
}

func (s *server) getCommands(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	limit, err := number(r, "limit", 100, 1000)
	if err != nil {
		return nil, err
	}
	return s.o.Fleet.Registry().Commands(r.Context(), limit)
}

func (s *server) getCommand(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	return s.o.Fleet.Registry().Command(r.Context(), r.PathValue("id"))
}

func (s *server) createCommand(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		Target string           `json:"target"` // a box, or "group:<name>"
		Name   string           `json:"name"`
		Args   json.RawMessage  `json:"args,omitempty"`
		Life   catalog.Duration `json:"life,omitempty"`
	}
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	return s.o.Fleet.Command(r.Context(), u.name, in.Target, in.Name, in.Args, time.Duration(in.Life))
}

func (s *server) getTokens(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	return s.o.Fleet.Tokens(r.Context())
}

func (s *server) createToken(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		Group   string            `json:"group,omitempty"`
		Uses    int               `json:"uses,omitempty"`
		Life    catalog.Duration  `json:"life,omitempty"`
		Devices map[string]string `json:"devices,omitempty"`
		Box     string            `json:"box,omitempty"`
		Replace bool              `json:"replace,omitempty"`
	}
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	if in.Group == "" {
		in.Group = operate.DefaultGroup
	}
	secret, tok, err := s.o.Fleet.CreateToken(r.Context(), u.name, ca.TokenSpec{
		Group: in.Group, MaxUses: in.Uses, Life: time.Duration(in.Life), Devices: in.Devices, BoxID: in.Box, Replace: in.Replace,
	})
	return map[string]any{"token": secret, "id": tok.ID, "group": tok.Group, "expires": tok.Expires, "max_uses": tok.MaxUses}, err
}

func (s *server) revokeToken(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	return ok, s.o.Fleet.RevokeToken(r.Context(), u.name, r.PathValue("id"))
}

func (s *server) getUsers(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	users, err := registry.ListDocs[User](r.Context(), s.o.Fleet.Registry(), tableUsers)
	for i := range users {
		users[i].Hash = ""
	}
	return users, err
}

func (s *server) createUser(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in User
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	if !mqttwire.ValidName(in.Name) || roleNames[in.Role] == Nobody || (in.Role == "publisher") != (in.Publisher != "") ||
		in.Hash != "" {
		return nil, fmt.Errorf(
			"%w: want a name, a role (viewer, publisher, operator, admin) and, for a publisher, whose",
			operate.ErrBad,
		)
	}
	var b [24]byte
	_, _ = rand.Read(b[:])
	token := hex.EncodeToString(b[:])
	in.Hash = hashToken(token)
	if err := s.o.Fleet.Registry().PutDoc(r.Context(), tableUsers, in.Name, in); err != nil {
		return nil, err
	}
	if err := s.o.Fleet.Registry().Audit(r.Context(), u.name, "create-user", in.Name, in.Role+" "+in.Publisher); err != nil {
		return nil, err
	}
	return map[string]string{"name": in.Name, "role": in.Role, "token": token}, nil
}

func (s *server) deleteUser(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	name := r.PathValue("name")
	if _, err := registry.GetDoc[User](r.Context(), s.o.Fleet.Registry(), tableUsers, name); err != nil {
		return nil, err
	}
	if err := s.o.Fleet.Registry().DeleteDoc(r.Context(), tableUsers, name); err != nil {
		return nil, err
	}
	return ok, s.o.Fleet.Registry().Audit(r.Context(), u.name, "delete-user", name, "")
}

func (s *server) backup(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	if err := s.o.Fleet.Registry().Audit(r.Context(), u.name, "backup", "fleet", ""); err != nil {
		return nil, err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := s.o.Backup(r.Context(), w); err != nil {
		s.log.Error("backup was cut off", "err", err)
		panic(http.ErrAbortHandler) // the reader must not take half an archive for a whole one
	}
	return nil, nil
}
