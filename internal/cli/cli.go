// Package cli is what the command lines of boxd and fleetd have in common: exit codes, text for people, tables and bars, a
// live view, the progress of long work, manual pages.
//
// Invariants: text that came from elsewhere goes through Plain, so that no name steers the terminal; a live view and a
// progress bar draw on a terminal only, in place, and only when something has changed; the cursor and the screen are
// given back when they end; nothing here knows of a daemon.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// The exit codes of both programs.
const (
	ExitDone  = 0
	ExitFault = 1
	ExitUsage = 2
)

// UsageError is a fault of how a program was called.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// ErrSilent ends a command with ExitFault; what is to be said was said.
var ErrSilent = errors.New("")

// Prepare makes a root command and all below it answer alike: the error alone and not the whole usage, bad flags, unknown
// commands and missing ones as bad usage.
func Prepare(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	groups(root)
}

// groups lets a command that only holds others say so when it is called with none of them.
func groups(cmd *cobra.Command) {
	if !cmd.Runnable() && cmd.HasSubCommands() {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && !cmd.HasParent():
				return cmd.Help()
			case len(args) == 0:
				return Usagef("want %s %s; see %[1]s --help", cmd.CommandPath(), choice(cmd))
			}
			text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
			for i, s := range cmd.SuggestionsFor(args[0]) {
				if i == 0 {
					text += fmt.Sprintf("; did you mean %q?", s)
				}
			}
			return Usagef("%s; see %s --help", text, cmd.CommandPath())
		}
		cmd.Args = cobra.ArbitraryArgs
		if cmd.SuggestionsMinimumDistance <= 0 {
			cmd.SuggestionsMinimumDistance = 2
		}
	}
	for _, sub := range cmd.Commands() {
		groups(sub)
	}
}

// choice lists the commands that a group holds.
func choice(cmd *cobra.Command) string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			names = append(names, sub.Name())
		}
	}
	return strings.Join(names, "|")
}

// Execute runs a prepared root command and returns the exit code; isUsage may name more errors that are bad usage.
func Execute(ctx context.Context, root *cobra.Command, args []string, isUsage func(error) bool) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitDone
	}
	if msg := err.Error(); msg != "" {
		_, _ = fmt.Fprintln(root.ErrOrStderr(), root.Name()+": "+msg) // nowhere else to say it
	}
	var usage UsageError
	if errors.As(err, &usage) || isUsage != nil && isUsage(err) {
		return ExitUsage
	}
	return ExitFault
}

// EnvOr is an environment variable, or what holds without it.
func EnvOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

// NoArgs refuses arguments.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("%s: unknown argument %q; see %[1]s --help", cmd.CommandPath(), args[0])
	}
	return nil
}

// Args wants so many arguments; what names them.
func Args(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return Usagef("%s: want %s; see %[1]s --help", cmd.CommandPath(), what)
		}
		return nil
	}
}
