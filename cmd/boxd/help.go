package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
	"boxd/internal/config"
	"boxd/internal/control"
)

func (c *command) addHelp(root *cobra.Command) {
	doctor := &cobra.Command{
		Use: "doctor", Short: "Find the usual faults, and what to do about them", GroupID: "help", Args: cli.NoArgs,
		Long: `Find the usual faults (clock, disk, certificate, DNS, fleet manager, broker, multicast, NAT) and what to do about
them. When the daemon does not run, the checks are made here, with the configuration file. Exits with 1 when a check fails.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.doctor(cmd.Context(), cmd.OutOrStdout()) },
	}
	doctor.Flags().StringVar(&c.config, "config", cli.EnvOr("BOXD_CONFIG", defaultConfig), "configuration file (BOXD_CONFIG)")
	var out string
	bugreport := &cobra.Command{
		Use: "bugreport", Short: "Collect what an engineer needs to see, without secrets", GroupID: "help", Args: cli.NoArgs,
		Long: `Collect status, history, checks, metrics, configuration, goroutines and the last lines of the log into one archive.
Keys, certificates' keys and tokens are left out.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.bugReport(cmd.Context(), cmd.OutOrStdout(), out) },
	}
	bugreport.Flags().StringVarP(&out, "output", "o", "",
		"file to write; - is standard output (default boxd-bugreport-<time>.tar.gz)")
	var lines int
	logs := &cobra.Command{
		Use: "log", Short: "The last lines of the daemon's log", GroupID: "help", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.logTail(cmd.Context(), cmd.OutOrStdout(), lines) },
	}
	logs.Flags().IntVarP(&lines, "lines", "n", 50, "how many")
	root.AddCommand(doctor, bugreport, logs)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (c *command) doctor(ctx context.Context, w io.Writer) error {
	var checks []control.Check
	res, err := c.client().run(ctx, "diagnose", nil)
	var down notRunning
	switch {
	case errors.As(err, &down):
		checks = append([]control.Check{{
			Name: "daemon", Status: control.CheckFailed, Text: down.text,
			Action: "Start it: systemctl start boxd; then journalctl -u boxd.",
		}}, offline(ctx, c.config)...)
	case err != nil:
		return err
	case res.Status != control.Done:
		return fmt.Errorf("diagnose: %s", res.Text)
	default:
		if err := json.Unmarshal(res.Data, &checks); err != nil {
			return fmt.Errorf("read the checks: %w", err)
		}
	}
	if c.json {
		if err := printJSON(w, checks); err != nil {
			return err
		}
	} else {
		printChecks(w, checks)
	}
	for _, k := range checks {
		if k.Status == control.CheckFailed {
			return cli.ErrSilent
		}
	}
	return nil
}

// offline makes the checks that need no daemon.
func offline(ctx context.Context, file string) []control.Check {
	cfg, err := config.Load(file, os.Environ())
	if err != nil {
		return []control.Check{{
			Name: "configuration", Status: control.CheckFailed, Text: err.Error(),
			Action: "Mend the file; boxd check-config tells when it is right.",
		}}
	}
	return append([]control.Check{{Name: "configuration", Status: control.CheckOK, Text: file + " is valid."}},
		control.Diagnose(ctx, control.DoctorFor(cfg))...)
}

func printChecks(w io.Writer, checks []control.Check) {
	var p cli.Page
	marks := map[control.CheckStatus]string{
		control.CheckOK: "ok  ", control.CheckWarn: "WARN",
		control.CheckFailed: "FAIL",
	}
	bad := 0
	for _, k := range checks {
		p.Line("%s  %-14s %s", marks[k.Status], k.Name, cli.Plain(k.Text))
		if k.Status != control.CheckOK {
			bad++
			if k.Action != "" {
				p.Line("      %-14s → %s", "", cli.Plain(k.Action))
			}
		}
	}
	if bad == 0 {
		p.Line("\nNothing is wrong that the doctor knows of.")
	}
	_, _ = io.WriteString(w, p.String()) // see cli.Page
}

func (c *command) bugReport(ctx context.Context, w io.Writer, name string) error {
	b, err := c.client().read(ctx, "/api/v1/bugreport")
	if err != nil {
		return err
	}
	if name == "-" {
		_, err = w.Write(b)
		return err
	}
	if name == "" {
		name = "boxd-bugreport-" + time.Now().Format("20060102-150405") + ".tar.gz"
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	_, err = fmt.Fprintf(w,
		"%s (%s). It has no keys and no tokens; names of assets and addresses of boxes are in it.\n", name,
		cli.Bytes(int64(len(b))))
	return err
}

func (c *command) logTail(ctx context.Context, w io.Writer, n int) error {
	res, err := c.client().run(ctx, "log-tail", control.LogArgs{Lines: n})
	if err != nil {
		return err
	}
	var tail struct {
		Lines []string `json:"lines"`
	}
	if err := json.Unmarshal(res.Data, &tail); err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	for _, l := range tail.Lines {
		if _, err := fmt.Fprintln(w, cli.Plain(l)); err != nil {
			return err
		}
	}
	return nil
}
