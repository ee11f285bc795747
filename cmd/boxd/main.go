// Command boxd runs on a set-top box: it prefetches scheduled media from the boxes around it into a disk cache, shares it
// with them, plays it out on the box and reports to the fleet manager. The same program is its command line.
//
// Invariants: resources are opened first and closed last, services run in between in one group; the first service that
// breaks ends the process. Exit codes: 0 done, 1 fault, 2 bad usage or configuration.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"boxd/internal/config"
)

// Filled in by the linker.
var (
	version    = "devel"
	buildEpoch = "" // Unix seconds of the commit
)

// The exit codes.
const (
	exitDone  = 0
	exitFault = 1
	exitUsage = 2
)

const defaultConfig = "/etc/boxd/boxd.toml"

// usageError is a fault of how the program was called.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, newRoot(), os.Args[1:])
	stop()
	os.Exit(code)
}

func execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if msg := err.Error(); msg != "" {
		_, _ = fmt.Fprintln(root.ErrOrStderr(), "boxd: "+msg) // nowhere else to say it
	}
	var usage usageError
	var faults config.Faults
	if errors.As(err, &usage) || errors.As(err, &faults) {
		return exitUsage
	}
	return exitFault
}

// cli is what the commands share.
type cli struct {
	socket string
	config string
	json   bool
}

func newRoot() *cobra.Command {
	c := &cli{}
	root := &cobra.Command{
		Use:   "boxd",
		Short: "Prefetch, share and play out media on a set-top box",
		Long: `boxd prefetches scheduled media from the boxes around it into a disk cache, shares it with the other
boxes of the home, and plays it out to the player on this box.

The daemon is "boxd run". All other commands ask the daemon over its socket.`,
		Example: `  boxd status            what this box is doing, in one screen
  boxd status --watch    the same, live
  boxd why film.mp4      why an asset is, or is not, being fetched
  boxd doctor            find out what is wrong, and what to do about it`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("boxd {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&c.socket, "socket", envOr("BOXD_SOCKET", config.Default().Paths.Socket),
		"the daemon's unix socket (BOXD_SOCKET)")
	f.BoolVar(&c.json, "json", false, "print JSON instead of text")
	root.AddGroup(&cobra.Group{ID: "look", Title: "See what the box does:"},
		&cobra.Group{ID: "change", Title: "Change what it does:"},
		&cobra.Group{ID: "help", Title: "When something is wrong:"},
		&cobra.Group{ID: "run", Title: "Run it:"})
	c.addLook(root)
	c.addChange(root)
	c.addHelp(root)
	c.addRun(root)
	c.addManual(root)
	return root
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s: unknown argument %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return nil
}

func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s: want %s; see %s --help", cmd.CommandPath(), what, cmd.CommandPath())}
		}
		return nil
	}
}
