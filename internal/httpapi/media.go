package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"boxd/internal/asset"
	"boxd/internal/control"
)

// media serves one file of an asset (RFC 9110 ranges and conditions, by http.ServeContent).
func (s *Server) media(w http.ResponseWriter, r *http.Request) {
	id, err := asset.ParseID(r.PathValue("id"))
	if err != nil {
		fail(w, http.StatusNotFound, control.CodeNoAsset, "no such asset")
		return
	}
	if !s.seat(r.Context()) {
		w.Header().Set("Retry-After", "2")
		fail(w, http.StatusServiceUnavailable, "too-many-players", "too many open player connections")
		return
	}
	defer func() { <-s.players }()
	c, err := s.o.Box.OpenFile(r.Context(), id, r.PathValue("path"))
	switch {
	case refused(w, err):
		return
	case errors.Is(err, control.ErrNoAsset), errors.Is(err, control.ErrNoFile):
		fail(w, http.StatusNotFound, control.CodeNoAsset, err.Error())
		return
	case err != nil:
		s.log.Warn("open for a player", "asset", id, "error", err)
		fail(w, http.StatusServiceUnavailable, control.CodeUnavailable, "the file cannot be opened now")
		return
	}
	defer c.Close() // it was only read
	p := s.o.Box.Playback()
	if r.Method == http.MethodGet {
		watching := p.Wait()
		err := begin(c, r)
		watching()
		if refused(w, err) {
			return
		}
		defer p.Open()()
	}
	h := w.Header()
	h.Set("Content-Type", c.Type)
	h.Set("ETag", c.ETag)
	h.Set("Cache-Control", "private, no-store") // the disk has it once already
	h.Set("Content-Security-Policy", mediaPolicy(c.Type))
	out := &mediaWriter{ResponseWriter: w, ctl: http.NewResponseController(w), playback: p}
	http.ServeContent(out, r, c.Name, c.ModTime, &mediaReader{c, p})
}

// refused answers a player that nothing comes now, and says so.
func refused(w http.ResponseWriter, err error) bool {
	var notNow *control.NotNowError
	if !errors.As(err, &notNow) {
		return false
	}
	w.Header().Set("Retry-After", "30")
	fail(w, http.StatusServiceUnavailable, notNow.Code, notNow.Text)
	return true
}

// begin waits until it is known whether the first bytes that a request asks for come. The answer to one that has the file
// already, or asks for what is behind its end, needs none.
func begin(c *control.Content, r *http.Request) error {
	from := firstByte(r.Header.Get("Range"), c.Length)
	if c.Begin == nil || from >= c.Length || r.Header.Get("If-None-Match") != "" {
		return nil
	}
	return c.Begin(from)
}

// firstByte is where the first range of a request begins (RFC 9110, section 14.1.2); the length if that is behind the end.
// http.ServeContent says what is wrong with one.
func firstByte(header string, length int64) int64 {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return 0
	}
	spec, _, _ = strings.Cut(spec, ",")
	from, to, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return 0
	}
	if from == "" {
		if n, err := strconv.ParseInt(to, 10, 64); err == nil && n > 0 {
			return max(length-n, 0)
		}
		return 0
	}
	if n, err := strconv.ParseInt(from, 10, 64); err == nil && n > 0 {
		return min(n, length)
	}
	return 0
}

// mediaPolicy is the content security policy of a media response that a browser opens by itself. No script runs in it, and it
// asks nobody but this server. What a browser could take for a page is cut off from the box's own origin as well. For sound and
// pictures browsers make a page of their own with a player, which must be of this origin, else it may not read the file.
func mediaPolicy(contentType string) string {
	policy := "default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
	switch kind, sub, _ := strings.Cut(contentType, "/"); {
	case kind == "video", kind == "audio", kind == "image" && !strings.HasPrefix(sub, "svg"):
		return policy // with nosniff it is never taken for anything else
	}
	return "sandbox; " + policy
}

// mediaReader tells the playback state that a player waits while a Read waits.
type mediaReader struct {
	*control.Content
	playback *control.Playback
}

func (m *mediaReader) Read(p []byte) (int, error) {
	defer m.playback.Wait()()
	return m.Content.Read(p)
}

// mediaWriter gives a player time as long as it takes bytes, and lets the kernel send them.
type mediaWriter struct {
	http.ResponseWriter
	ctl      *http.ResponseController
	playback *control.Playback
}

func (m *mediaWriter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

func (m *mediaWriter) progress() {
	m.playback.Touch()
	_ = m.ctl.SetWriteDeadline(time.Now().Add(stallTimeout)) // not every connection has deadlines
}

func (m *mediaWriter) Write(p []byte) (int, error) {
	m.progress()
	return m.ResponseWriter.Write(p)
}

// ReadFrom is what http.ServeContent copies through.
func (m *mediaWriter) ReadFrom(src io.Reader) (sent int64, err error) {
	_ = m.ctl.Flush() // the header goes before a wait for the first byte; not every writer can
	lim, ok := src.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{m}, src)
	}
	reader, ok := lim.R.(*mediaReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{m}, src)
	}
	out := &sink{mediaWriter: m}
	out.wait()
	defer out.proceed()
	sent, err = reader.Send(out, lim.N)
	lim.N -= sent
	return sent, err
}

// sink is what Content.Send writes to: between its calls the player waits for bytes that are not here.
type sink struct {
	*mediaWriter
	waited func()
}

func (s *sink) wait() { s.waited = s.playback.Wait() }

func (s *sink) proceed() { s.waited() }

func (s *sink) Write(p []byte) (int, error) {
	s.proceed()
	defer s.wait()
	n, err := s.mediaWriter.Write(p)
	_ = s.ctl.Flush() // what is here goes out before a wait for what is not
	return n, err
}

// ReadFrom hands a file on to the connection, a chunk at a time.
func (s *sink) ReadFrom(src io.Reader) (int64, error) {
	s.proceed()
	defer s.wait()
	s.progress()
	if rf, ok := s.ResponseWriter.(io.ReaderFrom); ok {
		return rf.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{s.mediaWriter}, src)
}

// seatWait is how long a player waits for one that is just leaving: whoever seeks opens a connection before the end of the
// last one has been noticed.
const seatWait = 2 * time.Second

// seat takes one of the places for players.
func (s *Server) seat(ctx context.Context) bool {
	select {
	case s.players <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(seatWait)
	defer timer.Stop()
	select {
	case s.players <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
