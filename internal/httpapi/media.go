package httpapi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/control"
)

// sendChunk is what goes to a player between two looks at the clock.
const sendChunk = 1 << 20

// media serves one file of an asset (RFC 9110 ranges and conditions, by http.ServeContent).
func (s *Server) media(w http.ResponseWriter, r *http.Request) {
	id, err := asset.ParseID(r.PathValue("id"))
	if err != nil {
		fail(w, http.StatusNotFound, control.CodeNoAsset, "no such asset")
		return
	}
	select {
	case s.players <- struct{}{}:
		defer func() { <-s.players }()
	default:
		w.Header().Set("Retry-After", "2")
		fail(w, http.StatusServiceUnavailable, "too-many-players", "too many open player connections")
		return
	}
	c, err := s.o.Box.OpenFile(r.Context(), id, r.PathValue("path"))
	switch {
	case errors.Is(err, control.ErrNoAsset), errors.Is(err, control.ErrNoFile):
		fail(w, http.StatusNotFound, control.CodeNoAsset, err.Error())
		return
	case err != nil:
		s.log.Warn("open for a player", "asset", id, "error", err)
		fail(w, http.StatusServiceUnavailable, control.CodeUnavailable, "the file cannot be opened now")
		return
	}
	defer c.Close() //nolint:errcheck // it was only read
	p := s.o.Box.Playback()
	if r.Method == http.MethodGet {
		defer p.Open()()
	}
	h := w.Header()
	h.Set("Content-Type", c.Type)
	h.Set("ETag", c.ETag)
	h.Set("Cache-Control", "private, no-store") // the disk has it once already
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; media-src 'self'; style-src 'unsafe-inline'")
	out := &mediaWriter{ResponseWriter: w, ctl: http.NewResponseController(w), playback: p, content: c}
	http.ServeContent(out, r, c.Name, c.ModTime, &mediaReader{Content: c, playback: p})
}

// mediaReader tells the playback state that a player waits while a Read waits.
type mediaReader struct {
	*control.Content
	playback *control.Playback
	pos      int64
}

func (m *mediaReader) Seek(off int64, whence int) (int64, error) {
	pos, err := m.Content.Seek(off, whence)
	if err == nil {
		m.pos = pos
	}
	return pos, err
}

func (m *mediaReader) Read(p []byte) (int, error) {
	defer m.playback.Wait()()
	n, err := m.Content.Read(p)
	m.pos += int64(n)
	return n, err
}

// mediaWriter gives a player time as long as it takes bytes, and lets the kernel send what is all here.
type mediaWriter struct {
	http.ResponseWriter
	ctl      *http.ResponseController
	playback *control.Playback
	content  *control.Content
}

func (m *mediaWriter) progress() {
	m.playback.Touch()
	_ = m.ctl.SetWriteDeadline(time.Now().Add(stallTimeout)) // not every connection has deadlines
}

func (m *mediaWriter) Write(p []byte) (int, error) {
	m.progress()
	return m.ResponseWriter.Write(p)
}

func (m *mediaWriter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// ReadFrom is what http.ServeContent copies through. What is here goes out before a wait for what is not.
func (m *mediaWriter) ReadFrom(src io.Reader) (sent int64, err error) {
	lim, ok := src.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{m}, src)
	}
	_ = m.ctl.Flush()                            // the header; not every writer can
	buf := copyBuffers.Get().(*[copyBuffer]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer copyBuffers.Put(buf)
	for lim.N > 0 {
		if f, ok := m.whole(lim.R); ok {
			n, err := m.send(f, lim.N)
			return sent + n, err
		}
		n, readErr := lim.Read(buf[:])
		if n > 0 {
			w, err := m.Write(buf[:n])
			sent += int64(w)
			if err != nil {
				return sent, err
			}
			if n < len(buf) {
				_ = m.ctl.Flush() // the next Read may wait
			}
		}
		if readErr != nil {
			if errors.Is(readErr, io.EOF) {
				readErr = nil
			}
			return sent, readErr
		}
	}
	return sent, nil
}

// copyBuffer is large enough that a player costs few system calls, and small beside a piece.
const copyBuffer = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// whole returns the complete file behind src, if it is complete, placed where src is.
func (m *mediaWriter) whole(src io.Reader) (*os.File, bool) {
	reader, isMedia := src.(*mediaReader)
	if !isMedia || m.content.Whole == nil {
		return nil, false
	}
	f, off, ok := m.content.Whole()
	if !ok {
		return nil, false
	}
	if _, err := f.Seek(off+reader.pos, io.SeekStart); err != nil {
		return nil, false
	}
	return f, true
}

// send lets the kernel copy the next limit bytes of f, a chunk at a time.
func (m *mediaWriter) send(f *os.File, limit int64) (sent int64, err error) {
	rf, ok := m.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{m}, io.LimitReader(f, limit))
	}
	for sent < limit {
		m.progress()
		n, err := rf.ReadFrom(io.LimitReader(f, min(sendChunk, limit-sent)))
		sent += n
		if err != nil {
			return sent, err
		}
		if n == 0 {
			return sent, io.ErrUnexpectedEOF
		}
	}
	return sent, nil
}
