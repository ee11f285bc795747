package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// linkedModule is one module of the binary, as build/licences lists it.
type linkedModule struct {
	Path    string   `json:"path"`
	Version string   `json:"version"`
	Sum     string   `json:"sum"`
	Licence string   `json:"licence"` // SPDX expression
	Texts   []string `json:"texts"`
	StandIn bool     `json:"stand_in"` // replaced by a folder of ours
}

func linked(list string) (all []linkedModule, err error) {
	text, err := os.ReadFile(list)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", list, err)
	}
	return all, nil
}

func writeLicences(name, top string, modules []linkedModule) error {
	own, err := os.ReadFile(filepath.Join(top, "LICENSE"))
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("boxd itself: Apache-2.0. What is linked into it, with the licence of each:\n\n")
	for _, m := range modules {
		note := ""
		if m.StandIn {
			note = " (types only, written for boxd)"
		}
		fmt.Fprintf(&b, "  %-14s %s %s%s\n", m.Licence, m.Path, m.Version, note)
	}
	rule := "\n" + strings.Repeat("=", 100) + "\n"
	fmt.Fprintf(&b, "%sboxd\n\n%s", rule, own)
	for _, m := range modules {
		for _, text := range m.Texts {
			fmt.Fprintf(&b, "%s%s %s\n\n%s", rule, m.Path, m.Version, text)
		}
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}
