package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/durable"
	"boxd/internal/fleet/repo"
)

// openRepo opens the catalog in the fleet's directory; a manager that runs on the same directory is kept out by its lock.
func openRepo(c *client) (*repo.Repo, error) {
	if c.dir == "" {
		return nil, usageError{Err: errors.New("this needs --dir, the fleet's directory")}
	}
	return repo.Open(repo.Options{Dir: filepath.Join(c.dir, "tuf"), Keys: filepath.Join(c.dir, "keys")})
}

func roleStatusCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Who signs what in the catalog, until when, and which keys are here", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := openRepo(c)
			if err != nil {
				return err
			}
			list, err := r.Status()
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), list, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "ROLE\tVERSION\tEXPIRES\tKEY HERE\tDUE")
				for _, s := range list {
					expires := s.Expires.Format(time.DateOnly)
					if s.Version == 0 {
						expires = "never signed"
					}
					fmt.Fprintf(w, "%s\t%d\t%s\t%v\t%v\n", s.Role, s.Version, expires, s.KeyHere, s.Due)
				}
			})
		},
	}
}

func rootDraftCmd(c *client) *cobra.Command {
	var out string
	var threshold int
	files := map[string]*[]string{"root": {}, "targets": {}, "snapshot": {}, "timestamp": {}}
	cmd := &cobra.Command{
		Use: "root", Short: "Draft the catalog's next root: renew it, or give roles new keys", Args: args(cobra.NoArgs),
		Long: "Drafts the next root.json. Without key options it only renews the root.\n" +
			"Sign the draft (fleetd keys sign) with a threshold of the old root keys and of the new ones, then import it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			change := repo.RootChange{Threshold: threshold}
			into := map[string]*[]ed25519.PublicKey{
				"root": &change.Root, "targets": &change.Targets, "snapshot": &change.Snapshot, "timestamp": &change.Timestamp,
			}
			for role, names := range files {
				for _, name := range *names {
					pub, err := readPublicKey(name)
					if err != nil {
						return err
					}
					*into[role] = append(*into[role], pub)
				}
			}
			r, err := openRepo(c)
			if err != nil {
				return err
			}
			draft, err := r.DraftRoot(change)
			if err != nil {
				return err
			}
			data, err := json.MarshalIndent(draft, "", "  ")
			if err != nil {
				return err
			}
			if err := durable.WriteFile(durable.OS(), out, data, 0o644); err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), map[string]any{"draft": out, "notes": draft.Notes}, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "%s is to be signed.\n", out)
				for _, n := range draft.Notes {
					fmt.Fprintln(w, " ", n)
				}
			})
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "root-draft.json", "where to write the draft")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many root keys must sign; 0: as before")
	for role, list := range files {
		cmd.Flags().StringArrayVar(list, role, nil, "public key file (PEM) that takes over the role "+role+"; may be repeated")
	}
	return cmd
}

func readPublicKey(name string) (ed25519.PublicKey, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pub, err := repo.ParsePublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return pub, nil
}

func importCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "import DRAFT", Short: "Check a signed draft and publish it in the catalog", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			data, err := os.ReadFile(a[0])
			if err != nil {
				return err
			}
			draft, err := repo.ParseDraft(data)
			if err != nil {
				return err
			}
			r, err := openRepo(c)
			if err != nil {
				return err
			}
			if err := r.Import(draft); err != nil {
				return err
			}
			v, err := r.Version()
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), map[string]int64{"catalog_version": v}, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "Published as catalog version %d.\n", v)
			})
		},
	}
}
