// Command fleetd is the operator's side of a fleet of boxd boxes: it publishes, schedules and watches. `fleetd serve`
// is the manager; every other subcommand talks to it over its HTTP API, but for those that work on a directory while
// nothing serves it (init, restore, keys).
//
// Invariants: with --json the output is one stable JSON document a line on stdout and nothing else; errors go to
// stderr; exit codes are 0 done, 1 fault, 2 bad usage.
package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
)

// version is set by the linker.
var version = "dev"

// usageError marks faults of the command line.
type usageError = cli.UsageError

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Execute(ctx, root(), os.Args[1:], nil)
	stop()
	os.Exit(code)
}

func root() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "fleetd",
		Short: "The operator's side of a fleet of boxd boxes",
		Long: `fleetd is the operator's side of a fleet of boxd boxes: it publishes, schedules and watches.

"fleetd serve" is the manager; an empty directory is all that it needs. The other commands talk to it over its HTTP API,
which is also where its dashboard is. What changes something needs a token: --dir of the fleet on the manager's machine,
or BOXD_FLEET_TOKEN elsewhere ("fleetd user add" makes one).`,
		Example: `  fleetd serve --dir fleet --host fleet.example     run the manager; then open http://127.0.0.1:8088
  export BOXD_FLEET_DIR=fleet
  fleetd enroll token --group north --uses 100      let a hundred boxes join
  fleetd publish film.mp4                           hash, sign and offer a film
  fleetd campaign create --name Friday --group north --asset <id> --deadline 8h
  fleetd watch                                      see it arrive`,
		Version: version,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&c.api, "api", cli.EnvOr("BOXD_FLEET_API", "http://127.0.0.1:8088"), "the manager's API (BOXD_FLEET_API)")
	f.StringVar(&c.dir, "dir", cli.EnvOr("BOXD_FLEET_DIR", ""), "the fleet's directory (BOXD_FLEET_DIR)")
	f.BoolVar(&c.json, "json", false, "print JSON instead of text")
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"work", "Publish and schedule:", []*cobra.Command{publishCmd(c), assetsCmd(c), withdrawCmd(c), campaignCmd(c), publisherCmd(c)}},
		{"look", "See what the fleet does:", []*cobra.Command{
			watchCmd(c), boxesCmd(c), alertsCmd(c), proofsCmd(c), statementCmd(c), auditCmd(c),
		}},
		{"boxes", "Boxes and people:", []*cobra.Command{enrollCmd(c), commandCmd(c), configCmd(c), userCmd(c)}},
		{"run", "Run the manager:", []*cobra.Command{
			serveCmd(c), initCmd(c), backupCmd(c), restoreCmd(c), keysCmd(c), brokerCmd(c), brokerRunCmd(),
		}},
	} {
		cmd.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, sub := range g.commands {
			sub.GroupID = g.id
		}
		cmd.AddCommand(g.commands...)
	}
	cmd.SetHelpCommandGroupID("run")
	cmd.SetCompletionCommandGroupID("run")
	cmd.AddCommand(cli.ManualCommand([2]string{"DIR/api-token", "the administrator's token"},
		[2]string{"DIR/firmware", "what a firmware image needs to join the fleet"}))
	cli.Prepare(cmd)
	return cmd
}

// args makes a wrong number of arguments bad usage, and says what is wanted.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if check(cmd, a) == nil {
			return nil
		}
		_, what, _ := strings.Cut(cmd.Use, " ")
		if what == "" {
			return cli.NoArgs(cmd, a)
		}
		return cli.Usagef("want %s %s; see %[1]s --help", cmd.CommandPath(), what)
	}
}
