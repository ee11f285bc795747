package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestManualAndCompletionCoverEveryCommand(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	if code := execute(t.Context(), root, []string{"man", dir}); code != exitDone {
		t.Fatalf("boxd man: exit %d: %s", code, out.String())
	}
	for _, cmd := range newRoot().Commands() {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
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
		if code := execute(t.Context(), root, []string{"completion", shell}); code != exitDone || !strings.Contains(out.String(), "boxd") {
			t.Errorf("completion %s: exit %d, %d bytes", shell, code, out.Len())
		}
	}
}

func TestTextThatCannotSteerTheTerminal(t *testing.T) {
	if got := plain("a\x1b[2Jb\nc\u009bd"); strings.ContainsAny(got, "\x1b\n\u009b") {
		t.Errorf("%q", got)
	}
}

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 5 << 20: "5.00 MiB", 123 << 30: "123 GiB"} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	if bar(0, 0, 4) != "░░░░" || bar(99, 100, 4) != "███░" || bar(4, 4, 4) != "████" || bar(9, 4, 4) != "████" {
		t.Error("bars")
	}
}
