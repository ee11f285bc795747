package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
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
			if _, err := os.Stat(c.dir); err != nil {
				return err
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
	var yes bool
	cmd := &cobra.Command{
		Use: "seal [KEY...]", Short: "Take the offline keys away: an encrypted bundle whose passphrase custodians share",
		Long: "Encrypts keys (as \"keys list\" names them; default: all that belong offline) into a bundle, reads it back, prints\n" +
			"one share for each custodian, once, asks for one of them to be typed back, and only then removes the keys from the\n" +
			"fleet's directory. Without the shares the keys are lost for ever.",
		RunE: func(cmd *cobra.Command, a []string) error {
			if c.dir == "" || o.Out == "" {
				return usageError{Err: errors.New("keys seal needs --dir, the fleet's directory, and --out, the bundle")}
			}
			if o.Shares < 1 || o.Needed < 0 || o.Needed > o.Shares {
				return usageError{Err: errors.New("keys seal needs 1 or more --shares and at most as many --needed")}
			}
			o.Dir, o.Files = c.dir, a
			o.HandOut = func(b ceremony.Bundle) error {
				if err := c.printShares(cmd, o.Out, b); err != nil || yes || o.Keep {
					return err
				}
				return typedBack(cmd, b.Shares)
			}
			_, err := ceremony.Seal(o)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Out, "out", "o", "", "the bundle: a new or empty directory on another medium")
	f.IntVar(&o.Shares, "shares", 1, "custodians")
	f.IntVar(&o.Needed, "needed", 0, "how many of them open the bundle (0: a majority)")
	f.BoolVar(&o.Keep, "keep", false, "leave the keys where they are as well")
	f.BoolVar(&yes, "yes", false, "remove the keys without asking for a share to be typed back")
	return cmd
}

// printShares writes what the custodians take away, and makes sure that it arrived: a share that is on no paper is lost.
func (c *client) printShares(cmd *cobra.Command, bundle string, b ceremony.Bundle) error {
	w := cmd.OutOrStdout()
	doc := sealed{Bundle: bundle, Keys: b.Keys, Needed: b.Needed, Of: b.Of, Shares: b.Shares}
	err := c.show(w, doc, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%d keys are sealed in %s. Copy it to other media, apart from the shares.\n", len(b.Keys), bundle)
		fmt.Fprintf(w, "Any %d of these %d shares open it; each custodian writes down one. They are not shown again.\n\n",
			b.Needed, b.Of)
		for i, s := range b.Shares {
			fmt.Fprintf(w, "%d\t%s\n", i+1, s)
		}
	})
	if file, ok := w.(*os.File); ok && err == nil {
		err = file.Sync()
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EROFS) {
			err = nil // a terminal or a pipe
		}
	}
	if err != nil {
		return fmt.Errorf("print the shares: %w", err)
	}
	return nil
}

// typedBack asks for one of the shares, three times at most.
func typedBack(cmd *cobra.Command, shares []string) error {
	lines := bufio.NewScanner(cmd.InOrStdin())
	for range 3 {
		fmt.Fprintln(cmd.ErrOrStderr(), "Type one share back; the keys are removed then:")
		if !lines.Scan() {
			break
		}
		if slices.Contains(shares, strings.TrimSpace(lines.Text())) {
			return nil
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "That is none of them.")
	}
	return errors.Join(errors.New("no share was typed back (--yes does without)"), lines.Err())
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
