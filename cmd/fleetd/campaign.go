package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
	"boxd/internal/durable"
	"boxd/internal/fleet/operate"
)

type campaignDoc struct {
	ID     string          `json:"id"`
	Name   string          `json:"name"`
	Group  string          `json:"group"`
	State  string          `json:"state"`
	Why    string          `json:"why,omitempty"`
	Counts *operate.Counts `json:"counts,omitempty"`
	Draft  json.RawMessage `json:"draft,omitempty"` // to be signed where the key is
}

func campaignCmd(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "campaign", Short: "Wishes: these assets on these boxes by then"}
	list := &cobra.Command{
		Use: "list", Short: "List campaigns and how they stand", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.json {
				return c.print(cmd, "/api/v1/campaigns")
			}
			var list []campaignDoc
			if err := c.call(cmd.Context(), http.MethodGet, "/api/v1/campaigns", nil, &list); err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), list, func(w *tabWriter) { campaignTable(w, list) })
		},
	}
	show := &cobra.Command{
		Use: "show ID", Short: "One campaign with its counts", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error { return c.one(cmd, "/api/v1/campaigns/"+a[0]) },
	}
	cmd.AddCommand(campaignCreateCmd(c), list, show)
	for _, x := range []struct{ verb, state, short string }{
		{"pause", "paused", "Boxes keep what they have and fetch nothing more until it is resumed"},
		{"resume", "running", "Boxes go on from where they stopped"},
		{"abort", "aborted", "Take a campaign out of the catalog for good; boxes may delete what they have of it"},
	} {
		var why, draft string
		sub := &cobra.Command{
			Use: x.verb + " ID", Short: x.short, Args: args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, a []string) error {
				in := map[string]string{"state": x.state, "why": why}
				_, err := c.campaign(cmd, "/api/v1/campaigns/"+a[0]+"/state", in, draft)
				return err
			},
		}
		sub.Flags().StringVar(&why, "why", "", "the reason, for the audit log")
		sub.Flags().StringVar(&draft, "draft", "", draftHelp)
		cmd.AddCommand(sub)
	}
	return cmd
}

const draftHelp = "file for a draft to sign elsewhere (keys sign, keys import), if the campaigns key is not on the manager's machine"

