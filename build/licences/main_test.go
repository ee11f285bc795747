package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestAllThatIsLinkedMayBeShipped: else packages are not made, and nobody would hear of it before a release.
func TestAllThatIsLinkedMayBeShipped(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f",
		"{{with .Module}}{{if not (or .Main .Replace)}}{{.Path}} {{.Dir}}{{end}}{{end}}", "./cmd/boxd", "./cmd/fleetd")
	list.Dir, list.Env = "../..", append(os.Environ(), "GOOS=linux", "GOARCH=arm")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		path, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || seen[path] {
			continue
		}
		seen[path] = true
		if _, _, err := licenceOf(dir); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d modules are linked", len(seen))
	}
}

func TestLicencesAreToldApart(t *testing.T) {
	for text, want := range map[string]string{
		"Mozilla Public License Version 2.0\n====":                                           "MPL-2.0",
		"  Apache License\n   Version 2.0, January 2004":                                     "Apache-2.0",
		"Permission is hereby granted, free of charge,\nto any person obtaining a copy of":   "MIT",
		"Copyright me\n   Licensed under the Apache License, Version 2.0 (the \"License\");": "Apache-2.0",
		"All rights reserved, ask us":                                                        "",
	} {
		if got := classify(text); got != want {
			t.Errorf("classify(%q) = %q, want %q", text, got, want)
		}
	}
}
