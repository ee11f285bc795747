package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
	"boxd/internal/fleet/broker"
	"boxd/internal/fleet/ceremony"
	"boxd/internal/fleet/server"
)

func serveFlags(cmd *cobra.Command, o *server.Options) {
	f := cmd.Flags()
	f.StringVar(&o.Fleet, "fleet", "fleet", "id of a fleet that is made now: a-z, 0-9 and '-'")
	f.StringArrayVar(
		&o.Hosts,
		"host",
		nil,
		"name or address by which boxes reach this machine (repeatable; the first goes into the firmware)",
	)
	f.IntVar(&o.RootKeys, "root-keys", 1, "root keys of a new catalog")
	f.IntVar(&o.RootThreshold, "root-threshold", 0, "how many of them must sign (0: a majority)")
}

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{Err: fmt.Errorf("--log-level: %w", err)}
	}
	return slog.New(cli.LogHandler(os.Stderr, "text", l)), nil
}

func serveCmd(c *client) *cobra.Command {
	var o server.Options
	var level, profiles string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the manager; an empty directory becomes a new fleet", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(level)
			if err != nil {
				return err
			}
			if c.dir == "" {
				return usageError{Err: errors.New("serve needs --dir")}
			}
			o.Dir, o.Log = c.dir, log
			// --api is where the other subcommands find the API; for serve it is where it listens.
			if f := cmd.Flag("api"); f.Changed {
				o.API = trimScheme(c.api)
			}
			s, err := server.Open(cmd.Context(), o)
			if err != nil {
				return err
			}
			if profiles != "" {
				go writeProfiles(cmd.Context(), profiles, log)
			}
			err = s.Run(cmd.Context())
			return errors.Join(err, s.Close())
		},
	}
	serveFlags(cmd, &o)
	f := cmd.Flags()
	f.StringVar(&o.Listen, "listen", ":8443", "address for boxes (HTTPS: enrolment, catalog, origin, tracker)")
	f.StringVar(&o.MQTT, "mqtt", ":8883", "address of the MQTT listener (TLS)")
	f.StringVar(&o.NATS, "nats", "", "NATS cluster instead of the embedded server: nats://host:port,…")
	f.StringVar(&o.MQTTURL, "mqtt-cluster", "", "host:port of that cluster's MQTT listeners, comma separated")
	f.StringArrayVar(&o.BrokerURLs, "broker", nil, "MQTT broker to name in the firmware: tls://host:port (repeatable)")
	f.StringVar(&o.DB, "db", "", "PostgreSQL instead of SQLite: postgres://…")
	f.StringArrayVar(&o.Imports, "import", nil, "directory of this machine that users of the role operator may publish from (repeatable)")
	f.StringVar(&o.Regions, "regions", "",
		"file that lists regions, one prefix and name on a line (203.0.113.0/24 north): their boxes are told of each other first")
	f.StringVar(&profiles, "profiles", "", "directory for Go profiles: SIGUSR1 writes them, SIGUSR2 begins and ends one of the CPU")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func trimScheme(addr string) string {
	for _, p := range []string{"http://", "https://"} {
		if len(addr) > len(p) && addr[:len(p)] == p {
			return addr[len(p):]
		}
	}
	return addr
}

func initCmd(c *client) *cobra.Command {
	var o server.Options
	cmd := &cobra.Command{
		Use: "init", Short: "Make a fleet without starting it: certificate authority, catalog, keys", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.dir == "" {
				return usageError{Err: errors.New("init needs --dir")}
			}
			o.Dir = c.dir
			if is, err := server.FleetOf(o.Dir); err != nil {
				return err
			} else if is != "" {
				if cmd.Flag("fleet").Changed && is != o.Fleet || cmd.Flag("host").Changed {
					return usageError{Err: fmt.Errorf("the fleet %q is in %s already; init changes nothing about it", is, o.Dir)}
				}
				o.Fleet = is
			}
			if err := server.Init(o); err != nil {
				return err
			}
			keys, err := ceremony.Survey(o.Dir)
			if err != nil {
				return err
			}
			doc := map[string]any{"dir": o.Dir, "fleet": o.Fleet, "keys": keys}
			return c.show(cmd.OutOrStdout(), doc, func(w *tabWriter) {
				fmt.Fprintf(w, "The fleet %q is in %s. Its private keys:\n\n", o.Fleet, o.Dir)
				surveyTable(w, keys)
				fmt.Fprint(w, "\nTake those away that belong offline: fleetd keys seal --out DIR --shares 5 --needed 3\n")
			})
		},
	}
	serveFlags(cmd, &o)
	return cmd
}

func restoreCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "Unpack a backup into an empty directory (- for standard input)", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if c.dir == "" {
				return usageError{Err: errors.New("restore needs --dir")}
			}
			in := cmd.InOrStdin()
			if a[0] != "-" {
				f, err := os.Open(a[0])
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }()
				in = f
			}
			return server.Restore(c.dir, in)
		},
	}
}

func backupCmd(c *client) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "backup", Short: "Write all that cannot be made again to a tar archive", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "-" {
				return c.copyTo(cmd.Context(), cmd.OutOrStdout(), "/api/v1/backup")
			}
			f, err := os.OpenFile(out+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			err = c.copyTo(cmd.Context(), f, "/api/v1/backup")
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				return errors.Join(err, os.Remove(out+".tmp"))
			}
			return os.Rename(out+".tmp", out)
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "fleet-backup.tar", "file to write (- for standard output); it holds keys")
	return cmd
}

func brokerCmd(c *client) *cobra.Command {
	var name, store, mqtt, client, cluster, cert string
	var routes, hosts []string
	cmd := &cobra.Command{
		Use: "broker-config", Short: "Print the configuration of one nats-server of a cluster that serves this fleet",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.dir == "" {
				return usageError{Err: errors.New("broker-config needs --dir")}
			}
			conf, err := server.BrokerConfig(cmd.Context(), server.ClusterNode{
				Dir: c.dir, Name: name, Store: store, MQTT: mqtt, Out: cert, Routes: routes, Hosts: hosts, Client: client,
				Cluster: cluster,
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), conf)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "n1", "name of this node")
	f.StringVar(&store, "store", "/var/lib/nats", "its JetStream directory")
	f.StringVar(&mqtt, "mqtt", "0.0.0.0:8883", "its MQTT listener")
	f.StringVar(&client, "client", "0.0.0.0:4222", "its listener for fleetd")
	f.StringVar(&cluster, "cluster", "0.0.0.0:6222", "its listener for the other nodes")
	f.StringArrayVar(&hosts, "host", nil, "name or address by which boxes reach this node (repeatable; default: the fleet's)")
	f.StringVar(&cert, "tls-dir", ".", "where to write its certificate, key and the boxes' CA")
	f.StringArrayVar(&routes, "route", nil, "the other nodes: nats://host:6222 (repeatable)")
	return cmd
}

func brokerRunCmd() *cobra.Command {
	var level string
	cmd := &cobra.Command{
		Use:   "broker CONFIG",
		Short: "Run one NATS server of a cluster, with a configuration that broker-config wrote",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			log, err := logger(level)
			if err != nil {
				return err
			}
			return broker.RunConfig(cmd.Context(), a[0], log)
		},
	}
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}
