package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
)

func TestManualCompletionAndHelpCoverEveryCommand(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) (string, int) {
		var out bytes.Buffer
		cmd := root()
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		code := cli.Execute(t.Context(), cmd, args, nil)
		return out.String(), code
	}
	if out, code := run("man", dir); code != cli.ExitDone {
		t.Fatalf("fleetd man: exit %d: %s", code, out)
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			if sub.Hidden || sub.Name() == "help" {
				continue
			}
			page := filepath.Join(dir, strings.ReplaceAll(sub.CommandPath(), " ", "-")+".1")
			if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), ".SH DESCRIPTION") {
				t.Errorf("%s: no manual page: %v", sub.CommandPath(), err)
			}
			if sub.Short == "" || strings.ToUpper(sub.Short[:1]) != sub.Short[:1] {
				t.Errorf("%s: its help begins %q", sub.CommandPath(), sub.Short)
			}
			if sub.Parent() == cmd && cmd.Name() == "fleetd" && sub.GroupID == "" {
				t.Errorf("%s is in no group of the help", sub.CommandPath())
			}
			walk(sub)
		}
	}
	walk(root())
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, code := run("completion", shell); code != cli.ExitDone || !strings.Contains(out, "fleetd") {
			t.Errorf("completion %s: exit %d, %d bytes", shell, code, len(out))
		}
	}
	for _, args := range []string{"bogus", "campaign bogus", "publish", "boxes a b", "user add", "watch --nonsense", "serve"} {
		t.Setenv("BOXD_FLEET_DIR", "")
		if out, code := run(strings.Fields(args)...); code != cli.ExitUsage || !strings.HasPrefix(out, "fleetd: ") {
			t.Errorf("fleetd %s: exit %d: %s", args, code, out)
		}
	}
}

func TestDocumentsForPeople(t *testing.T) {
	var asked string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		switch r.URL.Path {
		case "/api/v1/users":
			_, _ = io.WriteString(w, `[{"name":"eve\u001b[2J","role":"viewer","created":"2020-01-02T03:04:05Z"}]`)
		case "/api/v1/alerts":
			_, _ = io.WriteString(w, `[]`)
		default:
			_, _ = io.WriteString(w, `{"id":"box-a","disk_free":1073741824,"online":true,"report":{"assets":[{"id":"x"}]},"none":null}`)
		}
	}))
	defer s.Close()
	for args, want := range map[string]string{
		"user list":        "NAME     ROLE    CREATED\neve?[2J  viewer  2 Jan 2020\n",
		"alerts":           "No alerts.\n",
		"boxes box-a":      "disk free  1.00 GiB\nid         box-a\nonline     yes\nreport\n  assets\n    id  x\n",
		"--json user list": `[{"name":"eve\u001b[2J"`,
	} {
		var out bytes.Buffer
		cmd := root()
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		code := cli.Execute(t.Context(), cmd, append([]string{"--api", s.URL}, strings.Fields(args)...), nil)
		if code != cli.ExitDone || !strings.HasPrefix(out.String(), want) {
			t.Errorf("fleetd %s (%s): exit %d\n%s", args, asked, code, out.String())
		}
	}
}
