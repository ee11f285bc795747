package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"boxd/internal/fleet/web"
)

// watchCmd shows what the dashboard's first page shows, which the manager counts once for all who look.
func watchCmd(c *client) *cobra.Command {
	var every time.Duration
	cmd := &cobra.Command{
		Use: "watch", Short: "follow campaigns and alerts until interrupted", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			w := &watcher{c: c, out: out, live: isTerminal(out) && !c.json, height: func() int { return heightOf(out) }, now: time.Now}
			tick := time.NewTicker(max(every, time.Second))
			defer tick.Stop()
			return w.run(cmd.Context(), tick.C)
		},
	}
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "period")
	return cmd
}

func heightOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if _, h, err := term.GetSize(int(f.Fd())); err == nil && h > 0 { //nolint:gosec // a file descriptor
			return h
		}
	}
	return 24
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" // another screen, no cursor, lines are cut and not wrapped
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// watcher draws the fleet: in place on a terminal, else a line for each thing that changed.
type watcher struct {
	c      *client
	out    io.Writer
	live   bool
	height func() int
	now    func() time.Time

	o     *web.Overview     // the latest; nil before the first
	fault string            // why there is no newer one
	drawn string            // what is on the screen
	said  map[string]string // by what it is about
}

func (w *watcher) run(ctx context.Context, tick <-chan time.Time) error {
	err := w.follow(ctx, tick)
	if w.live && w.drawn != "" { // the last view stays when the screen is given back
		_, end := io.WriteString(w.out, leaveScreen+frame(w.o, w.fault, w.now()))
		err = errors.Join(err, end)
	}
	return err
}

func (w *watcher) follow(ctx context.Context, tick <-chan time.Time) error {
	for {
		if err := w.ask(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := w.draw(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
		}
	}
}

// ask gets the latest overview. A manager that does not answer ends it only at first: it may be starting again.
func (w *watcher) ask(ctx context.Context) error {
	var o web.Overview
	err := w.c.call(ctx, http.MethodGet, "/data/overview", nil, &o)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		w.o, w.fault = &o, ""
	case w.o == nil:
		return err
	default:
		w.fault = plain(err.Error())
	}
	return nil
}

func (w *watcher) draw() error {
	switch {
	case w.c.json && w.fault != "":
		return nil
	case w.c.json:
		return w.c.show(w.out, map[string]any{
			"time": w.now().UTC(), "counted": w.o.At, "boxes": w.o.Boxes, "online": w.o.Online,
			"campaigns": w.o.Campaigns, "alerts": w.o.Alerts,
		}, nil)
	case !w.live:
		return w.log()
	}
	lines := strings.SplitAfter(frame(w.o, w.fault, w.now()), "\n")
	text := strings.Join(lines[:min(len(lines), max(w.height()-1, 1))], "")
	if text == w.drawn {
		return nil
	}
	start := ""
	if w.drawn == "" {
		start = enterScreen
	}
	w.drawn = text
	_, err := io.WriteString(w.out, start+"\x1b[H"+strings.ReplaceAll(text, "\n", "\x1b[K\n")+"\x1b[J")
	return err
}

