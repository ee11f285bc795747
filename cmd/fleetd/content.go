package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
)

type tabWriter = tabwriter.Writer

type assetDoc struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Version   string `json:"version,omitempty"`
	Path      string `json:"path"`
	Publisher string `json:"publisher"`
	Length    int64  `json:"length"`
	Withdrawn bool   `json:"withdrawn"`
}

func publishCmd(c *client) *cobra.Command {
	var name, ver, publisher, kind, replaces, sum string
	var upload bool
	cmd := &cobra.Command{
		Use: "publish FILE|DIRECTORY|URL", Short: "Hash, sign and offer an asset", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := map[string]any{"name": name, "version": ver, "publisher": publisher, "type": kind, "replaces": replaces, "sha256": sum}
			for k, v := range in {
				if v == "" {
					delete(in, k)
				}
			}
			p := cli.NewProgress(cmd.ErrOrStderr(), "publish")
			resp, err := c.sendAsset(cmd.Context(), a[0], upload, in, p)
			if err != nil {
				p.Close()
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			doc, err := followPublish(resp.Body, p)
			p.Close()
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), doc, func(w *tabWriter) {
				fmt.Fprintf(w, "%s\t%s\t%s\n", doc.ID, doc.Name, cli.Bytes(doc.Length))
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "title (default: the file's name)")
	f.StringVar(&ver, "version", "", "version of the title")
	f.StringVar(&publisher, "publisher", "", "publisher whose key signs (default: operator)")
	f.StringVar(&replaces, "replaces", "", "asset whose place it takes in all campaigns: a new version")
	f.StringVar(&kind, "type", "", "content type of a single file, where its name does not tell")
	f.StringVar(&sum, "sha256", "", "SHA-256 of what a URL gives, which is refused if it is other bytes")
	f.BoolVar(&upload, "upload", false, "send the file, not its path: the manager is on another machine, or may not read it")
	return cmd
}

func (c *client) sendAsset(ctx context.Context, src string, upload bool, in map[string]any, p *cli.Progress) (*http.Response, error) {
	if strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://") {
		in["url"] = src
	} else {
		if in["sha256"] != nil {
			return nil, usageError{Err: errors.New("--sha256 is for what a URL gives")}
		}
		path, err := filepath.Abs(src)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
		if upload {
			return c.uploadAsset(ctx, path, in, p)
		}
		in["path"] = path
	}
	data, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	resp, err := c.request(ctx, http.MethodPost, "/api/v1/assets", strings.NewReader(string(data)), "application/json")
	if refused := (*apiError)(nil); errors.As(err, &refused) && refused.code == "send-file" {
		path := fmt.Sprint(in["path"])
		delete(in, "path")
		return c.uploadAsset(ctx, path, in, p)
	}
	return resp, err
}

func (c *client) uploadAsset(ctx context.Context, path string, in map[string]any, p *cli.Progress) (*http.Response, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, fmt.Errorf("%s is a directory, and an upload is one file; "+
			"publish it on the manager's machine, as the administrator or from an --import directory", path)
	}
	p.Step("send")
	q := url.Values{"file": {filepath.Base(path)}}
	for k, v := range in {
		q.Set(k, fmt.Sprint(v))
	}
	return c.request(ctx, http.MethodPut, "/api/v1/assets/upload?"+q.Encode(), p.Reader(f, st.Size()), "application/octet-stream")
}

// followPublish shows the progress that the manager reports and returns the asset of the last line.
func followPublish(r io.Reader, p *cli.Progress) (assetDoc, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Done, Total int64
			Error       string
			Asset       *assetDoc
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return assetDoc{}, fmt.Errorf("read the answer: %w", err)
		}
		switch {
		case line.Error != "":
			return assetDoc{}, errors.New(line.Error)
		case line.Asset != nil:
			return *line.Asset, nil
		default:
			p.Step("hash")
			p.Set(line.Done, line.Total)
		}
	}
	return assetDoc{}, errors.Join(errors.New("the manager stopped before it was done"), lines.Err())
}