// campaign asks for a campaign or a change of one. When it must be signed elsewhere the draft goes to the file.
func (c *client) campaign(cmd *cobra.Command, path string, in any, file string) (campaignDoc, error) {
	if file != "" {
		path += "?draft=true"
	}
	var out campaignDoc
	if err := c.call(cmd.Context(), http.MethodPost, path, in, &out); err != nil || out.Draft == nil {
		return out, err
	}
	var text bytes.Buffer
	if err := json.Indent(&text, out.Draft, "", "  "); err != nil {
		return out, fmt.Errorf("draft: %w", err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: sign it where the campaigns key is, then import it\n", file)
	return out, durable.WriteFile(durable.OS(), file, text.Bytes(), 0o644)
}

func campaignTable(w *tabWriter, list []campaignDoc) {
	fmt.Fprintln(w, "ID\tNAME\tGROUP\tSTATE\tREADY\tWORKING\tFAILED\tOFFLINE\tAT RISK\tWHY")
	for _, x := range list {
		n := x.Counts
		if n == nil {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\t\t\t\t\t%s\n", x.ID, x.Name, x.Group, x.State, x.Why)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d of %d\t%d\t%d\t%d\t%d\t%s\n", x.ID, x.Name, x.Group, x.State, n.Ready, n.Included,
			n.Working, n.Failed, n.Offline, n.AtRisk, x.Why)
	}
}

func campaignCreateCmd(c *client) *cobra.Command {
	var id, name, group, publisher, deadline, notBefore, keepUntil, originDelay, spread, prefix, bitrate, draft string
	var assets, windows, stages, cohorts []string
	var priority int
	var originNever, missedStops, late bool
	var originFloor int64
	var success, maxErrors float64
	cmd := &cobra.Command{
		Use: "create", Short: "Schedule assets on a group of boxes", Args: args(cobra.NoArgs),
		Example: `  fleetd campaign create --name "Friday premiere" --group north --asset <id> --deadline 2026-03-06T18:00:00+01:00 \
      --window "mon-fri 01:00-06:00" --window "sat,sun 00:00-08:00 rate=2MB/s"
  fleetd campaign create --name firmware-12 --group all --asset <id> --stage "1% hold=4h" --stage "10% hold=24h" --stage 100%`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := map[string]any{
				"v":            1,
				"asset_ids":    assets,
				"group":        group,
				"priority":     priority,
				"missed_stops": missedStops,
				"assets":       nil,
			}
			for k, v := range map[string]string{"id": id, "name": name} {
				if v != "" {
					in[k] = v
				}
			}
			for k, v := range map[string]string{"deadline": deadline, "not_before": notBefore, "keep_until": keepUntil} {
				if v == "" {
					continue
				}
				at, err := parseTime(v)
				if err != nil {
					return usageError{Err: fmt.Errorf("--%s: %w", strings.ReplaceAll(k, "_", "-"), err)}
				}
				if k == "deadline" && !late && at.Before(time.Now()) {
					return usageError{Err: fmt.Errorf("--deadline %s is over: no box can keep it (--late does it all the same)", v)}
				}
				in[k] = at
			}
			if err := durationFlag(in, "spread", "spread", spread); err != nil {
				return err
			}
			if len(assets) == 0 {
				return usageError{Err: errors.New("a campaign needs at least one --asset")}
			}
			var ws []any
			for _, w := range windows {
				parsed, err := parseWindow(w)
				if err != nil {
					return usageError{Err: fmt.Errorf("--window %q: %w", w, err)}
				}
				ws = append(ws, parsed)
			}
			in["windows"] = ws
			prefixBytes, err := parsePrefix(prefix, bitrate)
			if err != nil {
				return usageError{Err: fmt.Errorf("--prefix %q: %w", prefix, err)}
			}
			if prefixBytes > 0 {
				in["prefix_bytes"] = prefixBytes
			}
			origin := map[string]any{"never": originNever, "floor_bytes_per_second": originFloor}
			if err := durationFlag(origin, "delay", "origin-delay", originDelay); err != nil {
				return err
			}
			in["origin"] = origin
			if publisher != "" {
				in["publisher"] = publisher
			}
			if len(stages) > 0 {
				staged, err := parseStages(stages)
				if err != nil {
					return usageError{Err: err}
				}
				rollout := map[string]any{"stages": staged, "cohorts": cohorts}
				if cmd.Flag("success").Changed {
					if success <= 0 {
						return usageError{Err: errors.New("--success must be above 0; leave it out for 0.95")}
					}
					rollout["success"] = success
				}
				if cmd.Flag("max-errors").Changed {
					rollout["max_errors"] = maxErrors
				}
				in["staged"] = rollout
			}
			if len(stages) == 0 && (len(cohorts) > 0 || cmd.Flag("success").Changed || cmd.Flag("max-errors").Changed) {
				return usageError{Err: errors.New("--cohort, --success and --max-errors need --stage: without one all boxes begin at once")}
			}
			out, err := c.campaign(cmd, "/api/v1/campaigns", in, draft)
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), out, func(w *tabWriter) { fmt.Fprintf(w, "%s\n", out.ID) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&draft, "draft", "", draftHelp)
	f.StringVar(&id, "id", "", "id (default: made from the name)")
	f.StringVar(&name, "name", "", "name")
	f.StringVar(&group, "group", "default", "group of boxes")
	f.StringArrayVar(&assets, "asset", nil, "asset id (repeatable)")
	f.StringVar(&publisher, "publisher", "", "whose the assets are, where several publishers have the same bytes")
	f.StringVar(&deadline, "deadline", "", "RFC 3339 time, or a duration from now such as 8h")
	f.BoolVar(&late, "late", false, "the deadline may be over already")
	f.StringVar(&notBefore, "not-before", "", "when it begins; a time or a duration from now")
	f.StringVar(&keepUntil, "keep-until", "", "until when boxes keep it; a time or a duration from now")
	f.IntVar(&priority, "priority", 0, "-1000 to 1000, higher is more important")
	f.StringArrayVar(&windows, "window", nil,
		`when the access line may be used: "mon-fri 22:00-06:00 rate=2MB/s" (repeatable; until the same time is 24 hours)`)
	f.StringVar(&prefix, "prefix", "", "beginning of each asset that comes before the rest of any: 16MB, or 30s with --bitrate")
	f.StringVar(&bitrate, "bitrate", "", `of the media, for --prefix in seconds: "8Mbit/s"`)
	f.StringVar(&spread, "spread", "", "starts are spread over this time")
	f.StringVar(&originDelay, "origin-delay", "", "peers alone are tried for so long")
	f.Int64Var(&originFloor, "origin-floor", 0, "bytes a second below which the origin helps")
	f.BoolVar(&originNever, "origin-never", false, "the origin is never asked")
	f.BoolVar(&missedStops, "missed-stops", false, "what is not complete at the deadline is not fetched any more")
	f.StringArrayVar(&stages, "stage", nil, `staged rollout: "1%", "10% hold=1h", "100%" (repeatable, in order)`)
	f.StringArrayVar(&cohorts, "cohort", nil, "box that is in from the first stage, by its id (repeatable)")
	f.Float64Var(&success, "success", 0.95, "share of a stage's boxes, above 0, that must be ready before the next")
	f.Float64Var(&maxErrors, "max-errors", 0.05, "share of a stage's boxes that may fail or vanish before the campaign is paused")
	return cmd
}

// parsePrefix reads bytes, or seconds of media with the given bit rate: nothing else tells how long a file plays.
func parsePrefix(prefix, bitrate string) (int64, error) {
	if prefix == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(prefix)
	if err != nil {
		n, err := parseRate(strings.ToLower(prefix))
		if err != nil || n <= 0 || strings.HasSuffix(prefix, "/s") {
			return 0, errors.New("want for example 16MB, or 30s with --bitrate 8Mbit/s")
		}
		return n, nil
	}
	if d <= 0 {
		return 0, errors.New("want more than nothing")
	}
	if bitrate == "" {
		return 0, errors.New("a prefix in seconds needs --bitrate, such as 8Mbit/s; or give it in bytes, such as 16MB")
	}
	mbit, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(bitrate, "/s")), "mbit")
	rate, err := strconv.ParseFloat(strings.TrimSpace(mbit), 64)
	if err != nil || !ok || rate <= 0 || rate > 1e4 {
		return 0, fmt.Errorf("--bitrate %q: want for example 8Mbit/s", bitrate)
	}
	return int64(d.Seconds() * rate * 1e6 / 8), nil
}

