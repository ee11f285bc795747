package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"boxd/internal/cli"
)

func TestManualAndCompletionCoverEveryCommand(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	if code := execute(t.Context(), root, []string{"man", dir}); code != cli.ExitDone {
		t.Fatalf("boxd man: exit %d: %s", code, out.String())
	}
	for _, cmd := range newRoot().Commands() {
		if cmd.Hidden || cmd.Name() == "help" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, "boxd-"+cmd.Name()+".1"))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, want := range []string{".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH EXIT STATUS"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("boxd-%s.1 has no %s", cmd.Name(), want)
			}
		}
		if cmd.GroupID == "" {
			t.Errorf("boxd %s is in no group of the help", cmd.Name())
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "boxd.8")); err != nil {
		t.Error(err)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out.Reset()
		root := newRoot()
		root.SetOut(&out)
		if code := execute(t.Context(), root, []string{"completion", shell}); code != cli.ExitDone || !strings.Contains(out.String(), "boxd") {
			t.Errorf("completion %s: exit %d, %d bytes", shell, code, out.Len())
		}
	}
}
