package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Progress shows on one line of a terminal how far long work is, from the moment on that it takes longer than an instant;
// elsewhere it shows nothing.
type Progress struct {
	out   io.Writer
	on    bool
	width func() int
	now   func() time.Time

	mu          sync.Mutex // guards the fields below
	what        string
	done, total int64
	start, last time.Time
	from        int64 // done at start
	shown       bool
}

const (
	progressAfter = 300 * time.Millisecond // quicker work shows nothing
	progressStep  = 100 * time.Millisecond
)

// NewProgress begins to show what is done.
func NewProgress(out io.Writer, what string) *Progress {
	width := func() int { w, _ := Size(out); return w }
	return &Progress{out: out, on: IsTerminal(out), width: width, now: time.Now, what: what, start: time.Now()}
}

// Step begins another part of the same work.
func (p *Progress) Step(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if what != p.what {
		p.what, p.done, p.total, p.from, p.start = what, 0, 0, 0, p.now()
	}
}

// Set says how far it is, in bytes; total 0 when nobody knows.
func (p *Progress) Set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
	p.draw()
}

// Tick shows that work goes on of which nobody knows how far it is.
func (p *Progress) Tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw()
}

// Close wipes the line.
func (p *Progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		_, _ = io.WriteString(p.out, "\r\x1b[K") // only decoration
	}
	p.on = false
}

func (p *Progress) draw() {
	now := p.now()
	if !p.on || now.Sub(p.start) < progressAfter || now.Sub(p.last) < progressStep {
		return
	}
	p.last, p.shown = now, true
	_, _ = io.WriteString(p.out, "\r"+Shorten(p.line(now), max(p.width()-1, 10))+"\x1b[K") // only decoration
}

func (p *Progress) line(now time.Time) string {
	took := now.Sub(p.start)
	if p.total <= 0 {
		return fmt.Sprintf("%s … %s", p.what, Span(took))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s %3d %%  %s of %s", p.what, Bar(p.done, p.total, 20), int(Percent(p.done, p.total)),
		Bytes(p.done), Bytes(p.total))
	if rate := float64(p.done-p.from) / took.Seconds(); rate > 0 && p.done < p.total {
		left := time.Duration(float64(p.total-p.done) / rate * float64(time.Second))
		fmt.Fprintf(&b, "  %s/s  %s left", Bytes(int64(rate)), Span(left+time.Second))
	}
	return b.String()
}

// Reader counts what is read through it as progress of total bytes.
func (p *Progress) Reader(r io.Reader, total int64) io.Reader { return &countedReader{r, p, total, 0} }

type countedReader struct {
	r           io.Reader
	p           *Progress
	total, done int64
}

func (c *countedReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.done += int64(n)
	c.p.Set(c.done, c.total)
	return n, err
}
