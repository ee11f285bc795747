package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"boxd/internal/durable"
)

func (c *cli) addManual(root *cobra.Command) {
	root.AddCommand(&cobra.Command{
		Use: "man DIR", Short: "Write the manual pages", Hidden: true, Args: exactArgs(1, "a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // manual pages are for everybody
				return err
			}
			return writeManual(cmd.Root(), args[0])
		},
	})
}

// writeManual writes a page in section 1 for each command, and boxd(8).
func writeManual(cmd *cobra.Command, dir string) error {
	if cmd.Hidden || cmd.Name() == "help" {
		return nil
	}
	section := "1"
	if !cmd.HasParent() {
		section = "8"
	}
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	file := filepath.Join(dir, name+"."+section)
	if err := durable.WriteFile(durable.OS(), file, []byte(manual(cmd, name, section)), 0o644); err != nil {
		return err
	}
	for _, sub := range cmd.Commands() {
		if err := writeManual(sub, dir); err != nil {
			return err
		}
	}
	return nil
}

// manual is one page in man(7)'s language. It has no date, so that builds are reproducible.
func manual(cmd *cobra.Command, name, section string) string {
	var p page
	p.line(".TH %s %s \"\" \"boxd %s\"", strings.ToUpper(roff(name)), section, roff(version))
	p.line(".SH NAME\n%s \\- %s", roff(name), roff(cmd.Short))
	p.line(".SH SYNOPSIS\n.B %s", roff(cmd.UseLine()))
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	p.line(".SH DESCRIPTION\n%s", strings.ReplaceAll(roff(text), "\n\n", "\n.PP\n"))
	options(&p, "OPTIONS", cmd.NonInheritedFlags())
	options(&p, "OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		p.line(".SH EXAMPLES\n.nf\n%s\n.fi", roff(cmd.Example))
	}
	p.line(".SH EXIT STATUS\n0 done, 1 fault, 2 bad usage or configuration.")
	if !cmd.HasParent() {
		p.line(".SH FILES\n.TP\n.I /etc/boxd/boxd.toml\nthe configuration\n.TP\n.I /run/boxd/boxd.sock\nthe daemon's socket")
	}
	var also []string
	if cmd.HasParent() {
		also = append(also, ".BR boxd (8)")
	}
	for _, sub := range cmd.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			also = append(also, ".BR "+roff(strings.ReplaceAll(sub.CommandPath(), " ", "-"))+" (1)")
		}
	}
	if len(also) > 0 {
		p.line(".SH SEE ALSO\n%s", strings.Join(also, ",\n"))
	}
	return p.String()
}

func options(p *page, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.line(".SH %s", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		kind, usage := pflag.UnquoteUsage(f)
		if kind != "" {
			name += " " + kind
		}
		if f.DefValue != "" && f.DefValue != "false" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		p.line(".TP\n.B %s\n%s", roff(name), roff(usage))
	})
}

// roff escapes what troff would read as its own.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
