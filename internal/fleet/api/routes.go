package api

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
)

// routes is the whole API; openapi.yaml describes it, and a test compares the two.
func (s *server) routes() {
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.dashboard()
	s.mux.HandleFunc("GET /openapi.yaml", s.openapi)

	s.on("GET /metrics", Viewer, s.metrics)
	s.on("GET /api/v1/fleet", Viewer, s.getFleet)
	s.on("GET /api/v1/boxes", Viewer, s.getBoxes)
	s.on("GET /api/v1/boxes/{box}", Viewer, s.getBox)
	s.on("GET /api/v1/boxes/{box}/history", Viewer, s.getHistory)
	s.on("GET /api/v1/boxes/{box}/uploads/{name}", Viewer, s.getUpload)
	s.on("POST /api/v1/boxes/{box}/revoke", Operator, s.revokeBox)
	s.on("DELETE /api/v1/boxes/{box}", Operator, s.forgetBox)
	s.on("POST /api/v1/boxes/{box}/group", Operator, s.moveBox)
	s.on("GET /api/v1/groups", Viewer, s.getGroups)
	s.on("GET /api/v1/config/{target}", Viewer, s.getConfig)
	s.on("PUT /api/v1/config/{target}", Operator, s.putConfig)

	s.on("GET /api/v1/assets", Viewer, s.getAssets)
	s.on("GET /api/v1/assets/{id}", Viewer, s.getAsset)
	s.on("POST /api/v1/assets", Publisher, s.publish)
	s.on("PUT /api/v1/assets/upload", Publisher, s.publishUpload)
	s.on("DELETE /api/v1/assets/{id}", Publisher, s.removeAsset)
	s.on("POST /api/v1/assets/{id}/withdraw", Publisher, s.withdraw)
	s.on("POST /api/v1/assets/{id}/readmit", Publisher, s.readmit)
	s.on("GET /api/v1/origin", Viewer, s.getOrigin)
	s.on("GET /api/v1/publishers", Viewer, s.getPublishers)
	s.on("POST /api/v1/publishers", Admin, s.addPublisher)
	s.on("DELETE /api/v1/publishers/{publisher}", Admin, s.removePublisher)
	s.on("POST /api/v1/revocations", Admin, s.revokeSerial)
	s.on("GET /api/v1/publishers/{publisher}/statement", Viewer, s.statement)

	s.on("GET /api/v1/campaigns", Viewer, s.getCampaigns)
	s.on("POST /api/v1/campaigns", Operator, s.createCampaign)
	s.on("GET /api/v1/campaigns/{id}", Viewer, s.getCampaign)
	s.on("POST /api/v1/campaigns/{id}/state", Operator, s.setCampaignState)

	s.on("GET /api/v1/commands", Viewer, s.getCommands)
	s.on("POST /api/v1/commands", Operator, s.createCommand)
	s.on("GET /api/v1/commands/{id}", Viewer, s.getCommand)

	s.on("GET /api/v1/proofs", Viewer, s.getProofs)
	s.on("GET /api/v1/alerts", Viewer, s.getAlerts)
	s.on("GET /api/v1/audit", Operator, s.getAudit)

	s.on("GET /api/v1/tokens", Operator, s.getTokens)
	s.on("POST /api/v1/tokens", Operator, s.createToken)
	s.on("DELETE /api/v1/tokens/{id}", Operator, s.revokeToken)
	s.on("GET /api/v1/users", Admin, s.getUsers)
	s.on("POST /api/v1/users", Admin, s.createUser)
	s.on("DELETE /api/v1/users/{name}", Admin, s.deleteUser)
	s.on("GET /api/v1/backup", Admin, s.backup)
}

