package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/control"
)

func (c *cli) addLook(root *cobra.Command) {
	var watch bool
	status := &cobra.Command{
		Use: "status", Short: "What this box is doing, in one screen", GroupID: "look", Args: noArgs,
		Example: "  boxd status --watch\n  boxd status --json | jq .assets[].state",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return c.watch(cmd.Context(), cmd.OutOrStdout())
			}
			return c.show(cmd, "/api/v1/status", printStatus)
		},
	}
	status.Flags().BoolVar(&watch, "watch", false, "stay and show changes as they happen")
	assets := &cobra.Command{
		Use: "assets", Short: "What is here and what is coming", GroupID: "look", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.show(cmd, "/api/v1/status", printAssets) },
	}
	why := &cobra.Command{
		Use: "why ASSET", Short: "Why an asset is, or is not, being fetched", GroupID: "look", Args: exactArgs(1,
			"one asset"),
		Long:    "Why an asset is, or is not, being fetched. ASSET is its id, its name or the beginning of one.",
		Example: "  boxd why film.mp4\n  boxd why 3fa9",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.why(cmd.Context(), cmd.OutOrStdout(), args[0])
		},
		ValidArgsFunction: c.completeAssets,
	}
	peers := &cobra.Command{
		Use: "peers", Short: "The boxes of this home, and those that bytes are exchanged with", GroupID: "look", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.show(cmd, "/api/v1/status", printPeers) },
	}
	schedule := &cobra.Command{
		Use: "schedule", Short: "What the coming day will bring", GroupID: "look", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.schedule(cmd.Context(), cmd.OutOrStdout()) },
	}
	root.AddCommand(status, assets, why, peers, schedule)
}

// show prints what the daemon answered, or the snapshot in it.
func (c *cli) show(cmd *cobra.Command, path string, print func(io.Writer, *control.Snapshot)) error {
	cl := c.client()
	if c.json {
		b, err := cl.read(cmd.Context(), path)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(b)
		return err
	}
	s, err := cl.status(cmd.Context())
	if err != nil {
		return err
	}
	print(cmd.OutOrStdout(), s)
	return nil
}

// page collects lines; its only fault can be a reader that has gone, and that ends the program by itself.
type page struct{ strings.Builder }

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func printStatus(w io.Writer, s *control.Snapshot) {
	var p page
	statusHead(&p, s)
	p.line("")
	assetLines(&p, s, 12)
	healthLines(&p, s)
	_, _ = io.WriteString(w, p.String()) // see page
}

