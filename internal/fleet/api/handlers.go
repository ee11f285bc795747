package api

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/mqttwire"
)

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
	var key ed25519.PublicKey
	if in.PublicKey != "" {
		var err error
		if key, err = repo.ParsePublicKey([]byte(in.PublicKey)); err != nil {
			return nil, fmt.Errorf("%w: %w", operate.ErrBad, err)
		}
	}
	return doneOrDraft(s.o.Fleet.AddPublisherOrDraft(r.Context(), u.name, in.Name, key, in.Quota, draftWillDo(r)))
}

func (s *server) getConfig(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	if err := s.o.Fleet.CheckTarget(r.Context(), r.PathValue("target")); err != nil {
		return nil, err
	}
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
	if err := s.newUser(r, in); err != nil {
		return nil, err
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

// newUser refuses a name that is taken, whose token would be void from now on, and a publisher that does not exist.
func (s *server) newUser(r *http.Request, in User) error {
	_, err := registry.GetDoc[User](r.Context(), s.o.Fleet.Registry(), tableUsers, in.Name)
	if err == nil {
		return fmt.Errorf("%w: there is a user %s already; delete it first to give it another role or token", operate.ErrConflict, in.Name)
	}
	if !errors.Is(err, registry.ErrNotFound) || in.Publisher == "" {
		return noneIsFine(err)
	}
	list, err := s.o.Fleet.Publishers()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(list, func(p repo.Publisher) bool { return p.Name == in.Publisher }) {
		return fmt.Errorf("%w: there is no publisher %.60q", operate.ErrBad, in.Publisher)
	}
	return nil
}

func noneIsFine(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	return err
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
