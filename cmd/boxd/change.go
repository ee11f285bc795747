package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/control"
)

func (c *cli) addChange(root *cobra.Command) {
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
			Use: a.name + " ASSET", Short: a.short, GroupID: "change", Args: exactArgs(1, "one asset"),
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
			Use: name, Short: short, GroupID: "change", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.command(cmd, name, nil) },
		})
	}
}

// command runs one command and prints its answer; what takes long shows that it is at work.
func (c *cli) command(cmd *cobra.Command, name string, args any) error {
	out := cmd.OutOrStdout()
	stop := working(cmd.Context(), cmd.ErrOrStderr(), name)
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
			return errors.New("")
		}
		return fmt.Errorf("%s: %s (%s)", name, plain(res.Text), res.Code)
	}
	if !c.json {
		_, err = fmt.Fprintln(out, plain(res.Text))
	}
	return err
}

// working shows the seconds that a command has taken so far, on a terminal, from the second one on.
func working(ctx context.Context, w io.Writer, what string) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		start := time.Now()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				_, _ = io.WriteString(w, "\r\x1b[K") // see page
				return
			case <-tick.C:
				_, _ = fmt.Fprintf(w, "\r%s … %s\x1b[K", what, humanDuration(time.Since(start))) // see page
			}
		}
	}()
	return func() { cancel(); <-ended }
}
