package control

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// maxStacks bounds the goroutine dump of a bug report, in bytes.
const maxStacks = 1 << 20

// ReportPart is a file of a bug report that a face of the box adds.
type ReportPart struct{ Name, Text string }

// BugReport writes a .tar.gz of what an engineer needs to see, without secrets.
func (b *Box) BugReport(ctx context.Context, w io.Writer, more ...ReportPart) error {
	now, _ := b.o.Identity.Now()
	var lines []string
	if b.o.LogRing != nil {
		lines = b.o.LogRing.Tail(maxTail)
	}
	b.mu.Lock()
	cfg := b.cfg.Redacted()
	b.mu.Unlock()
	type part struct {
		name string
		data any
	}
	parts := []part{
		{"status.json", b.Snapshot()},
		{"history.json", b.History()},
		{"schedule.json", b.Day(24 * time.Hour)},
		{"doctor.json", Diagnose(ctx, b.doctor())},
		{"config.json", cfg},
		{"cache.json", b.cacheReport()},
		{"log.txt", strings.Join(lines, "\n") + "\n"},
		{"goroutines.txt", stacks()},
		{"build.txt", buildInfo()},
	}
	for _, p := range more {
		parts = append(parts, part{p.Name, p.Text})
	}
	gz := gzip.NewWriter(w)
	tw := tar.NewWriter(gz)
	for _, p := range parts {
		body, isText := p.data.(string)
		if !isText {
			js, err := json.MarshalIndent(p.data, "", "  ")
			if err != nil {
				return fmt.Errorf("encode %s: %w", p.name, err)
			}
			body = string(js) + "\n"
		}
		body = scrubSecrets(body)
		h := &tar.Header{Name: "boxd-bugreport/" + p.name, Mode: 0o600, Size: int64(len(body)), ModTime: now}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", p.name, err)
		}
		if _, err := io.WriteString(tw, body); err != nil {
			return fmt.Errorf("write %s: %w", p.name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	return gz.Close()
}

func (b *Box) cacheReport() any {
	return map[string]any{
		"usage": b.o.Cache.Usage(), "stats": b.o.Cache.Stats(), "events": b.o.Cache.Events(), "assets": b.o.Cache.Assets(),
	}
}

// secrets is what must not leave the box even when something logged it by mistake: enrolment tokens, private keys, bearer
// tokens, passwords in URLs.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`bt1-[A-Za-z0-9_-]+`),
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)`),
	regexp.MustCompile(`(?i)bearer +[A-Za-z0-9._~+/=-]{8,}`),
	regexp.MustCompile(`(?i)basic +[A-Za-z0-9+/=]{8,}`),
	regexp.MustCompile(`://[^/@\s"]+:[^/@\s"]+@`),
	regexp.MustCompile(`(?i)\b(token|password|secret|sig|signature|passphrase)=[^\s&"]+`),
}

func scrubSecrets(s string) string {
	for _, re := range secrets {
		s = re.ReplaceAllString(s, "[removed]")
	}
	return s
}

func stacks() string {
	buf := make([]byte, maxStacks)
	return string(buf[:runtime.Stack(buf, true)])
}

func buildInfo() string {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s/%s, %d processors\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if info, ok := debug.ReadBuildInfo(); ok {
		out.WriteString(info.String())
	}
	return out.String()
}
