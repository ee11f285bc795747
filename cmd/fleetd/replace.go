package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/durable"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/repo"
	"boxd/internal/identity/pki"
)

const signHelp = "file for a draft to sign elsewhere (keys sign, keys import), if the key that must sign is not on the manager's machine"

// writeDraft writes a draft for its way to the key.
func (c *client) writeDraft(cmd *cobra.Command, file string, d any, who string) error {
	if file == "" {
		return fmt.Errorf("the %s is not here: give --draft FILE, sign it where it is, then import it", who)
	}
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return c.made(cmd, file, append(data, '\n'), "sign it with the "+who+" (fleetd keys sign), then import it (fleetd keys import)")
}

func replaceCmd(c *client) *cobra.Command {
	var draft, public string
	cmd := &cobra.Command{
		Use: "replace ROLE...", Short: "Give roles of the catalog new keys: stolen, lost or old ones", Args: args(cobra.MinimumNArgs(1)),
		Long: "Roles: snapshot, timestamp, targets (the root keys sign that); campaigns, revocations, operations, publisher-NAME\n" +
			"(the targets key signs that). The new keys are made in --dir and take effect when the catalog names them: at once,\n" +
			"or with --draft when the signed draft is imported. A running manager signs commands with the new operations key\n" +
			"after a restart; commands that were not answered until then have to be given again.",
		Example: `  fleetd keys replace snapshot timestamp --dir fleet --draft root.json
  fleetd keys replace campaigns revocations operations --dir fleet --draft targets.json`,
		RunE: func(cmd *cobra.Command, roles []string) error {
			var given ed25519.PublicKey
			if public != "" {
				var err error
				if given, err = readPublicKey(public); err != nil {
					return err
				}
			}
			r, err := openRepo(c)
			if err != nil {
				return err
			}
			d, err := r.ReplaceKeys(roles, given)
			if err != nil {
				return err
			}
			if d != nil {
				who := "targets key"
				if d.Roles[0].Role == "root" {
					who = "root keys"
				}
				if given != nil {
					who += " and the new key"
				}
				return c.writeDraft(cmd, draft, d, who)
			}
			return c.show(cmd.OutOrStdout(), map[string]any{"replaced": roles}, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "The catalog names new keys for %s.\n", strings.Join(roles, ", "))
				for _, role := range roles {
					if role == repo.RoleOperations {
						fmt.Fprintln(w, "Restart the fleet manager, so that it uses the new operations key.")
					}
				}
			})
		},
	}
	cmd.Flags().StringVar(&draft, "draft", "", signHelp)
	cmd.Flags().StringVar(&public, "public-key", "", "PEM file of the new public key of one role, when its private key stays elsewhere")
	return cmd
}

func revokeCmd(c *client) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "revoke SERIAL", Short: "Revoke one certificate: an old intermediate, a server's or a box's", Args: args(cobra.ExactArgs(1)),
		Long: "Asks the running manager to revoke a certificate by its serial number (hexadecimal) and to publish that. \"keys\n" +
			"intermediate install\" and \"keys intermediate list\" say the numbers of intermediates. One that is in use is refused.",
		RunE: func(cmd *cobra.Command, a []string) error {
			if _, err := pki.ParseSerial(a[0]); err != nil {
				return usageError{Err: err}
			}
			in := map[string]string{"serial": a[0], "reason": reason}
			return c.call(cmd.Context(), http.MethodPost, "/api/v1/revocations", in, nil)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return cmd
}

func raiseCmd(c *client) *cobra.Command {
	var draft string
	cmd := &cobra.Command{
		Use: "raise", Short: "Publish the catalog again above what boxes have seen, after a backup was restored", Args: args(cobra.NoArgs),
		Long: "Boxes refuse a catalog that is older than what they have seen. This signs every role again whose key is here, with\n" +
			"versions above any that were given before (the time now), and drafts those whose keys are elsewhere and that may have\n" +
			"changed after the backup. \"fleetd restore\" has the next start do the first half by itself.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := openRepo(c)
			if err != nil {
				return err
			}
			left, err := r.Raise(time.Now().Unix())
			if err != nil {
				return err
			}
			if len(left) > 0 && draft != "" {
				d, err := r.DraftRaised()
				if err != nil {
					return err
				}
				return c.writeDraft(cmd, draft, d, "keys of "+strings.Join(left, ", "))
			}
			v, err := r.Version()
			if err != nil {
				return err
			}
			doc := map[string]any{"catalog_version": v, "left": left}
			return c.show(cmd.OutOrStdout(), doc, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "Published as catalog version %d.\n", v)
				if len(left) > 0 {
					fmt.Fprintf(w, "As they were, because their keys are elsewhere: %s.\n", strings.Join(left, ", "))
					fmt.Fprintln(w, "If boxes still say catalog-rollback: fleetd keys raise --draft FILE.")
				}
			})
		},
	}
	cmd.Flags().StringVar(&draft, "draft", "", signHelp)
	return cmd
}

// intermediateDoc is what an operator needs to know of an intermediate.
type intermediateDoc struct {
	Role    string    `json:"role"`
	Serial  string    `json:"serial"`
	Begins  time.Time `json:"begins"`
	Expires time.Time `json:"expires"`
	Next    bool      `json:"next_requested"`
}

func listIntermediatesCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "The intermediates in use, with their serial numbers", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := caDir(c)
			if err != nil {
				return err
			}
			var list []intermediateDoc
			for _, role := range []pki.Role{pki.Boxes, pki.Servers} {
				cert, err := ca.Intermediate(dir, role)
				if err != nil {
					return err
				}
				_, err = durable.OS().Stat(filepath.Join(dir, string(role)+".next.key"))
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				list = append(list, intermediateDoc{string(role), pki.Serial(cert), cert.NotBefore, cert.NotAfter, err == nil})
			}
			return c.show(cmd.OutOrStdout(), list, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "ROLE\tSERIAL\tEXPIRES\tNEXT REQUESTED")
				for _, i := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%v\n", i.Role, i.Serial, i.Expires.Format(time.DateOnly), i.Next)
				}
			})
		},
	}
}

// publisherChange sends a change of the publishers; when it must be signed elsewhere the draft goes to the file.
func (c *client) publisherChange(cmd *cobra.Command, method, path string, in any, file string) error {
	if file != "" {
		path += "?draft=true"
	}
	var out struct{ Draft json.RawMessage }
	if err := c.call(cmd.Context(), method, path, in, &out); err != nil || out.Draft == nil {
		return err
	}
	return c.writeDraft(cmd, file, out.Draft, "targets key")
}

// publicKeyFile reads a public key for sending; a private key must not leave this machine.
func publicKeyFile(name string) (string, error) {
	data, err := durable.ReadFile(durable.OS(), name, maxPEM)
	if err != nil {
		return "", err
	}
	if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		return "", usageError{Err: fmt.Errorf("%s is a private key: it stays where it is; give the public one (NAME.pub.pem)", name)}
	}
	if _, err := repo.ParsePublicKey(data); err != nil {
		return "", usageError{Err: fmt.Errorf("--public-key %s: %w", name, err)}
	}
	return string(data), nil
}
