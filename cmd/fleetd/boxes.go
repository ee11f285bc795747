package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
)

type boxDoc struct {
	ID         string    `json:"id"`
	Group      string    `json:"group"`
	Online     bool      `json:"online"`
	LastSeen   time.Time `json:"last_seen,omitzero"`
	Software   string    `json:"software"`
	Holdings   int       `json:"holdings"`
	Unfinished int       `json:"unfinished"`
	LAN        int64     `json:"lan"`
	Peer       int64     `json:"peer"`
	Origin     int64     `json:"origin"`
	Codes      string    `json:"codes"`
	Revoked    time.Time `json:"revoked,omitzero"`
}

func boxesCmd(c *client) *cobra.Command {
	q := url.Values{}
	var group, code, asset, lacking string
	var limit int
	var revoked bool
	cmd := &cobra.Command{
		Use: "boxes [BOX]", Short: "List boxes, or show one", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if len(a) == 1 {
				return c.one(cmd, "/api/v1/boxes/"+a[0])
			}
			for k, v := range map[string]string{"group": group, "code": code, "asset": asset, "lacking": lacking} {
				if v != "" {
					q.Set(k, v)
				}
			}
			q.Set("limit", strconv.Itoa(limit))
			if revoked {
				q.Set("revoked", "true")
			}
			if c.json {
				return c.print(cmd, "/api/v1/boxes?"+q.Encode())
			}
			q.Set("brief", "true")
			var list []boxDoc
			if err := c.call(cmd.Context(), http.MethodGet, "/api/v1/boxes?"+q.Encode(), nil, &list); err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), list, func(w *tabWriter) { boxTable(w, list) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&group, "group", "", "only this group")
	f.StringVar(&code, "code", "", "only boxes that report this health code")
	f.StringVar(&asset, "asset", "", "only boxes that hold this asset")
	f.StringVar(&lacking, "lacking", "", "only boxes that do not hold this asset")
	f.IntVar(&limit, "limit", 1000, "at most so many")
	f.BoolVar(&revoked, "revoked", false, "boxes that were revoked, instead of the members")
	history := &cobra.Command{
		Use: "history BOX", Short: "What happened with a box", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.list(cmd, "/api/v1/boxes/"+a[0]+"/history", "Nothing is known of it.", "AT=at", "WHAT=kind", "TEXT=text")
		},
	}
	var reason string
	revoke := &cobra.Command{
		Use: "revoke BOX", Short: "End a box's membership and close its connections", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), http.MethodPost, "/api/v1/boxes/"+a[0]+"/revoke", map[string]string{"reason": reason}, nil)
		},
	}
	revoke.Flags().StringVar(&reason, "why", "", "the reason")
	forget := &cobra.Command{
		Use: "forget BOX", Short: "Delete what is known of a revoked box, but for its proofs", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), http.MethodDelete, "/api/v1/boxes/"+url.PathEscape(a[0]), nil, nil)
		},
	}
	move := &cobra.Command{
		Use: "move BOX GROUP", Short: "Move a box to another group; it renews its certificate", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), http.MethodPost, "/api/v1/boxes/"+a[0]+"/group", map[string]string{"group": a[1]}, nil)
		},
	}
	cmd.AddCommand(history, revoke, forget, move)
	return cmd
}

func boxTable(w *tabWriter, list []boxDoc) {
	fmt.Fprintln(w, "BOX\tGROUP\tSTATE\tREADY\tCOMING\tHOME\tPEERS\tORIGIN\tWARNINGS")
	for _, b := range list {
		state := "offline"
		if b.Online {
			state = "online"
		}
		if !b.Revoked.IsZero() {
			state = "revoked"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", b.ID, b.Group, state, b.Holdings, b.Unfinished,
			cli.Bytes(b.LAN), cli.Bytes(b.Peer), cli.Bytes(b.Origin), cli.OrDash(cli.Plain(b.Codes)))
	}
}

func enrollCmd(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "enroll", Short: "Tokens with which boxes join"}
	var group, ttl, box, devices string
	var uses int
	var replace bool
	token := &cobra.Command{
		Use: "token", Short: "Make an enrolment token; it is shown once", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := map[string]any{"group": group, "uses": uses, "box": box, "replace": replace}
			if replace && box == "" && devices == "" {
				return usageError{Err: errors.New("--replace needs --box, or --devices with ids: which box may have its name again?")}
			}
			if err := durationFlag(in, "life", "ttl", ttl); err != nil {
				return err
			}
			if devices != "" {
				m, err := readDevices(devices)
				if err != nil {
					return err
				}
				in["devices"] = m
			}
			var out map[string]any
			if err := c.call(cmd.Context(), http.MethodPost, "/api/v1/tokens", in, &out); err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), out, func(w *tabWriter) { fmt.Fprintln(w, out["token"]) })
		},
	}
	f := token.Flags()
	f.StringVar(&group, "group", "default", "group of the boxes that it admits")
	f.IntVar(&uses, "uses", 0, "how many boxes (0: one, or as many as devices)")
	f.StringVar(&ttl, "ttl", "", "how long it is good, such as 8h or 30d (default 24h)")
	f.StringVar(&box, "box", "", "id to give; for one box")
	f.BoolVar(&replace, "replace", false, "with --box: the id may be in use; the box that has it is revoked")
	f.StringVar(
		&devices,
		"devices",
		"",
		"file with the hardware serial numbers that it admits, one a line, each with an id if you want",
	)
	list := &cobra.Command{
		Use: "list", Short: "List tokens, without their secrets", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.list(cmd, "/api/v1/tokens", "No tokens.", "ID=id", "GROUP=group", "BOX=box", ">USED=uses", ">OF=max_uses",
				"EXPIRES=expires", "REVOKED=revoked")
		},
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "Make a token worthless", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), http.MethodDelete, "/api/v1/tokens/"+a[0], nil, nil)
		},
	}
	cmd.AddCommand(token, list, revoke)
	return cmd
}

