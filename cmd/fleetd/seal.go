package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"boxd/internal/fleet/ceremony"
)

func surveyTable(w io.Writer, keys []ceremony.Key) {
	fmt.Fprintln(w, "KEY\tPLACE\tENCRYPTED\tA THIEF COULD")
	for _, k := range keys {
		fmt.Fprintf(w, "%s\t%s\t%v\t%s\n", k.File, k.Place, k.Encrypted, k.Loss)
	}
}

func keysListCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Which private keys are in --dir, where they belong, what a thief could do", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.dir == "" {
				return usageError{Err: errors.New("keys list needs --dir, the fleet's directory")}
			}
			keys, err := ceremony.Survey(c.dir)
			if err != nil {
				return err
			}
			if keys == nil {
				keys = []ceremony.Key{}
			}
			return c.show(cmd.OutOrStdout(), keys, func(w *tabwriter.Writer) { surveyTable(w, keys) })
		},
	}
}

// sealed is the JSON form of what seal did. The shares are nowhere else.
type sealed struct {
	Bundle string            `json:"bundle"`
	Keys   map[string]string `json:"keys"`
	Needed int               `json:"needed"`
	Of     int               `json:"of"`
	Shares []string          `json:"shares"`
}

func keysSealCmd(c *client) *cobra.Command {
	var o ceremony.Options
	cmd := &cobra.Command{
		Use: "seal [KEY...]", Short: "Take the offline keys away: an encrypted bundle whose passphrase custodians share",
		Long: "Encrypts keys (as \"keys list\" names them; default: all that belong offline) into a bundle, reads it back and\n" +
			"removes them from the fleet's directory. Prints one share for each custodian, once.",
		RunE: func(cmd *cobra.Command, a []string) error {
			if c.dir == "" || o.Out == "" {
				return usageError{Err: errors.New("keys seal needs --dir, the fleet's directory, and --out, the bundle")}
			}
			if o.Shares < 1 || o.Needed < 0 || o.Needed > o.Shares {
				return usageError{Err: errors.New("keys seal needs 1 or more --shares and at most as many --needed")}
			}
			o.Dir, o.Files = c.dir, a
			b, err := ceremony.Seal(o)
			if err != nil {
				return err
			}
			doc := sealed{Bundle: o.Out, Keys: b.Keys, Needed: b.Needed, Of: b.Of, Shares: b.Shares}
			return c.show(cmd.OutOrStdout(), doc, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "%d keys are sealed in %s. Copy it to other media, apart from the shares.\n", len(b.Keys), o.Out)
				fmt.Fprintf(w, "Any %d of these %d shares open it; each custodian writes down one. They are not shown again.\n\n",
					b.Needed, b.Of)
				for i, s := range b.Shares {
					fmt.Fprintf(w, "%d\t%s\n", i+1, s)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Out, "out", "o", "", "the bundle: a new or empty directory on another medium")
	f.IntVar(&o.Shares, "shares", 1, "custodians")
	f.IntVar(&o.Needed, "needed", 0, "how many of them open the bundle (0: a majority)")
	f.BoolVar(&o.Keep, "keep", false, "leave the keys where they are as well")
	return cmd
}

func keysOpenCmd(c *client) *cobra.Command {
	var bundle, out string
	cmd := &cobra.Command{
		Use: "open", Short: "Open a bundle: reads shares from standard input, one a line, until an empty line",
		Args: args(cobra.NoArgs),
		Long: "Writes the keys of a bundle, readable, under --out. Do it on a machine without a network, into memory.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bundle == "" || out == "" {
				return usageError{Err: errors.New("keys open needs --bundle and --out")}
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "Shares, one a line, then an empty line:")
			shares, err := readShares(cmd.InOrStdin())
			if err != nil {
				return err
			}
			files, err := ceremony.Unseal(bundle, out, shares)
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), files, func(w *tabwriter.Writer) {
				for _, f := range files {
					fmt.Fprintln(w, f)
				}
			})
		},
	}
	cmd.Flags().StringVar(&bundle, "bundle", "", "the bundle's directory")
	cmd.Flags().StringVarP(&out, "out", "o", "", "where to write the keys")
	return cmd
}

func readShares(r io.Reader) ([]string, error) {
	var shares []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		s := strings.TrimSpace(lines.Text())
		if s == "" {
			break
		}
		shares = append(shares, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the shares: %w", err)
	}
	return shares, nil
}
