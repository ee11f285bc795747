// Command licences lists as JSON which modules are linked into a Go program of this repository, each with its version, its
// hash, its licence and the licence's text. A module whose licence is not known may not be shipped: that is an error.
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// linkedModule is one module of a program; build/tools/pack reads it.
type linkedModule struct {
	Path    string   `json:"path"`
	Version string   `json:"version"`
	Sum     string   `json:"sum,omitempty"`
	Licence string   `json:"licence"` // SPDX expression
	Texts   []string `json:"texts,omitempty"`
	StandIn bool     `json:"stand_in,omitempty"` // replaced by a folder of ours
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: licences PROGRAM, in the top of the source tree")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(program string) error {
	all, err := linked(program)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// linked lists the modules of a program and, last, the standard library.
func linked(program string) ([]linkedModule, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, dep := range info.Deps {
		paths = append(paths, dep.Path)
	}
	dirs, err := folders(paths)
	if err != nil {
		return nil, err
	}
	var all []linkedModule
	for _, dep := range info.Deps {
		m := linkedModule{Path: dep.Path, Version: dep.Version, Sum: dep.Sum}
		if dep.Replace != nil {
			m.StandIn, m.Licence, m.Sum = true, "Apache-2.0", ""
		} else if m.Licence, m.Texts, err = licenceOf(dirs[dep.Path]); err != nil {
			return nil, fmt.Errorf("%s %s: %w", dep.Path, dep.Version, err)
		}
		all = append(all, m)
	}
	std := linkedModule{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err == nil {
		std.Licence, std.Texts, err = licenceOf(strings.TrimSpace(string(root)))
	}
	if err != nil {
		return nil, fmt.Errorf("the Go standard library: %w", err)
	}
	return append(all, std), nil
}

// folders asks go where modules are.
func folders(paths []string) (map[string]string, error) {
	dirs := map[string]string{}
	if len(paths) == 0 {
		return dirs, nil
	}
	out, err := exec.Command("go", append([]string{"list", "-m", "-f", "{{.Path}}\t{{.Dir}}"}, paths...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		dirs[path] = dir
	}
	return dirs, nil
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|unlicense)([-.].*)?$`)

// phrases tell licences apart, the more particular first.
var phrases = []struct{ id, phrase string }{
	{"MPL-2.0", "Mozilla Public License Version 2.0"},
	{"MPL-2.0", "Mozilla Public License, version 2.0"},
	{"EPL-2.0", "Eclipse Public License - v 2.0"},
	{"Apache-2.0", "Apache License Version 2.0"},
	{"Apache-2.0", "Licensed under the Apache License, Version 2.0"},
	{"BSD-3-Clause", "Neither the name of"},
	{"BSD-3-Clause", "may not be used to endorse or promote products"},
	{"BSD-2-Clause", "Redistributions in binary form must reproduce the above copyright notice"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"ISC", "Permission to use, copy, modify, and distribute this software for any purpose"},
	{"CC0-1.0", "CC0 1.0 Universal"},
	{"Unlicense", "This is free and unencumbered software released into the public domain"},
}

func licenceOf(dir string) (id string, texts []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", nil, err
		}
		texts = append(texts, string(text))
		if id := classify(string(text)); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return "", nil, fmt.Errorf("no licence that is known in %s", dir)
	}
	return strings.Join(ids, " AND "), texts, nil
}

func classify(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, p := range phrases {
		if strings.Contains(text, p.phrase) {
			return p.id
		}
	}
	return ""
}
