// Command fleetd is the operator's side of a fleet of boxd boxes: it publishes, schedules and watches. `fleetd serve`
// is the manager; every other subcommand talks to it over its HTTP API, but for those that work on a directory while
// nothing serves it (init, restore, keys).
//
// Invariants: with --json the output is one stable JSON document a line on stdout and nothing else; errors go to
// stderr; exit codes are 0 done, 1 fault, 2 bad usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// usageError marks faults of the command line.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	var bad usageError
	switch {
	case err == nil:
		return
	case errors.As(err, &bad):
		fmt.Fprintln(os.Stderr, "fleetd:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "fleetd:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:           "fleetd",
		Short:         "the operator's side of a fleet of boxd boxes",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.PersistentFlags().StringVar(&c.api, "api", envOr("BOXD_FLEET_API", "http://127.0.0.1:8088"), "the manager's API")
	cmd.PersistentFlags().StringVar(&c.dir, "dir", envOr("BOXD_FLEET_DIR", ""), "the fleet's directory")
	cmd.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON")
	cmd.AddCommand(
		serveCmd(c), initCmd(c), restoreCmd(c), publishCmd(c), withdrawCmd(c), assetsCmd(c), campaignCmd(c), boxesCmd(c), watchCmd(c),
		enrollCmd(c), backupCmd(c), commandCmd(c), configCmd(c), proofsCmd(c), statementCmd(c), alertsCmd(c), auditCmd(c),
		publisherCmd(c), userCmd(c), keysCmd(c), brokerCmd(c), brokerRunCmd(),
	)
	return cmd
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

// args wraps cobra's checks so that a wrong number of arguments is bad usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usageError{err}
		}
		return nil
	}
}
