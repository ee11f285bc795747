package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
	"boxd/internal/control"
)

func (c *command) addLook(root *cobra.Command) {
	var watch bool
	status := &cobra.Command{
		Use: "status", Short: "What this box is doing, in one screen", GroupID: "look", Args: cli.NoArgs,
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
		Use: "assets", Short: "What is here and what is coming", GroupID: "look", Args: cli.NoArgs,
		Long: "What is here and what is coming: how much of each asset is verified, how much of it came from the home's other boxes\n" +
			"(LAN), from boxes elsewhere (PEERS) and from the operator's server (ORIGIN), and until when it is kept.",
		Example: "  boxd assets\n  boxd assets --json | jq '.assets[] | select(.state != \"ready\") | .name'",
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.show(cmd, "/api/v1/status", printAssets) },
	}
	why := &cobra.Command{
		Use: "why ASSET", Short: "Why an asset is, or is not, being fetched", GroupID: "look", Args: cli.Args(1,
			"one asset"),
		Long:    "Why an asset is, or is not, being fetched. ASSET is its id, its name or the beginning of one.",
		Example: "  boxd why film.mp4\n  boxd why 3fa9",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.why(cmd.Context(), cmd.OutOrStdout(), args[0])
		},
		ValidArgsFunction: c.completeAssets,
	}
	peers := &cobra.Command{
		Use: "peers", Short: "The boxes of this home, and those that bytes are exchanged with", GroupID: "look", Args: cli.NoArgs,
		Long: "The boxes of this home, and those that bytes are exchanged with. CLASS is how good a courier a box would be (0 is best:\n" +
			"a cable, long on, room), WAN whether it reaches the Internet, CARRIES how many assets it brings into the home now,\n" +
			"FROM IT and TO IT what it gave this box and got from it. No boxes here though there are some: boxd doctor.",
		RunE: func(cmd *cobra.Command, _ []string) error { return c.show(cmd, "/api/v1/status", printPeers) },
	}
	schedule := &cobra.Command{
		Use: "schedule", Short: "What the coming day will bring", GroupID: "look", Args: cli.NoArgs,
		Long: "What the coming day will bring, as the box reckons now: which assets use the access line when, and what is complete at\n" +
			"the end of each stretch. Where nothing does, the reason stands in its place: no window is open, say.",
		RunE: func(cmd *cobra.Command, _ []string) error { return c.schedule(cmd.Context(), cmd.OutOrStdout()) },
	}
	root.AddCommand(status, assets, why, peers, schedule)
}

