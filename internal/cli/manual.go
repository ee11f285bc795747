package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"boxd/internal/durable"
)

// ManualCommand is the hidden command that writes a program's manual pages: section 8 for the program, section 1 for each
// command. files is what the section FILES of the first page lists, as pairs of a path and what it is.
func ManualCommand(files ...[2]string) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages", Hidden: true, Args: Args(1, "a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // manual pages are for everybody
				return err
			}
			root := cmd.Root()
			root.InitDefaultHelpCmd()
			root.InitDefaultCompletionCmd()
			return writeManual(root, args[0], files)
		},
	}
}

func writeManual(cmd *cobra.Command, dir string, files [][2]string) error {
	if cmd.Hidden || cmd.Name() == "help" {
		return nil
	}
	section := "1"
	if !cmd.HasParent() {
		section = "8"
	}
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	file := filepath.Join(dir, name+"."+section)
	if err := durable.WriteFile(durable.OS(), file, []byte(manual(cmd, name, section, files)), 0o644); err != nil {
		return err
	}
	for _, sub := range cmd.Commands() {
		if err := writeManual(sub, dir, files); err != nil {
			return err
		}
	}
	return nil
}

// manual is one page in man(7)'s language. It has no date, so that builds are reproducible.
func manual(cmd *cobra.Command, name, section string, files [][2]string) string {
	var p Page
	root := cmd.Root()
	p.Line(".TH %s %s \"\" \"%s %s\"", strings.ToUpper(roff(name)), section, root.Name(), roff(root.Version))
	p.Line(".SH NAME\n%s \\- %s", roff(name), roff(cmd.Short))
	p.Line(".SH SYNOPSIS\n.B %s", roff(cmd.UseLine()))
	text := cmd.Long
	if text == "" {
		text = sentence(cmd.Short)
	}
	p.Line(".SH DESCRIPTION\n%s", strings.ReplaceAll(roff(text), "\n\n", "\n.PP\n"))
	if subs := visible(cmd); len(subs) > 0 {
		p.Line(".SH COMMANDS")
		for _, sub := range subs {
			p.Line(".TP\n.B %s\n%s", roff(sub.Use), roff(sentence(sub.Short)))
		}
	}
	options(&p, "OPTIONS", cmd.NonInheritedFlags())
	options(&p, "OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		p.Line(".SH EXAMPLES\n.nf\n%s\n.fi", roff(cmd.Example))
	}
	p.Line(".SH EXIT STATUS\n0 done, 1 fault, 2 bad usage or configuration.")
	if !cmd.HasParent() && len(files) > 0 {
		p.Line(".SH FILES")
		for _, f := range files {
			p.Line(".TP\n.I %s\n%s", roff(f[0]), roff(f[1]))
		}
	}
	var also []string
	if cmd.HasParent() {
		also = append(also, fmt.Sprintf(".BR %s (8)", root.Name()))
	}
	for _, sub := range visible(cmd) {
		also = append(also, ".BR "+roff(strings.ReplaceAll(sub.CommandPath(), " ", "-"))+" (1)")
	}
	if len(also) > 0 {
		p.Line(".SH SEE ALSO\n%s", strings.Join(also, ",\n"))
	}
	return p.String()
}

func visible(cmd *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, sub := range cmd.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			list = append(list, sub)
		}
	}
	return list
}

// sentence is a command's short help as a sentence of its own.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
}

func options(p *Page, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.Line(".SH %s", title)
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
		switch f.DefValue {
		case "", "false", "[]", "0", "0s":
		default:
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		p.Line(".TP\n.B %s\n%s", roff(name), roff(usage))
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
