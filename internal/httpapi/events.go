package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Pace of the event stream.
const (
	eventGap       = time.Second      // least time between two events
	eventHeartbeat = 15 * time.Second // most time between two events
)

// events streams the snapshot as server-sent events: one at once, then one when something has changed.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusServiceUnavailable, "too-many-watchers", "too many open event streams")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	ctl := http.NewResponseController(w)
	ticker := time.NewTicker(eventGap)
	defer ticker.Stop()
	for {
		changed := s.o.Box.Changed()
		body, err := json.Marshal(s.o.Box.Snapshot())
		if err != nil {
			s.log.Error("encode the snapshot", "error", err)
			return
		}
		_ = ctl.SetWriteDeadline(time.Now().Add(answerTimeout)) // best effort
		if _, err := fmt.Fprintf(w, "event: status\ndata: %s\n\n", body); err != nil {
			return
		}
		if err := ctl.Flush(); err != nil || !waitForChange(r, changed, ticker.C) {
			return
		}
	}
}

// waitForChange waits the gap, and then for a change or the heartbeat.
func waitForChange(r *http.Request, changed <-chan struct{}, gap <-chan time.Time) bool {
	done := r.Context().Done()
	select {
	case <-done:
		return false
	case <-gap:
	}
	heartbeat := time.NewTimer(eventHeartbeat)
	defer heartbeat.Stop()
	select {
	case <-done:
		return false
	case <-changed:
	case <-heartbeat.C:
	}
	return true
}
