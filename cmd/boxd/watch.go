package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"boxd/internal/cli"
)

// watch shows the status in place on a terminal, and else one after the other, once a second until interrupted.
func (c *command) watch(ctx context.Context, w io.Writer) (err error) {
	v := &watcher{c: c, cl: c.client(), out: w}
	if cli.IsTerminal(w) && !c.json {
		v.screen = cli.NewScreen(w)
		defer func() { err = errors.Join(err, v.screen.Close(v.last)) }()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := v.frame(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// watcher follows the status.
type watcher struct {
	c      *command
	cl     *client
	out    io.Writer
	screen *cli.Screen // nil: not a terminal
	last   string      // the latest whole view
}

// frame shows the status once. On a screen a daemon that does not answer may be starting again, and is waited for.
func (v *watcher) frame(ctx context.Context) error {
	if v.c.json {
		b, err := v.cl.read(ctx, "/api/v1/status")
		if ctx.Err() == nil && err == nil {
			_, err = v.out.Write(b)
		}
		return err
	}
	s, err := v.cl.status(ctx)
	var down notRunning
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.As(err, &down) && v.screen != nil:
		return v.screen.Draw(down.text + "\n\n" + v.last)
	case err != nil:
		return err
	case v.screen == nil:
		_, err = io.WriteString(v.out, statusText(s, wide, 12)+"\n")
		return err
	}
	columns, lines := v.screen.Size()
	// What is urgent stands below the assets and must be on the screen, so they get what is left.
	rest := strings.Count(statusText(s, columns, 0), "\n")
	v.last = statusText(s, columns, max(lines-rest-2, 3))
	return v.screen.Draw(v.last)
}
