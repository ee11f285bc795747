package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"boxd/internal/control"
)

// routes is everything that the box's own devices may ask.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	s.readRoutes(mux)
	mux.HandleFunc("GET /assets/{id}/{path...}", s.media)
	mux.HandleFunc("POST /api/v1/commands", s.timed(s.command))
	mux.HandleFunc("POST /api/v1/playback", s.timed(s.lease))
	mux.HandleFunc("DELETE /api/v1/playback", s.timed(s.endLease))
	mux.HandleFunc("GET /api/v1/bugreport", s.timed(s.bugReport))
	mux.HandleFunc("GET /api/v1/pairing", s.timed(s.pairingCode))
	mux.HandleFunc("GET /metrics", s.timed(s.metrics))
	mux.HandleFunc("GET /healthz", s.timed(s.healthz))
	mux.HandleFunc("GET /readyz", s.timed(s.readyz))
	return mux
}

// readRoutes is what the home's other devices may see, too.
func (s *Server) readRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/status", s.timed(s.status))
	mux.HandleFunc("GET /api/v1/assets", s.timed(s.assets))
	mux.HandleFunc("GET /api/v1/assets/{id}", s.timed(s.asset))
	mux.HandleFunc("GET /api/v1/history", s.timed(s.history))
	mux.HandleFunc("GET /api/v1/schedule", s.timed(s.schedule))
	mux.HandleFunc("GET /api/v1/events", s.events)
	s.pageRoutes(mux)
}

// timed bounds how long an answer may take to be read.
func (s *Server) timed(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout)) // best effort
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h(w, r)
	}
}

// apiError is the body of every refusal.
type apiError struct {
	Error struct {
		Code string `json:"code"`
		Text string `json:"text"`
	} `json:"error"`
}

func fail(w http.ResponseWriter, status int, code, text string) {
	var e apiError
	e.Error.Code, e.Error.Text = code, text
	answer(w, status, e)
}

func answer(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the reader has gone
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, s.o.Box.Snapshot())
}

func (s *Server) assets(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"assets": s.o.Box.Snapshot().Assets})
}

func (s *Server) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := s.o.Box.Snapshot().Asset(r.PathValue("id"))
	if !ok {
		fail(w, http.StatusNotFound, control.CodeNoAsset, "no such asset")
		return
	}
	if full, ok := s.o.Box.AssetFiles(a.ID); ok {
		a = full
	}
	answer(w, http.StatusOK, a)
}

func (s *Server) history(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, s.o.Box.History())
}

func (s *Server) schedule(w http.ResponseWriter, r *http.Request) {
	hours := 24
	if q := r.URL.Query().Get("hours"); q != "" {
		n, err := strconv.Atoi(q)
		if err != nil || n < 1 || n > 48 {
			fail(w, http.StatusBadRequest, control.CodeBadArgs, "hours: want 1 to 48")
			return
		}
		hours = n
	}
	answer(w, http.StatusOK, s.o.Box.Day(time.Duration(hours)*time.Hour))
}

func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		fail(w, http.StatusBadRequest, control.CodeBadArgs, "body: "+err.Error())
		return false
	}
	// It is all here. A deadline that passed now would be taken for the end of the connection and end the work.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // best effort
	return true
}

func (s *Server) command(w http.ResponseWriter, r *http.Request) {
	var cmd control.Command
	if !readJSON(w, r, &cmd) {
		return
	}
	// A verify of a large asset takes longer than an answer may.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // best effort
	res := s.o.Box.Do(r.Context(), cmd)
	status := http.StatusOK
	switch {
	case res.Status == control.Done:
	case res.Code == control.CodeUnknown, res.Code == control.CodeBadArgs:
		status = http.StatusBadRequest
	case res.Code == control.CodeNoAsset:
		status = http.StatusNotFound
	default:
		status = http.StatusConflict
	}
	answer(w, status, res)
}

// leaseRequest asks boxd to hold back while a player is at work.
type leaseRequest struct {
	Seconds int    `json:"seconds"`
	Player  string `json:"player,omitempty"` // that plays, so that its lease is apart from others'; any name
}

// maxPlayer bounds a player's name, in bytes.
const maxPlayer = 64

type leaseAnswer struct {
	Until time.Time `json:"until"`
}

func (s *Server) lease(w http.ResponseWriter, r *http.Request) {
	var req leaseRequest
	if !readJSON(w, r, &req) {
		return
	}
	if req.Seconds < 1 || req.Seconds > int(control.MaxLease/time.Second) {
		fail(w, http.StatusBadRequest, control.CodeBadArgs,
			"seconds: want 1 to "+strconv.Itoa(int(control.MaxLease/time.Second)))
		return
	}
	if len(req.Player) > maxPlayer {
		fail(w, http.StatusBadRequest, control.CodeBadArgs, "player: want at most "+strconv.Itoa(maxPlayer)+" bytes")
		return
	}
	until := s.o.Box.Playback().Lease(req.Player, time.Duration(req.Seconds)*time.Second)
	answer(w, http.StatusOK, leaseAnswer{until})
}

func (s *Server) endLease(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, leaseAnswer{s.o.Box.Playback().Lease(r.URL.Query().Get("player"), 0)})
}

func (s *Server) bugReport(w http.ResponseWriter, r *http.Request) {
	var buf, metrics bytes.Buffer // bounded by what a report holds, so that a fault on the way is an error and no torn archive
	writeMetrics(&metrics, s.o.Box.Snapshot())
	if err := s.o.Box.BugReport(r.Context(), &buf, control.ReportPart{Name: "metrics.txt", Text: metrics.String()}); err != nil {
		s.log.Warn("bug report", "error", err)
		fail(w, http.StatusInternalServerError, control.CodeFailed, "the report could not be made: "+err.Error())
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/gzip")
	h.Set("Content-Disposition", `attachment; filename="boxd-bugreport.tar.gz"`)
	_, _ = buf.WriteTo(w) // the reader has gone
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	if err := s.o.Box.Probe(r.Context()); err != nil {
		fail(w, http.StatusServiceUnavailable, "stuck", err.Error())
		return
	}
	answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if ok, why := s.o.Box.Ready(); !ok {
		fail(w, http.StatusServiceUnavailable, "not-ready", why)
		return
	}
	answer(w, http.StatusOK, map[string]string{"status": "ready"})
}
