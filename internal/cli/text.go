package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Bytes is n with a binary unit and three significant digits.
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n), []string{"KiB", "MiB", "GiB", "TiB", "PiB"}
	i := -1
	for v >= 1023.5 && i < len(units)-1 {
		v /= 1024
		i++
	}
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f %s", v, units[i])
	case v < 99.95:
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}

// Rate is bytes a second as people who buy lines know them.
func Rate(n int64) string {
	if n < 6250 { // would be 0.0, now and then, from what keeps connections alive
		return "–"
	}
	return fmt.Sprintf("%.1f Mbit/s", float64(n)*8/1e6)
}

// Span is a duration for people, to two digits or so.
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// Clock is a time near now the way people say it.
func Clock(t, now time.Time) string {
	if t.IsZero() {
		return "–"
	}
	t, now = t.Local(), now.Local()
	if t.Sub(now).Abs() < 7*24*time.Hour {
		if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
			return t.Format("15:04")
		}
		return t.Format("Mon 15:04")
	}
	return t.Format("2 Jan 2006")
}

// Percent is the share of all that is there.
func Percent(have, all int64) float64 {
	if all <= 0 {
		return 0
	}
	return 100 * float64(have) / float64(all)
}

// Bar is a bar of width characters; it is full only when all is there.
func Bar(have, all int64, width int) string {
	full := 0
	if all > 0 {
		full = int(float64(width) * float64(have) / float64(all))
	}
	if full >= width && have < all {
		full = width - 1
	}
	full = min(max(full, 0), width)
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// Plain takes control characters out of text that came from elsewhere, so that a name cannot steer the terminal.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError || r >= 0x202a && r <= 0x202e ||
			r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}

// Count is a number of things.
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Shorten cuts a text to n characters.
func Shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// OrDash is the text, or a dash where there is none.
func OrDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// Table prints aligned columns; the cells of numeric columns (">" in front of the header) are set flush right.
type Table struct {
	Head []string
	rows [][]string
}

// Add adds a row.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// Print writes the table; it has no fault of its own to tell.
func (t *Table) Print(w io.Writer) {
	width := make([]int, len(t.Head))
	head := make([]string, len(t.Head))
	for i, h := range t.Head {
		head[i] = strings.TrimPrefix(h, ">")
		width[i] = utf8.RuneCountInString(head[i])
	}
	for _, r := range t.rows {
		for i, cell := range r {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, r := range append([][]string{head}, t.rows...) {
		var line strings.Builder
		for i, cell := range r {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if strings.HasPrefix(t.Head[i], ">") {
				cell = pad + cell
			} else {
				cell += pad
			}
			if i > 0 {
				line.WriteString("  ")
			}
			line.WriteString(cell)
		}
		_, _ = fmt.Fprintln(w, strings.TrimRight(line.String(), " ")) // a broken pipe ends the program by itself
	}
}

// Page collects lines; its only fault can be a reader that has gone, and that ends the program by itself.
type Page struct{ strings.Builder }

// Line adds a line.
func (p *Page) Line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// Wrap breaks a text into lines of at most width characters, where it has blanks.
func Wrap(s string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