// show prints what the daemon answered, or the snapshot in it.
func (c *command) show(cmd *cobra.Command, path string, print func(io.Writer, *control.Snapshot)) error {
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

// wide is where nothing need be left out: what is not a terminal takes lines of any length.
const wide = 1000

func printStatus(w io.Writer, s *control.Snapshot) {
	columns := wide
	if cli.IsTerminal(w) {
		columns, _ = cli.Size(w)
	}
	_, _ = io.WriteString(w, statusText(s, columns, 12)) // see cli.Page
}

// statusText is the box in one screen: so many columns, so many assets.
func statusText(s *control.Snapshot, columns, assets int) string {
	var p cli.Page
	statusHead(&p, s, columns)
	p.Line("")
	assetLines(&p, s, columns, assets)
	healthLines(&p, s, columns)
	return p.String()
}

func statusHead(p *cli.Page, s *control.Snapshot, columns int) {
	p.Line("%s  ·  %s", cli.Plain(cmp.Or(s.Box.ID, "not enrolled")), s.State)
	for _, l := range cli.Wrap(cli.Plain(s.Summary), columns) {
		p.Line("%s", l)
	}
	p.Line("")
	fleet := "not connected to the fleet manager"
	if s.Broker.Connected {
		fleet = "connected to " + cli.Plain(s.Broker.Address)
	}
	p.Line("fleet    %s, group %s, %s", cli.OrDash(cli.Plain(s.Box.Fleet)), cli.OrDash(cli.Plain(s.Box.Group)), fleet)
	catalog := "none yet"
	if s.Catalog.Version > 0 {
		catalog = fmt.Sprintf("version %d, %s", s.Catalog.Version, cli.Count(s.Catalog.Assets, "asset", "assets"))
		if !s.Catalog.Fresh {
			catalog += ", EXPIRED"
		}
	}
	p.Line("catalog  %s", catalog)
	quota := cmp.Or(s.Cache.Effective, s.Cache.Quota)
	p.Line("cache    %s  %s of %s", cli.Bar(s.Cache.Reserved, quota, 20), cli.Bytes(s.Cache.Reserved), cli.Bytes(quota))
	r, b := s.Fetch.Rates, s.Fetch.Bytes
	p.Line("in       home %s, peers %s, origin %s", moved(b.LAN, r.LAN), moved(b.Peer, r.Peer), moved(b.Origin, r.Origin))
	p.Line("out      home %s, peers %s", moved(s.Fetch.Sent.LAN, s.Fetch.SentRate.LAN),
		moved(s.Fetch.Sent.Peer, s.Fetch.SentRate.Peer))
	watching := ""
	if s.Fetch.Playback {
		watching = ", somebody is watching"
	}
	p.Line("home     %s%s, memory %s, up %s", cli.Count(len(s.Home), "other box", "other boxes"), watching,
		cli.Bytes(s.Process.RSS), cli.Span(time.Duration(s.Uptime*float64(time.Second))))
}

// moved is what has gone some way since the daemon started, and how fast more does now.
func moved(bytes, rate int64) string {
	if now := cli.Rate(rate); now != cli.Rate(0) {
		return cli.Bytes(bytes) + " (" + now + ")"
	}
	return cli.Bytes(bytes)
}

// assetTable is the table of the status: a narrow terminal gets only the columns that matter most.
func assetTable(columns int) (head []string, cells func(a control.Asset, now time.Time) []string) {
	all := []struct {
		head string
		need int // columns from which on it is shown
		cell func(a control.Asset, now time.Time) string
	}{
		{"ASSET", 0, func(a control.Asset, _ time.Time) string {
			n := 28
			if columns < 100 {
				n = 24
			}
			return cli.Shorten(cli.Plain(a.Name), n)
		}},
		{"STATE", 0, func(a control.Asset, _ time.Time) string { return string(a.State) }},
		{"PROGRESS", 0, func(a control.Asset, _ time.Time) string {
			return cli.Bar(a.Verified, a.Length, 10) + fmt.Sprintf(" %3d%%", int(cli.Percent(a.Verified, a.Length)))
		}},
		{">SIZE", 90, func(a control.Asset, _ time.Time) string { return cli.Bytes(a.Length) }},
		{">RATE", 0, func(a control.Asset, _ time.Time) string { return cli.Rate(a.Rate) }},
		{"ROLE", 100, func(a control.Asset, _ time.Time) string { return cli.OrDash(a.Role) }},
		{"DUE", 0, due},
		{"READY BY", 120, func(a control.Asset, now time.Time) string { return cli.Clock(a.ETA, now) }},
	}
	for _, c := range all {
		if columns >= c.need {
			head = append(head, c.head)
		}
	}
	return head, func(a control.Asset, now time.Time) []string {
		var list []string
		for _, c := range all {
			if columns >= c.need {
				list = append(list, c.cell(a, now))
			}
		}
		return list
	}
}

func assetLines(p *cli.Page, s *control.Snapshot, columns, limit int) {
	if len(s.Assets) == 0 {
		p.Line("No assets: no campaign asks for any.")
		return
	}
	ready := 0
	for _, a := range s.Assets {
		if a.State == control.Ready {
			ready++
		}
	}
	if len(s.Assets) <= limit+1 {
		limit = len(s.Assets) // "and 1 more" would take as much room
	}
	head, cells := assetTable(columns)
	t := cli.Table{Head: head}
	for _, a := range s.Assets[:min(limit, len(s.Assets))] {
		t.Add(cells(a, s.Time)...)
	}
	t.Print(p)
	if more := len(s.Assets) - limit; more > 0 {
		p.Line("… and %d more; boxd assets lists all. %d of %d are ready.", more, ready, len(s.Assets))
	}
}

func due(a control.Asset, now time.Time) string {
	switch text := cli.Clock(a.Deadline, now); {
	case a.Late:
		return text + " (late)"
	case a.Danger:
		return text + " (in danger)"
	default:
		return text
	}
}

func healthLines(p *cli.Page, s *control.Snapshot, columns int) {
	for _, h := range s.Health {
		p.Line("")
		for _, l := range cli.Wrap(strings.ToUpper(string(h.Severity))+": "+cli.Plain(h.Text), columns) {
			p.Line("%s", l)
		}
		if h.Action != "" {
			p.Line("  → %s", strings.Join(cli.Wrap(cli.Plain(h.Action), columns-4), "\n    "))
		}
	}
}

func printAssets(w io.Writer, s *control.Snapshot) {
	t := cli.Table{Head: []string{
		"ID", "NAME", "VERSION", "STATE", ">VERIFIED", ">SIZE", ">LAN", ">PEERS", ">ORIGIN",
		"KEPT UNTIL", "",
	}}
	for _, a := range s.Assets {
		note := a.Code
		if a.Pinned {
			note = strings.TrimSpace("pinned " + note)
		}
		t.Add(a.ID.Short(), cli.Shorten(cli.Plain(a.Name), 32), cli.OrDash(cli.Plain(a.Version)), string(a.State), fmt.Sprintf("%.1f%%",
			cli.Percent(a.Verified, a.Length)),
			cli.Bytes(a.Length), cli.Bytes(a.Bytes.LAN), cli.Bytes(a.Bytes.Peer), cli.Bytes(a.Bytes.Origin),
			cli.Clock(a.KeepUntil, s.Time), note)
	}
	t.Print(w)
}

func printPeers(w io.Writer, s *control.Snapshot) {
	var p cli.Page
	p.Line("In this home:")
	home := cli.Table{Head: []string{
		"BOX", "ADDRESS", "CLASS", "WAN", ">CARRIES", "HEALTH", ">HOLDS", ">WANTS", ">RTT", ">FROM IT", ">TO IT",
	}}
	for _, n := range s.Home {
		wan := "no"
		if n.WAN {
			wan = "yes"
		}
		home.Add(cli.Plain(n.ID), n.Address, fmt.Sprint(n.Class), wan, fmt.Sprint(n.Courier),
			cli.Plain(cmp.Or(n.Health, "good")), fmt.Sprint(n.Holds), fmt.Sprint(n.Wants),
			fmt.Sprintf("%.1f ms", n.RTT*1000), cli.Bytes(n.Received), cli.Bytes(n.Sent))
	}
	home.Print(&p)
	p.Line("\nConnections:")
	peers := cli.Table{Head: []string{"BOX", "ADDRESS", "LINK", "ASSET", ">IN", ">OUT", ">RECEIVED", ">SENT"}}
	for _, x := range s.Peers {
		peers.Add(cli.Plain(x.ID), x.Address, x.Link, cli.Shorten(x.Asset, 8), cli.Rate(x.RateIn), cli.Rate(x.RateOut),
			cli.Bytes(x.Received), cli.Bytes(x.Sent))
	}
	peers.Print(&p)
	_, _ = io.WriteString(w, p.String()) // see cli.Page
}

func (c *command) why(ctx context.Context, w io.Writer, ref string) error {
	cl := c.client()
	s, err := cl.status(ctx)
	if err != nil {
		return err
	}
	a, err := s.Choose(ref)
	if err != nil {
		return err
	}
	if c.json {
		b, err := cl.read(ctx, "/api/v1/assets/"+a.ID.String())
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	var p cli.Page
	p.Line("%s  %s", cli.Plain(a.Name), a.ID)
	p.Line("  state     %s", strings.TrimSpace(string(a.State)+" "+a.Code))
	p.Line("  why       %s", cli.Plain(a.Why))
	p.Line("  verified  %s of %s  %s %.1f%%", cli.Bytes(a.Verified), cli.Bytes(a.Length), cli.Bar(a.Verified, a.Length,
		20), cli.Percent(a.Verified, a.Length))
	p.Line("  came from the home %s, peers %s, origin %s", cli.Bytes(a.Bytes.LAN), cli.Bytes(a.Bytes.Peer),
		cli.Bytes(a.Bytes.Origin))
	switch {
	case a.Role == "follower" && a.Courier != "":
		p.Line("  role      follower: %s brings it into the home", cli.Plain(a.Courier))
	case a.Role != "":
		p.Line("  role      %s", a.Role)
	}
	p.Line("  campaign  %s, due %s, kept until %s", cli.OrDash(cli.Plain(a.Campaign)), due(a, s.Time), cli.Clock(a.KeepUntil, s.Time))
	if !a.ETA.IsZero() {
		p.Line("  ready by  %s, in %s", cli.Clock(a.ETA, s.Time), cli.Span(a.ETA.Sub(s.Time)))
	}
	for _, f := range a.Files {
		p.Line("  plays at  %s%s", s.Box.HTTP, f.URL)
	}
	_, err = io.WriteString(w, p.String())
	return err
}

func (c *command) schedule(ctx context.Context, w io.Writer) error {
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
		names[a.ID.String()] = cli.Plain(a.Name)
	}
	t := cli.Table{Head: []string{"FROM", "TO", "OVER THE ACCESS LINE", "READY AT THE END"}}
	for _, slot := range day.Slots {
		active := named(slot.Active, names)
		if active == "" {
			active = "– " + orElse(cli.Plain(slot.Reason), "nothing")
		}
		t.Add(cli.Clock(slot.From, day.From), cli.Clock(slot.To, day.From), active, named(slot.Done, names))
	}
	if len(day.Slots) == 0 {
		t.Add(cli.Clock(day.From, day.From), cli.Clock(day.To, day.From), "– nothing is planned", "")
	}
	t.Print(w)
	return nil
}

func named(ids []string, names map[string]string) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = cli.Shorten(names[id], 28)
		if list[i] == "" {
			list[i] = cli.Shorten(id, 9)
		}
	}
	return strings.Join(list, ", ")
}

// completeAssets is the shell's completion of an asset's name.
func (c *command) completeAssets(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	s, err := c.client().status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []string
	for _, a := range s.Assets {
		if strings.HasPrefix(a.Name, prefix) {
			list = append(list, cli.Plain(a.Name))
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