func assetsCmd(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "assets", Short: "List the catalog's assets", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []assetDoc
			if err := c.call(cmd.Context(), http.MethodGet, "/api/v1/assets", nil, &list); err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), list, func(w *tabWriter) {
				fmt.Fprintln(w, "ID\tNAME\tVERSION\tPUBLISHER\tSIZE\t")
				for _, a := range list {
					note := ""
					if a.Withdrawn {
						note = "withdrawn"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, cli.Plain(a.Name), cli.Plain(a.Version), a.Publisher, cli.Bytes(a.Length), note)
				}
			})
		},
	}
}

func withdrawCmd(c *client) *cobra.Command {
	var undo, remove bool
	var publisher string
	cmd := &cobra.Command{
		Use:   "withdraw ASSET",
		Short: "Stop an asset everywhere: boxes stop playing it and erase it, with proof",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			method, path := http.MethodPost, "/api/v1/assets/"+a[0]+"/withdraw"
			switch {
			case undo && remove:
				return usageError{Err: errors.New("--undo and --remove exclude each other")}
			case undo:
				path = "/api/v1/assets/" + a[0] + "/readmit"
			case remove:
				method, path = http.MethodDelete, "/api/v1/assets/"+a[0]
			}
			if publisher != "" {
				path += "?publisher=" + url.QueryEscape(publisher)
			}
			return c.call(cmd.Context(), method, path, nil, nil)
		},
	}
	cmd.Flags().StringVar(&publisher, "publisher", "", "whose, where several publishers have the same bytes")
	cmd.Flags().BoolVar(&undo, "undo", false, "take the withdrawal back")
	cmd.Flags().BoolVar(&remove, "remove", false, "take the asset out of the catalog and off the origin")
	return cmd
}

func publisherCmd(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "publisher", Short: "Who may publish"}
	var quota int64
	var key, draft, draftRemoval string
	add := &cobra.Command{
		Use: "add NAME", Short: "Delegate assets/NAME/… to a key", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := map[string]any{"name": a[0], "quota": quota}
			if key != "" {
				data, err := publicKeyFile(key)
				if err != nil {
					return err
				}
				in["public_key"] = data
			}
			return c.publisherChange(cmd, http.MethodPost, "/api/v1/publishers", in, draft)
		},
	}
	add.Flags().Int64Var(&quota, "quota", 0, "bytes that the publisher may have in the catalog (0: no bound)")
	add.Flags().
		StringVar(&key, "public-key", "", "PEM file of the publisher's public key; without it a key is made on the manager's machine")
	add.Flags().StringVar(&draft, "draft", "", signHelp)
	remove := &cobra.Command{
		Use: "remove NAME", Short: "Boxes no longer believe anything that this publisher signed", Args: args(cobra.ExactArgs(1)),
		Long: "Takes the publisher's delegation out of the catalog; its assets leave the campaigns. What boxes shall erase has to be\n" +
			"withdrawn first (fleetd withdraw). Its files at the origin go 30 days later, unless another publisher has the same bytes.",
		RunE: func(cmd *cobra.Command, a []string) error {
			path := "/api/v1/publishers/" + url.PathEscape(a[0])
			return c.publisherChange(cmd, http.MethodDelete, path, nil, draftRemoval)
		},
	}
	remove.Flags().StringVar(&draftRemoval, "draft", "", signHelp)
	list := &cobra.Command{
		Use: "list", Short: "List publishers", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.list(cmd, "/api/v1/publishers", "No publishers.", "NAME=name", ">QUOTA=quota_bytes", "KEYS=key_ids")
		},
	}
	cmd.AddCommand(add, list, remove)
	return cmd
}

// print shows a document of the API as it is.
func (c *client) print(cmd *cobra.Command, path string) error {
	return c.copyTo(cmd.Context(), cmd.OutOrStdout(), path)
}
