package control

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
)

// LogRing keeps the last lines of the log in memory, for log-tail and bug reports.
type LogRing struct {
	mu    sync.Mutex // guards lines and next
	lines []string
	next  int
}

// maxLogLine bounds a kept line, in bytes.
const maxLogLine = 2048

// NewLogRing keeps up to n lines.
func NewLogRing(n int) *LogRing { return &LogRing{lines: make([]string, 0, max(n, 1))} }

// Handler passes records to next and keeps them as text.
func (r *LogRing) Handler(next slog.Handler) slog.Handler {
	return &ringHandler{next: next, text: slog.NewTextHandler(ringWriter{r}, &slog.HandlerOptions{Level: slog.LevelDebug})}
}

// Tail returns the last n lines, oldest first.
func (r *LogRing) Tail(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(append(make([]string, 0, len(r.lines)), r.lines[r.next:]...), r.lines[:r.next]...)
	return all[max(0, len(all)-max(n, 0)):]
}

func (r *LogRing) add(line string) {
	if len(line) > maxLogLine {
		line = strings.ToValidUTF8(line[:maxLogLine], "") + "…"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) < cap(r.lines) {
		r.lines = append(r.lines, line)
		return
	}
	r.lines[r.next] = line
	r.next = (r.next + 1) % len(r.lines)
}

type ringWriter struct{ r *LogRing }

func (w ringWriter) Write(p []byte) (int, error) {
	w.r.add(string(bytes.TrimRight(p, "\n")))
	return len(p), nil
}

type ringHandler struct{ next, text slog.Handler }

func (h *ringHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *ringHandler) Handle(ctx context.Context, rec slog.Record) error {
	if err := h.text.Handle(ctx, rec); err != nil {
		return err
	}
	return h.next.Handle(ctx, rec)
}

func (h *ringHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return &ringHandler{h.next.WithAttrs(as), h.text.WithAttrs(as)}
}

func (h *ringHandler) WithGroup(name string) slog.Handler {
	return &ringHandler{h.next.WithGroup(name), h.text.WithGroup(name)}
}
