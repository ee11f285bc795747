package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
	"boxd/internal/control"
)

func (c *command) addChange(root *cobra.Command) {
	for _, a := range []struct{ name, short, long string }{
		{"pin", "Keep an asset whatever the policy says", "Keep an asset: it is not evicted until it is unpinned."},
		{"unpin", "Let policy decide about an asset again", "Let policy decide about an asset again."},
		{
			"evict", "Remove an asset from the cache",
			"Remove an asset from the cache. While a campaign wants it, it will be fetched again.",
		},
		{
			"verify", "Read an asset back and check every piece",
			"Read an asset back and check every piece; what is damaged is fetched again.",
		},
	} {
		root.AddCommand(&cobra.Command{
			Use: a.name + " ASSET", Short: a.short, GroupID: "change", Args: cli.Args(1, "one asset"),
			Long: a.long + " ASSET is its id, its name or the beginning of one.", ValidArgsFunction: c.completeAssets,
			RunE: func(cmd *cobra.Command, args []string) error {
				return c.command(cmd, a.name, control.AssetArgs{Asset: args[0]})
			},
		})
	}
	for name, short := range map[string]string{
		"pause": "Stop fetching until told to go on", "resume": "Fetch again", "refresh": "Look at the catalog now",
	} {
		root.AddCommand(&cobra.Command{
			Use: name, Short: short, GroupID: "change", Args: cli.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.command(cmd, name, nil) },
		})
	}
}

// command runs one command and prints its answer; what takes long shows that it is at work.
func (c *command) command(cmd *cobra.Command, name string, args any) error {
	out := cmd.OutOrStdout()
	stop := c.working(cmd.Context(), cmd.ErrOrStderr(), name, args)
	res, err := c.client().run(cmd.Context(), name, args)
	stop()
	if err != nil {
		return err
	}
	if c.json {
		if err := printJSON(out, res); err != nil {
			return err
		}
	}
	if res.Status != control.Done {
		if c.json {
			return cli.ErrSilent
		}
		return fmt.Errorf("%s: %s (%s)", name, cli.Plain(res.Text), res.Code)
	}
	if !c.json {
		_, err = fmt.Fprintln(out, cli.Plain(res.Text))
	}
	return err
}

// working shows on a terminal that a command goes on: how far a verify is, else the seconds that it has taken.
func (c *command) working(ctx context.Context, w io.Writer, name string, args any) (stop func()) {
	if !cli.IsTerminal(w) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p := cli.NewProgress(w, name)
		defer p.Close()
		of, _ := args.(control.AssetArgs)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				done, total := c.readBack(ctx, name, of.Asset)
				p.Set(done, total)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// readBack asks how far a verify of an asset is; total is 0 when that is not known.
func (c *command) readBack(ctx context.Context, name, ref string) (done, total int64) {
	if name != "verify" {
		return 0, 0
	}
	s, err := c.client().status(ctx)
	if err != nil {
		return 0, 0
	}
	a, _ := s.Asset(ref)
	return a.ReadBack, a.Verified
}
