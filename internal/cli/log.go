package cli

import (
	"context"
	"io"
	"log/slog"
	"os"
)

// LogHandler writes a line for each record, as text or as "json". Under systemd the lines go to the journal: they carry
// the priority that journalctl -p and its colours know (sd-daemon(3)), and no time, as the journal has it.
func LogHandler(w io.Writer, format string, level slog.Leveler) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	make1 := func(w io.Writer) slog.Handler {
		if format == "json" {
			return slog.NewJSONHandler(w, opts)
		}
		return slog.NewTextHandler(w, opts)
	}
	if os.Getenv("JOURNAL_STREAM") == "" {
		return make1(w)
	}
	opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	var j journal
	for i, p := range priorities {
		j[i] = make1(prefixed{w, p.prefix})
	}
	return j
}

// priorities are those of syslog.
var priorities = [...]struct {
	from   slog.Level
	prefix string
}{{slog.LevelError, "<3>"}, {slog.LevelWarn, "<4>"}, {slog.LevelInfo, "<6>"}, {slog.LevelDebug, "<7>"}}

// journal has a handler for each priority.
type journal [len(priorities)]slog.Handler

func (j journal) of(l slog.Level) slog.Handler {
	for i, p := range priorities {
		if l >= p.from {
			return j[i]
		}
	}
	return j[len(j)-1]
}

func (j journal) Enabled(ctx context.Context, l slog.Level) bool { return j.of(l).Enabled(ctx, l) }

func (j journal) Handle(ctx context.Context, r slog.Record) error {
	return j.of(r.Level).Handle(ctx, r)
}

func (j journal) each(f func(slog.Handler) slog.Handler) slog.Handler {
	for i := range j {
		j[i] = f(j[i])
	}
	return j
}

func (j journal) WithAttrs(a []slog.Attr) slog.Handler {
	return j.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(a) })
}

func (j journal) WithGroup(n string) slog.Handler {
	return j.each(func(h slog.Handler) slog.Handler { return h.WithGroup(n) })
}

// prefixed writes something in front of each line; a slog.Handler makes one write for each.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p prefixed) Write(b []byte) (int, error) {
	n, err := p.w.Write(append([]byte(p.prefix), b...))
	return max(n-len(p.prefix), 0), err
}