func statusHead(p *page, s *control.Snapshot) {
	id := s.Box.ID
	if id == "" {
		id = "not enrolled"
	}
	p.line("%s  ·  %s  ·  %s", plain(id), s.State, plain(s.Summary))
	fleet := "not connected to the fleet manager"
	if s.Broker.Connected {
		fleet = "connected to " + plain(s.Broker.Address)
	}
	p.line("fleet   %s, group %s, %s", orDash(plain(s.Box.Fleet)), orDash(plain(s.Box.Group)), fleet)
	catalog := "none yet"
	if s.Catalog.Version > 0 {
		catalog = fmt.Sprintf("version %d, %s", s.Catalog.Version, count(s.Catalog.Assets, "asset", "assets"))
		if !s.Catalog.Fresh {
			catalog += ", EXPIRED"
		}
	}
	p.line("catalog %s", catalog)
	p.line("cache   %s of %s  %s", humanBytes(s.Cache.Reserved), humanBytes(s.Cache.Quota), bar(s.Cache.Reserved,
		s.Cache.Quota, 20))
	r, b := s.Fetch.Rates, s.Fetch.Bytes
	p.line("in      lan %s (%s)   peers %s (%s)   origin %s (%s)", humanRate(r.LAN), humanBytes(b.LAN),
		humanRate(r.Peer), humanBytes(b.Peer), humanRate(r.Origin), humanBytes(b.Origin))
	p.line("out     %s (%s)", humanRate(s.Fetch.SentRate.Total()), humanBytes(s.Fetch.Sent.Total()))
	p.line("home    %s   memory %s   up %s", count(len(s.Home), "other box", "other boxes"), humanBytes(s.Process.RSS),
		humanDuration(time.Duration(s.Uptime*float64(time.Second))))
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func assetLines(p *page, s *control.Snapshot, limit int) {
	if len(s.Assets) == 0 {
		p.line("No assets: no campaign asks for any.")
		return
	}
	ready := 0
	for _, a := range s.Assets {
		if a.State == control.Ready {
			ready++
		}
	}
	t := table{head: []string{"ASSET", "STATE", "PROGRESS", ">SIZE", ">RATE", "ROLE", "DUE", "READY BY"}}
	for i, a := range s.Assets {
		if i == limit {
			break
		}
		t.add(shorten(plain(a.Name), 28), string(a.State), bar(a.Verified, a.Length, 10)+fmt.Sprintf(" %3.0f%%",
			percent(a.Verified, a.Length)),
			humanBytes(a.Length), humanRate(a.Rate), orDash(a.Role), due(a, s.Time), clock(a.ETA, s.Time))
	}
	t.print(p)
	if len(s.Assets) > limit {
		p.line("… and %d more; boxd assets lists all. %d of %d are ready.", len(s.Assets)-limit, ready, len(s.Assets))
	}
}

func due(a control.Asset, now time.Time) string {
	switch text := clock(a.Deadline, now); {
	case a.Late:
		return text + " (late)"
	case a.Danger:
		return text + " (in danger)"
	default:
		return text
	}
}

func healthLines(p *page, s *control.Snapshot) {
	for _, h := range s.Health {
		p.line("\n%s: %s", strings.ToUpper(string(h.Severity)), plain(h.Text))
		if h.Action != "" {
			p.line("  → %s", plain(h.Action))
		}
	}
}

func printAssets(w io.Writer, s *control.Snapshot) {
	t := table{head: []string{
		"ID", "NAME", "VERSION", "STATE", ">VERIFIED", ">SIZE", ">LAN", ">PEERS", ">ORIGIN",
		"KEPT UNTIL", "",
	}}
	for _, a := range s.Assets {
		note := a.Code
		if a.Pinned {
			note = strings.TrimSpace("pinned " + note)
		}
		t.add(a.ID.Short(), shorten(plain(a.Name), 32), orDash(plain(a.Version)), string(a.State), fmt.Sprintf("%.1f%%",
			percent(a.Verified, a.Length)),
			humanBytes(a.Length), humanBytes(a.Bytes.LAN), humanBytes(a.Bytes.Peer), humanBytes(a.Bytes.Origin),
			clock(a.KeepUntil, s.Time), note)
	}
	t.print(w)
}

func printPeers(w io.Writer, s *control.Snapshot) {
	var p page
	p.line("In this home:")
	home := table{head: []string{"BOX", "ADDRESS", "CLASS", "WAN", ">HOLDS", ">WANTS", ">RTT", ">FROM IT", ">TO IT"}}
	for _, n := range s.Home {
		wan := "no"
		if n.WAN {
			wan = "yes"
		}
		home.add(plain(n.ID), n.Address, fmt.Sprint(n.Class), wan, fmt.Sprint(n.Holds), fmt.Sprint(n.Wants),
			fmt.Sprintf("%.1f ms", n.RTT*1000), humanBytes(n.Received), humanBytes(n.Sent))
	}
	home.print(&p)
	p.line("\nConnections:")
	peers := table{head: []string{"BOX", "ADDRESS", "LINK", "ASSET", ">IN", ">OUT", ">RECEIVED", ">SENT"}}
	for _, x := range s.Peers {
		peers.add(plain(x.ID), x.Address, x.Link, shorten(x.Asset, 8), humanRate(x.RateIn), humanRate(x.RateOut),
			humanBytes(x.Received), humanBytes(x.Sent))
	}
	peers.print(&p)
	_, _ = io.WriteString(w, p.String()) // see page
}

func (c *cli) why(ctx context.Context, w io.Writer, ref string) error {
	cl := c.client()
	s, err := cl.status(ctx)
	if err != nil {
		return err
	}
	a, ok := s.Asset(ref)
	if !ok {
		return fmt.Errorf("no asset of this box is called %q, or several are; boxd assets lists them", ref)
	}
	if c.json {
		b, err := cl.read(ctx, "/api/v1/assets/"+a.ID.String())
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	var p page
	p.line("%s  %s", plain(a.Name), a.ID)
	p.line("  state     %s %s", a.State, a.Code)
	p.line("  why       %s", plain(a.Why))
	p.line("  verified  %s of %s  %s %.1f%%", humanBytes(a.Verified), humanBytes(a.Length), bar(a.Verified, a.Length,
		20), percent(a.Verified, a.Length))
	p.line("  came from lan %s, peers %s, origin %s", humanBytes(a.Bytes.LAN), humanBytes(a.Bytes.Peer),
		humanBytes(a.Bytes.Origin))
	switch {
	case a.Role == "follower" && a.Courier != "":
		p.line("  role      follower: %s brings it into the home", plain(a.Courier))
	case a.Role != "":
		p.line("  role      %s", a.Role)
	}
	p.line("  campaign  %s, due %s, kept until %s", orDash(plain(a.Campaign)), due(a, s.Time), clock(a.KeepUntil, s.Time))
	if !a.ETA.IsZero() {
		p.line("  ready by  %s, in %s", clock(a.ETA, s.Time), humanDuration(a.ETA.Sub(s.Time)))
	}
	for _, f := range a.Files {
		p.line("  plays at  %s%s", s.Box.HTTP, f.URL)
	}
	_, err = io.WriteString(w, p.String())
	return err
}

func (c *cli) schedule(ctx context.Context, w io.Writer) error {
	cl := c.client()
	if c.json {
		b, err := cl.read(ctx, "/api/v1/schedule")
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	s, err := cl.status(ctx)
	if err != nil {
		return err
	}
	var day control.Day
	if err := cl.get(ctx, "/api/v1/schedule", &day); err != nil {
		return err
	}
	names := map[string]string{}
	for _, a := range s.Assets {
		names[a.ID.String()] = plain(a.Name)
	}
	t := table{head: []string{"FROM", "TO", "OVER THE ACCESS LINE", "READY AT THE END"}}
	for _, slot := range day.Slots {
		active := named(slot.Active, names)
		if active == "" {
			active = "– " + orElse(plain(slot.Reason), "nothing")
		}
		t.add(clock(slot.From, day.From), clock(slot.To, day.From), active, named(slot.Done, names))
	}
	if len(day.Slots) == 0 {
		t.add(clock(day.From, day.From), clock(day.To, day.From), "– nothing is planned", "")
	}
	t.print(w)
	return nil
}

func named(ids []string, names map[string]string) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = shorten(names[id], 28)
		if list[i] == "" {
			list[i] = shorten(id, 9)
		}
	}
	return strings.Join(list, ", ")
}

// completeAssets is the shell's completion of an asset's name.
func (c *cli) completeAssets(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	s, err := c.client().status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []string
	for _, a := range s.Assets {
		if strings.HasPrefix(a.Name, prefix) {
			list = append(list, plain(a.Name))
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

// watch redraws the status once a second until interrupted.
func (c *cli) watch(ctx context.Context, w io.Writer) error {
	cl := c.client()
	live := isTerminal(w)
	if live {
		_, _ = io.WriteString(w, "\x1b[?1049h\x1b[?25l") // another screen, no cursor
		defer io.WriteString(w, "\x1b[?25h\x1b[?1049l")  //nolint:errcheck // see page
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := c.frame(ctx, cl, w, live); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *cli) frame(ctx context.Context, cl *client, w io.Writer, live bool) error {
	var p page
	s, err := cl.status(ctx)
	var down notRunning
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.As(err, &down) && live:
		p.line("%s", down.text)
	case err != nil:
		return err
	case c.json:
		b, err := cl.read(ctx, "/api/v1/status")
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	default:
		printStatus(&p, s)
	}
	text := p.String()
	if live { // each line cleared to its end, then all below: no flicker
		text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
	}
	_, err = io.WriteString(w, text)
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
