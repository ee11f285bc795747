// Command boxd runs on a set-top box: it prefetches scheduled media from the boxes around it into a disk cache, shares it
// with them, plays it out on the box and reports to the fleet manager. The same program is its command line.
//
// Invariants: resources are opened first and closed last, services run in between in one group; the first service that
// breaks ends the process. Exit codes: 0 done, 1 fault, 2 bad usage or configuration.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
	"boxd/internal/config"
)

// Filled in by the linker.
var (
	version    = "devel"
	buildEpoch = "" // Unix seconds of the commit
)

const defaultConfig = "/etc/boxd/boxd.toml"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, newRoot(), os.Args[1:])
	stop()
	os.Exit(code)
}

func execute(ctx context.Context, root *cobra.Command, args []string) int {
	return cli.Execute(ctx, root, args, func(err error) bool {
		var faults config.Faults
		return errors.As(err, &faults)
	})
}

// command is what the commands share.
type command struct {
	socket string
	config string
	json   bool
}

func newRoot() *cobra.Command {
	c := &command{}
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
		Version: version,
	}
	f := root.PersistentFlags()
	f.StringVar(&c.socket, "socket", cli.EnvOr("BOXD_SOCKET", config.Default().Paths.Socket),
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
	root.AddCommand(cli.ManualCommand(
		[2]string{defaultConfig, "the configuration"}, [2]string{config.Default().Paths.Socket, "the daemon's socket"}))
	root.SetCompletionCommandGroupID("run")
	root.SetHelpCommandGroupID("run")
	cli.Prepare(root)
	return root
}