func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	missing := s.o.Ready()
	if err := s.o.Fleet.Registry().Ping(r.Context()); err != nil {
		missing = append(missing, "database")
	}
	if len(missing) > 0 {
		fail(w, http.StatusServiceUnavailable, "not-ready", "waiting for "+strings.Join(missing, ", "))
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (s *server) getFleet(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	groups, err := s.o.Fleet.Registry().Groups(r.Context())
	if err != nil {
		return nil, err
	}
	out := struct {
		ID      string                `json:"id"`
		Time    time.Time             `json:"time"`
		Boxes   int                   `json:"boxes"`
		Online  int                   `json:"online"`
		AtRisk  int                   `json:"at_risk"`
		Groups  []registry.GroupCount `json:"groups"`
		Broker  any                   `json:"broker,omitempty"`
		Catalog int64                 `json:"catalog_version"`
		Roles   []repo.RoleStatus     `json:"catalog_roles"` // until when each signature of the catalog is good
	}{ID: s.o.Fleet.ID(), Time: time.Now().UTC(), Groups: groups}
	for _, g := range groups {
		out.Boxes += g.Boxes
		out.Online += g.Online
		out.AtRisk += g.AtRisk
	}
	if s.o.Broker != nil {
		out.Broker = s.o.Broker()
	}
	if out.Roles, err = s.o.Fleet.CatalogRoles(); err != nil {
		return nil, err
	}
	out.Catalog, err = s.o.Fleet.CatalogVersion()
	return out, err
}

func (s *server) getBoxes(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	q := r.URL.Query()
	limit, err := number(r, "limit", 1000, 10_000)
	if err != nil {
		return nil, err
	}
	f := registry.BoxFilter{
		Group: q.Get("group"), Code: q.Get("code"), After: q.Get("after"), Asset: q.Get("asset"), Lacking: q.Get("lacking"),
		Limit: limit, Brief: q.Get("brief") == "true", Revoked: q.Get("revoked") == "true",
	}
	if v := q.Get("online"); v != "" {
		online := v == "true"
		f.Online = &online
	}
	return s.o.Fleet.Registry().Boxes(r.Context(), f)
}

func (s *server) getBox(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	return s.o.Fleet.Registry().Box(r.Context(), r.PathValue("box"))
}

func (s *server) getHistory(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	limit, err := number(r, "limit", 200, 5000)
	if err != nil {
		return nil, err
	}
	before, err := number(r, "before", 0, 1<<62)
	if err != nil {
		return nil, err
	}
	if _, err := s.o.Fleet.Registry().Box(r.Context(), r.PathValue("box")); err != nil {
		return nil, err
	}
	return s.o.Fleet.Registry().History(r.Context(), r.PathValue("box"), int64(before), limit)
}

func (s *server) getUpload(w http.ResponseWriter, r *http.Request, _ who) (any, error) {
	box, name := r.PathValue("box"), r.PathValue("name")
	if _, err := s.o.Fleet.Registry().Box(r.Context(), box); err != nil {
		return nil, err
	}
	if strings.ContainsAny(name, "/\\.") {
		return nil, registry.ErrNotFound
	}
	data, err := s.o.Upload(box, name)
	if err != nil {
		return nil, registry.ErrNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
	return nil, nil
}

func (s *server) revokeBox(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		Reason string `json:"reason"`
	}
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	err := s.o.Fleet.RevokeBox(r.Context(), u.name, r.PathValue("box"), in.Reason)
	return ok, err
}

func (s *server) forgetBox(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	box := r.PathValue("box")
	if err := s.o.Fleet.ForgetBox(r.Context(), u.name, box); err != nil {
		return nil, err
	}
	return ok, s.o.Forget(box)
}

var ok = map[string]bool{"ok": true}

func (s *server) moveBox(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		Group string `json:"group"`
	}
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	return ok, s.o.Fleet.MoveBox(r.Context(), u.name, r.PathValue("box"), in.Group)
}

func (s *server) getGroups(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	return s.o.Fleet.Registry().Groups(r.Context())
}

func (s *server) getOrigin(http.ResponseWriter, *http.Request, who) (any, error) {
	return map[string]any{"bytes": s.o.Origin()}, nil
}

func (s *server) getAlerts(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	limit, err := number(r, "limit", 1000, 20_000)
	if err != nil {
		return nil, err
	}
	return s.o.Fleet.Registry().Alerts(r.Context(), r.URL.Query().Get("code"), limit)
}

func (s *server) getAudit(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	limit, err := number(r, "limit", 200, 5000)
	if err != nil {
		return nil, err
	}
	before, err := number(r, "before", 0, 1<<62)
	if err != nil {
		return nil, err
	}
	return s.o.Fleet.Registry().AuditLog(r.Context(), int64(before), limit)
}

func (s *server) getCampaigns(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	return s.o.Fleet.Campaigns(r.Context(), true)
}

func (s *server) getCampaign(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	return s.o.Fleet.Campaign(r.Context(), r.PathValue("id"))
}

func (s *server) createCampaign(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in operate.CampaignRequest
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	c, err := s.o.Fleet.CreateCampaign(r.Context(), u.name, in)
	if wantsDraft(r, err) {
		return s.o.Fleet.DraftCampaign(r.Context(), u.name, in)
	}
	return c, err
}

// wantsDraft reports whether a change could not be signed here and the request says that a draft will do.
func wantsDraft(r *http.Request, err error) bool {
	return errors.Is(err, operate.ErrNoKey) && r.URL.Query().Get("draft") == "true"
}

func (s *server) setCampaignState(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	var in struct {
		State string `json:"state"`
		Why   string `json:"why"`
	}
	if err := body(w, r, &in); err != nil {
		return nil, err
	}
	c, err := s.o.Fleet.SetCampaignState(r.Context(), u.name, r.PathValue("id"), in.State, in.Why)
	if wantsDraft(r, err) {
		return s.o.Fleet.DraftCampaignState(r.Context(), u.name, r.PathValue("id"))
	}
	return c, err
}
