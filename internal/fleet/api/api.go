// Package api is the operator's HTTP API and dashboard over operate: /api/v1/… (JSON, described by openapi.yaml), /healthz,
// /readyz, /metrics and /.
//
// Invariants: every request is answered for a role; a change needs a token, or the dashboard's session with its second half
// that only a page of ours can know, and a JSON content type, so no foreign page can make one; on a loopback listener
// only loopback Host names
// are answered, so no foreign name can be bound to it. Secrets are shown once, when they are made. Bodies are bounded, and
// a reader that takes nothing for a minute is let go.
package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"

	"boxd/internal/asset"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/fleet/web"
)

// Options configures the API.
type Options struct {
	Fleet    *operate.Fleet
	Token    string // the administrator's
	Loopback bool   // the listener is on loopback: reading needs no token there
	Origin   func() map[asset.ID]int64
	Upload   func(box, name string) ([]byte, error)
	Forget   func(box string) error // deletes what a box uploaded
	Ready    func() []string        // what is not up yet
	Broker   func() any
	View     *web.View // what the dashboard shows; without it there is only the API
	Staging  string    // directory for uploads on their way to being published
	Dir      string    // the manager's own: nothing in it is published
	Imports  []string  // directories that operators may publish from; absolute, without symbolic links
	Backup   func(ctx context.Context, w io.Writer) error
	Log      *slog.Logger
}

// Role is what a user may do; each role may do all that those before it may.
type Role int

// The roles.
const (
	Nobody    Role = iota
	Viewer         // read everything but secrets
	Publisher      // publish and withdraw under one publisher's name
	Operator       // campaigns, wishes, commands, enrolment
	Admin          // users, publishers, keys, backup
)

var roleNames = map[string]Role{"viewer": Viewer, "publisher": Publisher, "operator": Operator, "admin": Admin}

// User is somebody with a token of their own.
type User struct {
	Name      string `json:"name"`
	Role      string `json:"role"`
	Publisher string `json:"publisher,omitempty"` // of the role publisher
	Hash      string `json:"hash,omitempty"`      // SHA-256 of the token
}

const tableUsers = "users"

// who is the user of a request.
type who struct {
	name      string
	role      Role
	publisher string
}

type server struct {
	o   Options
	mux *http.ServeMux
	log *slog.Logger
}

// New makes the handler.
func New(o Options) http.Handler {
	s := &server{o: o, mux: http.NewServeMux(), log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.routes()
	return http.HandlerFunc(s.serve)
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", web.Policy)
	if s.o.Loopback && !loopbackHost(r.Host) {
		fail(w, http.StatusMisdirectedRequest, "host", "this address answers only to loopback names")
		return
	}
	s.mux.ServeHTTP(patient{w, http.NewResponseController(w), stallLimit}, r)
}

func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// handler answers with a value for JSON, or an error; a nil value means that it wrote the answer itself.
type handler func(w http.ResponseWriter, r *http.Request, u who) (any, error)

// on routes a pattern for a role.
func (s *server) on(pattern string, need Role, h handler) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		change := r.Method != http.MethodGet && r.Method != http.MethodHead
		u, err := s.user(r, change)
		if err != nil {
			s.fault(w, r, err)
			return
		}
		if u.role < need {
			status, code := http.StatusForbidden, "forbidden"
			if u.role == Nobody {
				status, code = http.StatusUnauthorized, "unauthorised"
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			fail(w, status, code, "this needs a token of a higher role")
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		out, err := h(w, r, u)
		switch {
		case err != nil:
			s.fault(w, r, err)
		case out != nil:
			writeJSON(w, http.StatusOK, out)
		}
	})
}

// user finds out who asks: by a token, or by the session of a page.
func (s *server) user(r *http.Request, change bool) (who, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if ok {
		return s.byToken(r.Context(), token)
	}
	if u, err := s.cookieUser(r, change); err != nil || u.role != Nobody {
		return u, err
	}
	if s.o.Loopback && !change {
		return who{name: "local", role: Viewer}, nil
	}
	return who{}, nil
}

func (s *server) users(ctx context.Context) ([]User, error) {
	return registry.ListDocs[User](ctx, s.o.Fleet.Registry(), tableUsers)
}

func (s *server) byToken(ctx context.Context, token string) (who, error) {
	if subtle.ConstantTimeCompare([]byte(token), []byte(s.o.Token)) == 1 {
		return who{name: "admin", role: Admin}, nil
	}
	users, err := s.users(ctx)
	if err != nil {
		return who{}, err
	}
	sum := hashToken(token)
	for _, u := range users {
		if subtle.ConstantTimeCompare([]byte(sum), []byte(u.Hash)) == 1 {
			return who{u.Name, roleNames[u.Role], u.Publisher}, nil
		}
	}
	return who{}, nil
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// fault maps errors to statuses. Faults of the machine are logged and not told in detail.
func (s *server) fault(w http.ResponseWriter, r *http.Request, err error) {
	var tooLong *http.MaxBytesError
	switch {
	case errors.Is(err, operate.ErrBad):
		fail(w, http.StatusBadRequest, "bad-request", err.Error())
	case errors.As(err, &tooLong):
		fail(w, http.StatusRequestEntityTooLarge, "too-large", err.Error())
	case errors.Is(err, registry.ErrNotFound),
		errors.Is(err, repo.ErrNotFound),
		errors.Is(err, ca.ErrNoBox),
		errors.Is(err, ca.ErrNoToken):
		fail(w, http.StatusNotFound, "not-found", err.Error())
	case errors.Is(err, operate.ErrNoKey):
		fail(w, http.StatusConflict, "key-elsewhere", err.Error())
	case errors.Is(err, operate.ErrConflict), errors.Is(err, repo.ErrExists):
		fail(w, http.StatusConflict, "conflict", err.Error())
	case errors.Is(err, repo.ErrQuota):
		fail(w, http.StatusForbidden, "quota", err.Error())
	case errors.Is(err, errSendFile):
		fail(w, http.StatusForbidden, "send-file", err.Error())
	case errors.Is(err, errForbidden):
		fail(w, http.StatusForbidden, "forbidden", err.Error())
	case errors.Is(err, web.ErrNotYet):
		fail(w, http.StatusServiceUnavailable, "not-yet", err.Error())
	case r.Context().Err() != nil:
		fail(w, http.StatusServiceUnavailable, "cancelled", "the request was cancelled")
	default:
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		fail(w, http.StatusInternalServerError, "internal", err.Error())
	}
}

var errForbidden = errors.New("not allowed for this user")

func fail(w http.ResponseWriter, status int, code, text string) {
	writeJSON(w, status, map[string]string{"code": code, "error": text})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"code":"internal","error":"the answer could not be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the client may be gone
}

const maxBody = 1 << 20

// body reads a JSON document strictly.
func body(w http.ResponseWriter, r *http.Request, into any) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return fmt.Errorf("%w: want Content-Type application/json", operate.ErrBad)
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", operate.ErrBad, err)
	}
	if dec.More() {
		return fmt.Errorf("%w: more than one document", operate.ErrBad)
	}
	return nil
}

func number(r *http.Request, name string, def, limit int) (int, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > limit {
		return 0, fmt.Errorf("%w: %s=%.40q, want 0 to %d", operate.ErrBad, name, v, limit)
	}
	return n, nil
}

func assetOf(s string) (asset.ID, error) {
	id, err := asset.ParseID(s)
	if err != nil {
		return id, fmt.Errorf("%w: %w", operate.ErrBad, err)
	}
	return id, nil
}
