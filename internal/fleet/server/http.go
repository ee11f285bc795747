package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/api"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/origin"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/tracker"
	"boxd/internal/fleet/web"
	"boxd/internal/mqttwire"
)

// readiness collects what must have happened before boxes can be served.
type readiness struct {
	mu      sync.Mutex // guards the fields below
	waiting map[string]bool
}

func (r *readiness) wait(what ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = map[string]bool{}
	for _, w := range what {
		r.waiting[w] = true
	}
}

func (r *readiness) done(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, what)
}

func (r *readiness) missing() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for w := range r.waiting {
		list = append(list, w)
	}
	return list
}

func (s *Server) openHTTP() {
	s.origin = origin.New(origin.Options{Dir: filepath.Join(s.o.Dir, dirOrigin), Now: s.o.Now})
	var region func(netip.Addr) string
	if s.regions != nil {
		region = s.regions.Of
	}
	s.tracker = tracker.New(tracker.Options{
		Region: region,
		Known:  s.fleet.Known,
		Allowed: func(box string, id asset.ID) bool {
			return s.fleet.Allowed(context.Background(), box, s.fleet.GroupOf(context.Background(), box), id)
		},
		Box: func(r *http.Request) (string, bool) {
			p, ok := ca.PeerFrom(r.Context())
			return p.BoxID, ok
		},
		Now: s.o.Now,
	})
	s.view = web.New(web.Options{Fleet: s.fleet, Origin: s.originSent, Now: s.o.Now, Log: s.log})
}

// boxes is what the fleet's boxes see. Enrolment judges for itself; all else needs a valid certificate of a box.
func (s *Server) boxes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/.well-known/est/", s.ca.Handler())
	mux.Handle("/tuf/", s.ca.RequireBox(http.StripPrefix("/tuf", s.repo.Handler())))
	mux.Handle("/origin/", s.ca.RequireBox(http.StripPrefix("/origin", s.origin)))
	mux.Handle("/announce", s.ca.RequireBox(s.tracker))
	mux.Handle("PUT /upload/{name}", s.ca.RequireBox(http.HandlerFunc(s.upload)))
	return mux
}

const (
	maxUpload    = 4 << 20 // bytes
	maxUploads   = 32      // documents kept for one box
	maxUploadSum = 8 << 20 // bytes of them together
)

// upload takes a document that is too long for MQTT: the list of holdings or a command's result.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	peer, ok := ca.PeerFrom(r.Context())
	name := r.PathValue("name")
	if !ok || !mqttwire.ValidBox(peer.BoxID) {
		http.Error(w, "no box", http.StatusForbidden)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUpload))
	if err != nil {
		http.Error(w, "too long, or cut off", http.StatusRequestEntityTooLarge)
		return
	}
	id, isResult := strings.CutPrefix(name, "result-")
	switch {
	case name == "holdings":
		var list mqttwire.HoldingsList
		if err = mqttwire.Decode(body, maxUpload, &list); err == nil {
			err = s.reg.SetHoldings(r.Context(), peer.BoxID, &list)
		}
	case isResult && mqttwire.ValidCommandID(id) && json.Valid(body):
		err = s.keepUpload(peer.BoxID, name, body)
	default:
		http.Error(w, "unknown document", http.StatusBadRequest)
		return
	}
	switch {
	case errors.Is(err, mqttwire.ErrInvalid), errors.Is(err, mqttwire.ErrVersion), errors.Is(err, mqttwire.ErrTooBig):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case err != nil:
		s.log.Warn("upload not stored", "box", peer.BoxID, "name", name, "err", err)
		http.Error(w, "not stored", http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// keepUpload stores a document of a box and forgets its oldest beyond the bounds.
func (s *Server) keepUpload(box, name string, body []byte) error {
	dir := filepath.Join(s.o.Dir, dirUploads, box)
	if err := writeFile(filepath.Join(dir, name+".json"), body, 0o600); err != nil {
		return err
	}
	if err := forgetOldest(dir, maxUploads, maxUploadSum); err != nil {
		return fmt.Errorf("forget upload of %s: %w", box, err)
	}
	return nil
}

// forgetOldest removes the oldest files of a directory until at most count of them, with at most sum bytes, are left.
func forgetOldest(dir string, count int, sum int64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // else another upload just forgot it
			files = append(files, info)
			total += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for len(files) > count || total > sum {
		if err := os.Remove(filepath.Join(dir, files[0].Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= files[0].Size()
		files = files[1:]
	}
	return nil
}

func (s *Server) serve(ctx context.Context, l net.Listener, h http.Handler, body time.Duration) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: body, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what clients do wrong
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if srv.Shutdown(stop) != nil {
			_ = srv.Close()
		}
	}()
	err := srv.Serve(l)
	if ctx.Err() != nil {
		<-done
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// api makes the operator's handler.
func (s *Server) api(token string) http.Handler {
	return api.New(api.Options{
		Fleet: s.fleet, Token: token, Log: s.log, Origin: s.originSent, View: s.view,
		Upload: func(box, name string) ([]byte, error) {
			return os.ReadFile(filepath.Join(s.o.Dir, dirUploads, box, name+".json"))
		},
		Forget: func(box string) error {
			if !mqttwire.ValidBox(box) {
				return nil
			}
			return os.RemoveAll(filepath.Join(s.o.Dir, dirUploads, box))
		},
		Ready:    s.missing,
		Broker:   s.brokerStats,
		Staging:  filepath.Join(s.o.Dir, dirStaging),
		Backup:   s.Backup,
		Dir:      s.o.Dir,
		Imports:  s.o.Imports,
		Loopback: loopback(s.apiL.Addr()),
	})
}

// originSent counts the bytes that this origin sent of each asset.
func (s *Server) originSent() map[asset.ID]int64 {
	sent := map[asset.ID]int64{}
	for _, c := range s.origin.All() {
		sent[c.ID] = c.Bytes
	}
	return sent
}

func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

func (s *Server) brokerStats() any {
	if s.nats == nil {
		return map[string]string{"nats": s.o.NATS}
	}
	return s.nats.Stats()
}

// cleanStaging removes what an end left unfinished: all of it, or, since another fleetd may share the directory, what nobody
// touched for a day.
func cleanStaging(dir string, shared bool) error {
	var before time.Time
	if shared {
		before = time.Now().Add(-24 * time.Hour)
	}
	if err := publish.RemoveUntouched(filepath.Join(dir, dirStaging), "", before); err != nil {
		return fmt.Errorf("clean staging: %w", err)
	}
	if err := publish.CleanStaging(filepath.Join(dir, dirOrigin), before); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