// log writes a line for each thing that is not as it was.
func (w *watcher) log() error {
	is := map[string]string{}
	var keys []string
	say := func(key, text string) {
		is[key] = text
		keys = append(keys, key)
	}
	if w.fault != "" {
		is = maps.Clone(w.said) // nothing else is known
		say("fault", "no answer: "+w.fault)
	} else {
		say("fleet", fmt.Sprintf("%s: %d of %d boxes online", plain(w.o.Fleet), w.o.Online, w.o.Boxes))
		for i := range w.o.Campaigns {
			c := &w.o.Campaigns[i]
			say("campaign "+plain(c.Name)+" "+c.ID, fmt.Sprintf("%s: %s, %s", plain(c.Name), c.State, standing(c)))
		}
		for _, a := range w.o.Alerts {
			say("alert "+plain(a.Code), fmt.Sprintf("%s: %s on %d", a.Severity, plain(a.Code), a.Boxes))
		}
	}
	var b strings.Builder
	at := w.now().Format(time.DateTime)
	for _, k := range keys {
		if w.said[k] != is[k] {
			fmt.Fprintf(&b, "%s  %s\n", at, is[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(w.said)) {
		if _, still := is[k]; !still {
			fmt.Fprintf(&b, "%s  %s: over\n", at, k)
		}
	}
	w.said = is
	_, err := io.WriteString(w.out, b.String())
	return err
}

// frame is the whole view as text.
func frame(o *web.Overview, fault string, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d boxes online, counted %s\n", plain(o.Fleet), o.Online, o.Boxes, o.At.Local().Format(time.TimeOnly))
	if fault != "" {
		fmt.Fprintf(&b, "No answer now: %s\n", fault)
	}
	b.WriteString("\n")
	t := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for i := range o.Campaigns {
		c := &o.Campaigns[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", plain(c.Name), plain(c.Group), c.State, arrived(c), standing(c), due(c.Deadline, now))
	}
	if len(o.Campaigns) == 0 {
		fmt.Fprintln(t, "No campaign goes on.")
	}
	if o.MoreCampaigns > 0 {
		fmt.Fprintf(t, "and %d more: fleetd campaign list\n", o.MoreCampaigns)
	}
	fmt.Fprintln(t)
	for _, a := range o.Alerts {
		fmt.Fprintf(t, "%s\t%s\ton %d\tfor %s\n", a.Severity, plain(a.Code), a.Boxes, span(now.Sub(a.Since)))
	}
	if len(o.Alerts) == 0 {
		fmt.Fprintln(t, "No alerts.")
	}
	_ = t.Flush() // a strings.Builder takes everything
	d := &o.Day
	fmt.Fprintf(&b, "\nArrived in 24 hours: %s from home, %s from peers, %s from the origin\n", size(d.LAN), size(d.Peer), size(d.Origin))
	return b.String()
}

const barWidth = 16

func arrived(c *web.CampaignLine) string {
	n := 0
	if c.Counts != nil && c.Counts.Included > 0 {
		n = min(barWidth*c.Counts.Ready/c.Counts.Included, barWidth)
	}
	return strings.Repeat("█", n) + strings.Repeat("░", barWidth-n)
}

// standing says how far a campaign is, without what is nought.
func standing(c *web.CampaignLine) string {
	n := c.Counts
	if n == nil {
		return "not counted yet"
	}
	text := fmt.Sprintf("%d of %d arrived", n.Ready, n.Included)
	for _, x := range []struct {
		n    int
		what string
	}{{n.Working, "on the way"}, {n.Offline, "offline"}, {n.Failed, "failed"}, {n.AtRisk, "in danger"}} {
		if x.n > 0 {
			text += fmt.Sprintf(", %d %s", x.n, x.what)
		}
	}
	if c.Stages > 0 {
		text += fmt.Sprintf(", stage %d of %d", c.Stage, c.Stages)
	}
	if c.Why != "" {
		text += ": " + plain(c.Why)
	}
	return text
}

func due(at, now time.Time) string {
	switch {
	case at.IsZero():
		return ""
	case at.After(now):
		return "due in " + span(at.Sub(now))
	}
	return "was due " + span(now.Sub(at)) + " ago"
}

// span is a duration for people, no finer than minutes, so that a view does not change with every second.
func span(d time.Duration) string {
	switch m := int(d / time.Minute); {
	case m < 1:
		return "less than a minute"
	case m < 120:
		return fmt.Sprintf("%d min", m)
	case m < 48*60:
		return fmt.Sprintf("%d h", m/60)
	default:
		return fmt.Sprintf("%d days", m/60/24)
	}
}

func size(n int64) string {
	f, unit := float64(n), 0
	for ; f >= 1024 && unit < 4; unit++ {
		f /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, []string{"", "KiB", "MiB", "GiB", "TiB"}[unit])
}

// plain keeps text of others from steering the terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
