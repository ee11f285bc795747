package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"boxd/internal/durable"
	"boxd/internal/fleet/ca"
	"boxd/internal/identity/pki"
)

const maxPEM = 64 << 10

// intermediateCmd is the three steps to a new intermediate; no private key travels.
func intermediateCmd(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "intermediate", Short: "Replace an intermediate certificate (boxes or servers) under the offline root",
		Long: "On the fleet manager:    fleetd keys intermediate request boxes --dir D -o boxes.csr\n" +
			"Where the root key is:   fleetd keys intermediate sign boxes boxes.csr --root root.pem --key root.key -o boxes.crt\n" +
			"On the fleet manager:    fleetd keys intermediate install boxes boxes.crt --dir D, then restart it.\n" +
			"What the old one issued stays valid until it is revoked: fleetd keys revoke SERIAL, with the number that install says.",
	}
	cmd.AddCommand(listIntermediatesCmd(c), requestCmd(c), signIntermediateCmd(c), installCmd(c))
	return cmd
}

func roleOf(name string) (pki.Role, error) {
	if role := pki.Role(name); role == pki.Boxes || role == pki.Servers {
		return role, nil
	}
	return "", usageError{Err: fmt.Errorf("%q: want boxes or servers", name)}
}

// caDir is where the certificate authority lives in the fleet's directory.
func caDir(c *client) (string, error) {
	if c.dir == "" {
		return "", usageError{Err: errors.New("this needs --dir, the fleet's directory")}
	}
	return filepath.Join(c.dir, "ca"), nil
}

// made writes a public document and tells of it.
func (c *client) made(cmd *cobra.Command, file string, data []byte, next string) error {
	if err := durable.WriteFile(durable.OS(), file, data, 0o644); err != nil {
		return err
	}
	return c.show(cmd.OutOrStdout(), map[string]string{"file": file}, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s: %s\n", file, next)
	})
}

func requestCmd(c *client) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "request boxes|servers", Short: "Make the next key, which stays here, and a request to sign", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			role, err := roleOf(a[0])
			if err != nil {
				return err
			}
			dir, err := caDir(c)
			if err != nil {
				return err
			}
			if out == "" {
				out = a[0] + ".csr"
			}
			if _, err := durable.ReadFile(durable.OS(), filepath.Join(dir, ca.RootCert), maxPEM); err != nil {
				return err // no fleet: no key is made beside nothing
			}
			request, err := ca.RequestIntermediate(dir, role)
			if err != nil {
				return err
			}
			return c.made(cmd, out, request, "carry it to the root key and sign it")
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "where to write the request (default: ROLE.csr)")
	return cmd
}

func signIntermediateCmd(c *client) *cobra.Command {
	var out, root, key, pass string
	cmd := &cobra.Command{
		Use: "sign boxes|servers REQUEST", Short: "Sign a request with the root's key, on any machine", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			role, err := roleOf(a[0])
			if err != nil {
				return err
			}
			if root == "" || key == "" {
				return usageError{Err: errors.New("sign needs --root, the root certificate, and --key, its key")}
			}
			if out == "" {
				out = a[0] + ".crt"
			}
			files := []string{root, key, a[1]}
			if pass != "" {
				files = append(files, pass)
			}
			data := make([][]byte, 4)
			for i, name := range files {
				if data[i], err = durable.ReadFile(durable.OS(), name, maxPEM); err != nil {
					return err
				}
			}
			cert, err := ca.SignIntermediate(data[0], data[1], trimNewline(data[3]), data[2], role)
			if err != nil {
				return err
			}
			return c.made(cmd, out, cert, "carry it back to the fleet manager and install it")
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "out", "o", "", "where to write the certificate (default: ROLE.crt)")
	f.StringVar(&root, "root", "", "the fleet's root certificate (ca/root.pem, or ca.pem of the firmware)")
	f.StringVar(&key, "key", "", "the root's private key (ca/root.key of an opened bundle)")
	f.StringVar(&pass, "passphrase-file", "", "file with the key's passphrase, if it has one")
	return cmd
}

func trimNewline(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b
}

func installCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "install boxes|servers CERTIFICATE", Short: "Take a signed intermediate into use at the manager's next start",
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			role, err := roleOf(a[0])
			if err != nil {
				return err
			}
			dir, err := caDir(c)
			if err != nil {
				return err
			}
			cert, err := durable.ReadFile(durable.OS(), a[1], maxPEM)
			if err != nil {
				return err
			}
			old, err := ca.Intermediate(dir, role)
			if err != nil {
				return err
			}
			if err := ca.InstallIntermediate(dir, role, cert); err != nil {
				return err
			}
			doc := map[string]string{"installed": a[0], "replaced_serial": pki.Serial(old)}
			return c.show(cmd.OutOrStdout(), doc, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "The new intermediate for %s is installed. Restart the fleet manager.\n", a[0])
				fmt.Fprintf(w, "If the old one was stolen, revoke it then: fleetd keys revoke %s\n", pki.Serial(old))
			})
		},
	}
}
