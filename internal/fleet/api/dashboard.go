package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/fleet/web"
)

// dashboard routes the pages and what they ask for. /data/… may change with the pages; /api/v1/… is the one to rely on.
func (s *server) dashboard() {
	s.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { web.Serve(w, r, "index.html") })
	s.mux.HandleFunc("GET /static/{file}", func(w http.ResponseWriter, r *http.Request) { web.Serve(w, r, r.PathValue("file")) })
	s.mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, r *http.Request) { web.Serve(w, r, "icon.svg") })
	s.mux.HandleFunc("POST /sign-in", s.signIn)
	s.mux.HandleFunc("POST /sign-out", s.signOut)
	s.on("GET /data/me", Viewer, s.me)
	if s.o.View == nil {
		return
	}
	s.on("GET /data/overview", Viewer, func(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
		return s.o.View.Overview(r.Context())
	})
	s.on("GET /data/offload", Viewer, func(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
		hours, err := number(r, "hours", 24, 24*366)
		if err != nil {
			return nil, err
		}
		return s.o.View.Offload(r.Context(), max(hours, 1))
	})
	s.on("GET /data/campaigns", Viewer, func(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
		limit, err := number(r, "limit", 50, 200)
		if err != nil {
			return nil, err
		}
		return s.o.View.Campaigns(r.Context(), r.URL.Query().Get("after"), limit)
	})
	s.on("GET /data/campaigns/{id}", Viewer, func(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
		return s.o.View.Campaign(r.Context(), r.PathValue("id"))
	})
	s.on("GET /data/boxes", Viewer, s.boxPage)
	s.on("GET /data/boxes/{box}", Viewer, func(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
		return s.o.View.Box(r.Context(), r.PathValue("box"))
	})
	s.on("GET /data/publishers", Viewer, func(http.ResponseWriter, *http.Request, who) (any, error) {
		return s.o.Fleet.PublisherKeys()
	})
	s.on("POST /data/drafts", Publisher, s.importDraft)
}

func (s *server) boxPage(_ http.ResponseWriter, r *http.Request, _ who) (any, error) {
	limit, err := number(r, "limit", 50, 200)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	return s.o.View.Boxes(r.Context(), registry.BoxQuery{
		Group: q.Get("group"), Software: q.Get("version"), Code: q.Get("code"), State: q.Get("state"), Prefix: q.Get("q"),
		Lacking: q.Get("lacking"), After: q.Get("after"), Limit: limit,
	})
}

const maxDraft = 64 << 20

// importDraft takes a draft that came back signed. Its signatures are what lets it in, not who brings it.
func (s *server) importDraft(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, fmt.Errorf("%w: want Content-Type application/json", operate.ErrBad)
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDraft))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", operate.ErrBad, err)
	}
	return ok, s.o.Fleet.ImportDraft(r.Context(), u.name, data)
}

// publishOrDraft publishes, or drafts when the publisher's key is elsewhere and the request says that a draft will do.
func (s *server) publishOrDraft(r *http.Request, u who, req operate.PublishRequest) (key string, out any, err error) {
	a, err := s.o.Fleet.Publish(r.Context(), u.name, req)
	if err == nil || r.URL.Query().Get("draft") != "true" || !errors.Is(err, operate.ErrNoKey) && !errors.Is(err, repo.ErrNoKey) {
		return "asset", a, err
	}
	d, err := s.o.Fleet.DraftAsset(r.Context(), u.name, req)
	return "draft", d, err
}
