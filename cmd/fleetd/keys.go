package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"boxd/internal/durable"
	"boxd/internal/fleet/repo"
)

// keysCmd is the key ceremony: it works on files, on any machine, without a manager.
func keysCmd(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Make and use signing keys, on any machine"}
	gen := &cobra.Command{
		Use: "new NAME", Short: "Make NAME.pem and NAME.pub.pem in --dir", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if c.dir == "" {
				return usageError{Err: errors.New("keys new needs --dir")}
			}
			key, err := repo.GenerateKey(durable.OS(), c.dir, a[0])
			if err != nil {
				return err
			}
			pub, err := repo.MarshalPublicKey(key.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // documented by crypto/ed25519
			if err != nil {
				return err
			}
			return durable.WriteFile(durable.OS(), filepath.Join(c.dir, a[0]+".pub.pem"), pub, 0o644)
		},
	}
	sign := &cobra.Command{
		Use: "sign DRAFT KEY", Short: "Sign a draft of the catalog with a private key", Args: args(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, a []string) error { return signDraft(a[0], a[1]) },
	}
	cmd.AddCommand(gen, sign, roleStatusCmd(c), rootDraftCmd(c), importCmd(c),
		keysListCmd(c), keysSealCmd(c), keysOpenCmd(c), intermediateCmd(c), replaceCmd(c), revokeCmd(c), raiseCmd(c))
	return cmd
}

func signDraft(draftFile, keyFile string) error {
	data, err := os.ReadFile(draftFile)
	if err != nil {
		return err
	}
	draft, err := repo.ParseDraft(data)
	if err != nil {
		return err
	}
	pemData, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	key, err := repo.ParseKey(pemData)
	if err != nil {
		return err
	}
	if err := repo.SignDraft(draft, key); err != nil {
		return err
	}
	out, err := json.MarshalIndent(draft, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(durable.OS(), draftFile, out, 0o644)
}
