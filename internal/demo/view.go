package demo

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// view draws one line per box: over the last ones on a terminal, else now and then and when something changes.
type view struct {
	home  *Home
	drawn bool
	last  string
	since time.Time
}

const (
	lineWidth   = 78
	logInterval = 3 * time.Second
)

func (v *view) draw(states []Status) {
	var b strings.Builder
	for i, st := range states {
		b.WriteString(fit(v.line(v.home.Boxes[i].Name, &st)) + "\n")
	}
	switch {
	case v.home.Live:
		if v.drawn {
			fmt.Fprintf(v.home.Out, "\x1b[%dA", len(states))
		}
		fmt.Fprint(v.home.Out, strings.ReplaceAll(b.String(), "\n", "\x1b[K\n"))
	case time.Since(v.since) > logInterval && b.String() != v.last:
		v.since = time.Now()
		fmt.Fprint(v.home.Out, b.String())
	}
	v.drawn, v.last = true, b.String()
}

// end leaves the last state on the screen.
func (v *view) end() {
	if !v.home.Live {
		fmt.Fprint(v.home.Out, v.last)
	}
}

// line is one box: how far, how fast, from where, and as what.
func (v *view) line(name string, st *Status) string {
	var have, all, lan, peer, origin int64
	var rate float64
	roles := map[string]bool{}
	for _, f := range v.home.Films {
		a := st.Asset(f.ID)
		have, all, rate = have+a.Verified, all+f.Length, rate+a.Rate
		lan, peer, origin = lan+a.Bytes.LAN, peer+a.Bytes.Peer, origin+a.Bytes.Origin
		if a.Role != "" && a.State != "ready" {
			roles[a.Role] = true
		}
	}
	part := float64(have) / float64(max(all, 1))
	var role []string
	for _, r := range []string{"courier", "follower", "alone"} {
		if roles[r] {
			role = append(role, r)
		}
	}
	if part >= 1 {
		role = []string{"ready"}
	}
	return fmt.Sprintf("%-5s %s %3.0f%% %9s/s  origin %9s  peer %8s  lan %9s  %s",
		name, bar(part, 12), 100*part, size(int64(rate)), size(origin), size(peer), size(lan), strings.Join(role, "+"))
}

func bar(part float64, width int) string {
	n := min(int(part*float64(width)), width)
	return strings.Repeat("█", n) + strings.Repeat("░", width-n)
}

func fit(s string) string {
	for utf8.RuneCountInString(s) > lineWidth+20 {
		s = s[:len(s)-1]
	}
	return s
}

// size is a number of bytes for people.
func size(n int64) string {
	const k = 1024.0
	f := float64(n)
	switch {
	case f < k:
		return fmt.Sprintf("%d B", n)
	case f < k*k:
		return fmt.Sprintf("%.1f KiB", f/k)
	case f < k*k*k:
		return fmt.Sprintf("%.1f MiB", f/(k*k))
	}
	return fmt.Sprintf("%.2f GiB", f/(k*k*k))
}
