package api

import (
	"errors"
	"fmt"
	"net/http"

	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/repo"
	"boxd/internal/identity/pki"
)

// draftWillDo reports whether the caller takes a draft where a key is elsewhere.
func draftWillDo(r *http.Request) bool { return r.URL.Query().Get("draft") == "true" }

func doneOrDraft(d *repo.Draft, err error) (any, error) {
	if d == nil || err != nil {
		return ok, err
	}
	return map[string]any{"draft": d}, nil
}

func (s *server) removePublisher(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	return doneOrDraft(s.o.Fleet.RemovePublisher(r.Context(), u.name, r.PathValue("publisher"), draftWillDo(r)))
}

// revokeSerial refuses what its own authority depends on.
func (s *server) revokeSerial(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		Serial string `json:"serial"`
		Reason string `json:"reason"`
	}
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	serial, err := pki.ParseSerial(in.Serial)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", operate.ErrBad, err)
	}
	err = s.o.Fleet.RevokeSerial(r.Context(), u.name, serial, in.Reason)
	if errors.Is(err, ca.ErrInUse) {
		err = fmt.Errorf("%w: %w", operate.ErrConflict, err)
	}
	return ok, err
}