func readDevices(file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for i, line := range strings.Split(string(data), "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || strings.HasPrefix(f[0], "#"):
		case len(f) > 2:
			return nil, fmt.Errorf("%s:%d: want a serial number and perhaps an id", file, i+1)
		case len(f) == 2:
			m[f[0]] = f[1]
		default:
			m[f[0]] = ""
		}
	}
	return m, nil
}

func commandCmd(c *client) *cobra.Command {
	var life, arg string
	cmd := &cobra.Command{
		Use: "command TARGET NAME | command show ID | command list", Short: "Order a box, or group:<name>, to do something",
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			switch {
			case len(a) == 1 && a[0] == "list":
				return c.list(cmd, "/api/v1/commands", "No commands.", "ID=id", "TARGET=target", "NAME=name", "CREATED=created",
					"EXPIRES=expires", "BY=who", ">BOXES=boxes")
			case len(a) == 2 && a[0] == "show":
				return c.one(cmd, "/api/v1/commands/"+a[1])
			case len(a) != 2:
				return usageError{Err: errors.New("want a target and a command")}
			}
			in := map[string]any{"target": a[0], "name": a[1]}
			if arg != "" {
				object, err := objectFlag("args", arg)
				if err != nil {
					return err
				}
				in["args"] = object
			}
			if err := durationFlag(in, "life", "life", life); err != nil {
				return err
			}
			var out map[string]any
			if err := c.call(cmd.Context(), http.MethodPost, "/api/v1/commands", in, &out); err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), out, func(w *tabWriter) { fmt.Fprintln(w, out["id"]) })
		},
	}
	cmd.Flags().StringVar(&arg, "args", "", "arguments as a JSON object")
	cmd.Flags().StringVar(&life, "life", "", "until when it is tried (default 24h)")
	return cmd
}

func configCmd(c *client) *cobra.Command {
	var set string
	cmd := &cobra.Command{
		Use: "config TARGET", Short: "Remote config of a box or group:<name>; it can only narrow", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			path := "/api/v1/config/" + url.PathEscape(a[0])
			if set == "" {
				return c.print(cmd, path)
			}
			object, err := objectFlag("set", set)
			if err != nil {
				return err
			}
			var out any
			if err := c.call(cmd.Context(), http.MethodPut, path, object, &out); err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), out, nil)
		},
	}
	cmd.Flags().StringVar(&set, "set", "", `a JSON object: {"wan_down":1000000,"paused":false,…}`)
	return cmd
}

func exportFlags(cmd *cobra.Command, q url.Values, names ...string) func() string {
	values := map[string]*string{}
	for _, n := range append(names, "from", "to") {
		values[n] = cmd.Flags().String(n, "", "only this "+n)
	}
	csv := cmd.Flags().Bool("csv", false, "CSV instead of JSON")
	return func() string {
		for n, v := range values {
			if *v != "" {
				q.Set(n, *v)
			}
		}
		if *csv {
			q.Set("format", "csv")
		}
		return q.Encode()
	}
}

func proofsCmd(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "proofs", Short: "Export proofs of arrival and erasure", Args: args(cobra.NoArgs)}
	query := exportFlags(cmd, url.Values{}, "box", "asset", "publisher", "campaign", "kind")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.print(cmd, "/api/v1/proofs?"+query()) }
	return cmd
}

func statementCmd(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "statement PUBLISHER",
		Short: "What was delivered where, from which source",
		Args:  args(cobra.ExactArgs(1)),
	}
	query := exportFlags(cmd, url.Values{}, "campaign", "asset")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		return c.print(cmd, "/api/v1/publishers/"+url.PathEscape(a[0])+"/statement?"+query())
	}
	return cmd
}

func alertsCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "alerts", Short: "What an operator should look at", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.list(cmd, "/api/v1/alerts", "No alerts.", "SEVERITY=severity", "CODE=code", "BOX=box", "SINCE=since", "TEXT=text")
		},
	}
}

func auditCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "audit", Short: "Who did what", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.list(cmd, "/api/v1/audit", "Nobody has done anything.", "AT=at", "WHO=who", "DID=action", "TO=object", "DETAIL=detail")
		},
	}
}

func userCmd(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Who may use the API"}
	var role, publisher string
	add := &cobra.Command{
		Use: "add NAME", Short: "Make a user; the token is shown once", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := map[string]any{"name": a[0], "role": role}
			if publisher != "" {
				in["publisher"] = publisher
			}
			var out map[string]any
			if err := c.call(cmd.Context(), http.MethodPost, "/api/v1/users", in, &out); err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), out, func(w *tabWriter) { fmt.Fprintln(w, out["token"]) })
		},
	}
	add.Flags().StringVar(&role, "role", "viewer", "viewer, publisher, operator or admin")
	add.Flags().StringVar(&publisher, "publisher", "", "whose assets a user of the role publisher may publish")
	list := &cobra.Command{
		Use: "list", Short: "List users", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.list(cmd, "/api/v1/users", "No users but the administrator.", "NAME=name", "ROLE=role", "PUBLISHER=publisher",
				"CREATED=created")
		},
	}
	del := &cobra.Command{
		Use: "delete NAME", Short: "Delete a user", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return c.call(cmd.Context(), http.MethodDelete, "/api/v1/users/"+a[0], nil, nil)
		},
	}
	cmd.AddCommand(add, list, del)
	return cmd
}
