package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"boxd/internal/cli"
	"boxd/internal/config"
	"boxd/internal/control"
)

func (c *command) addRun(root *cobra.Command) {
	run := &cobra.Command{
		Use: "run", Short: "The daemon", GroupID: "run", Args: cli.NoArgs,
		Long: `Run the daemon in the foreground. SIGHUP reads the configuration again (limits, log level and web origins change at
once; what else has changed is logged and needs a restart), SIGTERM and SIGINT end it.`,
		Example: "  boxd run --config /etc/boxd/boxd.toml",
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), cmd.ErrOrStderr()) },
	}
	run.Flags().StringVar(&c.config, "config", cli.EnvOr("BOXD_CONFIG", defaultConfig), "configuration file (BOXD_CONFIG)")
	check := &cobra.Command{
		Use: "check-config [FILE]", Short: "Report all faults of a configuration file", GroupID: "run",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return cli.NoArgs(cmd, args[1:])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			file := cli.EnvOr("BOXD_CONFIG", defaultConfig)
			if len(args) == 1 {
				file = args[0]
			}
			if _, err := config.Load(file, os.Environ()); err != nil {
				return cli.UsageError{Err: err}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is valid.\n", file)
			return err
		},
	}
	version := &cobra.Command{
		Use: "version", Short: "The version of this program", GroupID: "run", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.printVersion(cmd.OutOrStdout()) },
	}
	root.AddCommand(run, check, version)
}

func (c *command) printVersion(w io.Writer) error {
	v := map[string]string{"version": version}
	if info, ok := debug.ReadBuildInfo(); ok {
		v["go"] = info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "GOARCH" || s.Key == "GOARM" || s.Key == "GOOS" {
				v[s.Key] = s.Value
			}
		}
	}
	if c.json {
		return printJSON(w, v)
	}
	_, err := fmt.Fprintf(w, "boxd %s (%s, %s/%s%s)\n", version, v["go"], v["GOOS"], v["GOARCH"], v["GOARM"])
	return err
}

// logTailLines is how much of the log is kept in memory.
const logTailLines = 1000

// newLogger writes to w, which under systemd is the journal, and to the ring.
func newLogger(w io.Writer, c *config.Config, level *slog.LevelVar, ring *control.LogRing) *slog.Logger {
	return slog.New(ring.Handler(cli.LogHandler(w, c.Log.Format, level)))
}

func setLevel(level *slog.LevelVar, name string) {
	var l slog.Level
	if l.UnmarshalText([]byte(name)) == nil { // the configuration was validated
		level.Set(l)
	}
}

// maxProcs is how many processors the daemon uses at one time: the others are the viewer's, and fewer wake each other less.
const maxProcs = 2

func (c *command) run(ctx context.Context, stderr io.Writer) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // and never stopped: it would end the program, also while that starts and ends
	cfg, err := config.Load(c.config, os.Environ())
	if err != nil {
		return cli.UsageError{Err: err}
	}
	var level slog.LevelVar
	setLevel(&level, cfg.Log.Level)
	ring := control.NewLogRing(logTailLines)
	logger := newLogger(stderr, cfg, &level, ring)
	slog.SetLogLoggerLevel(slog.LevelDebug) // libraries that know no better than the standard logger
	slog.SetDefault(logger)
	debug.SetMemoryLimit(int64(cfg.Limits.Memory))
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), maxProcs))
	}

	d := &daemon{cfg: cfg, log: logger, ring: ring}
	if err := d.open(ctx); err != nil {
		d.close()
		logger.Error("cannot start", "error", err)
		return err
	}
	defer d.close()
	logger.Info("started", "version", version, "config", c.config, "http", d.httpURL(), "swarm", d.swarm.Addr().String())

	g, ctx := errgroup.WithContext(ctx)
	d.services(ctx, g)
	g.Go(func() error { return c.reload(ctx, hup, d, &level) })
	g.Go(func() error { return notifyLoop(ctx, logger, d.box.Probe, d.statusLine) })
	err = g.Wait()
	notify("STOPPING=1")
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err != nil {
		logger.Error("stopped by a fault", "error", err)
		return err
	}
	logger.Info("stopped")
	return nil
}

// reload follows SIGHUP.
func (c *command) reload(ctx context.Context, hup <-chan os.Signal, d *daemon, level *slog.LevelVar) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		}
		notifyReloading()
		next, err := config.Load(c.config, os.Environ())
		if err != nil {
			d.log.Error("the configuration was not reloaded", "error", err)
		} else {
			setLevel(level, next.Log.Level)
			d.reconfigure(next)
		}
		notify("READY=1")
	}
}
