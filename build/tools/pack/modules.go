package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/module"
)

// linkedModule is one module of the binary.
type linkedModule struct {
	path, version, sum string
	licence            string // SPDX identifier
	texts              []string
	standIn            bool // replaced by a folder of ours
}

// linked lists the modules of a binary with their licences; one without a known licence is an error, since it may not
// be shipped.
func linked(top, binary string) ([]linkedModule, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOMODCACHE: %w", err)
	}
	var all []linkedModule
	for _, dep := range info.Deps {
		m := linkedModule{path: dep.Path, version: dep.Version, sum: dep.Sum}
		if dep.Replace != nil {
			m.standIn, m.licence, m.sum = true, "Apache-2.0", ""
			all = append(all, m)
			continue
		}
		escaped, err := module.EscapePath(dep.Path)
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(strings.TrimSpace(string(cache)), filepath.FromSlash(escaped)+"@"+dep.Version)
		if m.licence, m.texts, err = licenceOf(dir); err != nil {
			return nil, fmt.Errorf("%s %s: %w", dep.Path, dep.Version, err)
		}
		all = append(all, m)
	}
	licence, texts, err := licenceOf(goroot())
	if err != nil {
		return nil, fmt.Errorf("the Go standard library: %w", err)
	}
	std := linkedModule{path: "std", version: strings.TrimPrefix(info.GoVersion, "go"), licence: licence, texts: texts}
	return append(all, std), nil
}

func goroot() string {
	out, _ := exec.Command("go", "env", "GOROOT").Output()
	return strings.TrimSpace(string(out))
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

func writeLicences(name, top string, modules []linkedModule) error {
	own, err := os.ReadFile(filepath.Join(top, "LICENSE"))
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("boxd itself: Apache-2.0. What is linked into it, with the licence of each:\n\n")
	for _, m := range modules {
		note := ""
		if m.standIn {
			note = " (types only, written for boxd)"
		}
		fmt.Fprintf(&b, "  %-14s %s %s%s\n", m.licence, m.path, m.version, note)
	}
	rule := "\n" + strings.Repeat("=", 100) + "\n"
	fmt.Fprintf(&b, "%sboxd\n\n%s", rule, own)
	for _, m := range modules {
		for _, text := range m.texts {
			fmt.Fprintf(&b, "%s%s %s\n\n%s", rule, m.path, m.version, text)
		}
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}