// parseTime reads an RFC 3339 time or a duration from now.
func parseTime(s string) (time.Time, error) {
	if d, err := parseDuration(s); err == nil {
		return time.Now().Add(d).UTC().Truncate(time.Second), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return at, cli.Usagef("%q: want a time such as 2026-03-06T06:00:00+01:00, or how long from now, such as 8h", s)
	}
	return at, nil
}

var dayNames = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

func dayIndex(s string) int {
	for i, d := range dayNames {
		if d == s {
			return i
		}
	}
	return -1
}

// parseWindow reads "[days] HH:MM-HH:MM [rate=N[kB/s|MB/s]]"; days are names, ranges and lists: "mon-fri,sun".
func parseWindow(s string) (map[string]any, error) {
	w := map[string]any{}
	for _, f := range strings.Fields(strings.ToLower(s)) {
		rate, isRate := strings.CutPrefix(f, "rate=")
		from, to, isRange := strings.Cut(f, "-")
		switch {
		case isRate:
			n, err := parseRate(rate)
			if err != nil {
				return nil, err
			}
			w["rate_bytes_per_second"] = n
		case isRange && strings.Contains(from, ":"):
			w["from"], w["to"] = from, to
		default:
			days, err := parseDays(f)
			if err != nil {
				return nil, err
			}
			w["days"] = days
		}
	}
	if w["from"] == nil {
		return nil, errors.New("want HH:MM-HH:MM")
	}
	return w, nil
}

func parseDays(s string) ([]string, error) {
	var days []string
	for _, part := range strings.Split(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		i := dayIndex(from)
		j := i
		if isRange {
			j = dayIndex(to)
		}
		if i < 0 || j < 0 {
			return nil, fmt.Errorf("%q is not a day or a range of days", part)
		}
		for {
			days = append(days, dayNames[i])
			if i == j {
				break
			}
			i = (i + 1) % len(dayNames)
		}
	}
	return days, nil
}

func parseRate(s string) (int64, error) {
	s = strings.TrimSuffix(s, "/s")
	scale := int64(1)
	for suffix, n := range map[string]int64{"kb": 1000, "mb": 1_000_000, "gb": 1_000_000_000} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, scale = rest, n
			break
		}
	}
	s = strings.TrimSuffix(s, "b")
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v < 0 || v > 1e12 {
		return 0, fmt.Errorf("rate %q: want for example 2MB/s", s)
	}
	return int64(v * float64(scale)), nil
}

// parseStages reads "10% hold=1h".
func parseStages(list []string) ([]map[string]any, error) {
	var out []map[string]any
	for _, s := range list {
		stage := map[string]any{}
		for _, f := range strings.Fields(s) {
			if hold, ok := strings.CutPrefix(f, "hold="); ok {
				d, err := parseDuration(hold)
				if err != nil {
					return nil, fmt.Errorf("--stage %q: %w", s, err)
				}
				stage["hold"] = d.String()
				continue
			}
			v, err := strconv.ParseFloat(strings.TrimSuffix(f, "%"), 64)
			if err != nil || v < 0 || v > 100 || !strings.HasSuffix(f, "%") {
				return nil, fmt.Errorf("--stage %q: want a percentage such as 10%%", s)
			}
			n := int(v*10 + 0.5)
			if n == 0 {
				return nil, fmt.Errorf("--stage %q: less than 0.1%% would be no box at all; name boxes with --cohort and begin with 0.1%%", s)
			}
			stage["per_mille"] = n
		}
		if stage["per_mille"] == nil {
			return nil, fmt.Errorf("--stage %q: want a percentage such as 10%%", s)
		}
		out = append(out, stage)
	}
	return out, nil
}
