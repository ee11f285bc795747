package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
	"boxd/internal/fleet/web"
)

// watchCmd shows what the dashboard's first page shows, which the manager counts once for all who look.
func watchCmd(c *client) *cobra.Command {
	var every time.Duration
	cmd := &cobra.Command{
		Use: "watch", Short: "Follow campaigns and alerts until interrupted", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			w := &watcher{c: c, out: out, now: time.Now}
			if cli.IsTerminal(out) && !c.json {
				w.screen = cli.NewScreen(out)
			}
			tick := time.NewTicker(max(every, time.Second))
			defer tick.Stop()
			return w.run(cmd.Context(), tick.C)
		},
	}
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "period")
	return cmd
}

// watcher draws the fleet: in place on a terminal, else a line for each thing that changed.
type watcher struct {
	c      *client
	out    io.Writer
	screen *cli.Screen // nil: not a terminal
	now    func() time.Time

	o     *web.Overview     // the latest; nil before the first
	fault string            // why there is no newer one
	said  map[string]string // by what it is about
}

func (w *watcher) run(ctx context.Context, tick <-chan time.Time) error {
	err := w.follow(ctx, tick)
	if w.screen != nil && w.o != nil { // the last view stays when the screen is given back
		err = errors.Join(err, w.screen.Close(frame(w.o, w.fault, w.now(), 1000)))
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
		w.fault = cli.Plain(err.Error())
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
	case w.screen == nil:
		return w.log()
	}
	_, lines := w.screen.Size()
	return w.screen.Draw(frame(w.o, w.fault, w.now(), lines-1))
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
		say("fleet", fmt.Sprintf("%s: %d of %d boxes online", cli.Plain(w.o.Fleet), w.o.Online, w.o.Boxes))
		for i := range w.o.Campaigns {
			c := &w.o.Campaigns[i]
			stage := ""
			if c.Stages > 0 {
				stage = fmt.Sprintf(", stage %d of %d", c.Stage, c.Stages)
			}
			say("campaign "+cli.Plain(c.Name)+" "+c.ID, fmt.Sprintf("%s: %s%s, %s", cli.Plain(c.Name), c.State, stage, standing(c)))
		}
		for _, a := range w.o.Alerts {
			say("alert "+cli.Plain(a.Code), fmt.Sprintf("%s: %s on %d", a.Severity, cli.Plain(a.Code), a.Boxes))
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

const (
	barWidth  = 20
	maxAlerts = 6
)

// frame is the whole view as text of at most so many lines: what needs attention comes first, campaigns get what is left.
func frame(o *web.Overview, fault string, now time.Time, lines int) string {
	var p cli.Page
	p.Line("%s: %d of %d boxes online, counted %s", cli.Plain(o.Fleet), o.Online, o.Boxes, o.At.Local().Format(time.TimeOnly))
	if fault != "" {
		p.Line("No answer now: %s", fault)
	}
	d := &o.Day
	p.Line("Arrived in 24 hours: %s from home, %s from peers, %s from the origin", cli.Bytes(d.LAN), cli.Bytes(d.Peer),
		cli.Bytes(d.Origin))
	p.Line("")
	t := cli.Table{Head: []string{"NEEDS ATTENTION", "", ">BOXES", "FOR"}}
	for _, a := range o.Alerts[:min(len(o.Alerts), maxAlerts)] {
		t.Add(cli.Plain(a.Code), a.Severity, strconv.Itoa(a.Boxes), span(now.Sub(a.Since)))
	}
	if len(o.Alerts) == 0 {
		p.Line("No alerts.")
	} else {
		t.Print(&p)
	}
	if n := len(o.Alerts) - maxAlerts; n > 0 {
		p.Line("and %d more: fleetd alerts", n)
	}
	p.Line("")
	if len(o.Campaigns) == 0 {
		p.Line("No campaign goes on.")
		return p.String()
	}
	room := max((lines-strings.Count(p.String(), "\n"))/3, 1)
	if n := len(o.Campaigns) + o.MoreCampaigns; n > room {
		room = max((lines-strings.Count(p.String(), "\n")-1)/3, 1)
	}
	shown := min(room, len(o.Campaigns))
	for i := range o.Campaigns[:shown] {
		campaignLines(&p, &o.Campaigns[i], now)
	}
	if n := len(o.Campaigns) - shown + o.MoreCampaigns; n > 0 {
		p.Line("and %s: fleetd campaign list", cli.Count(n, "more campaign", "more campaigns"))
	}
	return p.String()
}

// campaignLines takes three lines of a view: what it is, how far it is, nothing.
func campaignLines(p *cli.Page, c *web.CampaignLine, now time.Time) {
	head := []string{cli.Plain(c.Name), "group " + cli.Plain(c.Group), c.State}
	if c.Stages > 0 {
		head = append(head, fmt.Sprintf("stage %d of %d", c.Stage, c.Stages))
	}
	if d := due(c.Deadline, now); d != "" {
		head = append(head, d)
	}
	p.Line("%s", strings.Join(head, "  ·  "))
	var have, all int64
	if n := c.Counts; n != nil {
		have, all = int64(n.Ready), int64(n.Included)
	}
	p.Line("  %s %3d %%  %s", cli.Bar(have, all, barWidth), int(cli.Percent(have, all)), standing(c))
	p.Line("")
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
	if c.Why != "" {
		text += ": " + cli.Plain(c.Why)
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
