package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The command lines under deploy/ are ones that this program takes.
func TestDeployedCommandLines(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("..", "..", "deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(data), "\\\n", " ")
	}
	var lines []string
	for _, unit := range []string{"systemd/boxd-broker@.service", "systemd/fleetd-cluster.service"} {
		m := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/fleetd (.*)$`).FindStringSubmatch(read(unit))
		if m == nil {
			t.Fatalf("%s starts nothing", unit)
		}
		lines = append(lines, m[1])
	}
	compose := read("compose/compose.yaml")
	for _, m := range regexp.MustCompile(`(?m)^ +fleetd ((?:init|broker-config) .*)$`).FindAllStringSubmatch(compose, -1) {
		line, _, _ := strings.Cut(m[1], " > ")
		lines = append(lines, strings.ReplaceAll(strings.ReplaceAll(line, "$$routes", "--route nats://n2:6222"), "$$", ""))
	}
	for _, m := range regexp.MustCompile(`command: \[fleetd, (.*)\]`).FindAllStringSubmatch(compose, -1) {
		lines = append(lines, strings.ReplaceAll(m[1], ",", ""))
	}
	serve := regexp.MustCompile(`(?m)^ +- fleetd\n((?: +- .*\n)+)`).FindStringSubmatch(compose)
	if serve == nil {
		t.Fatal("no manager in the compose file")
	}
	lines = append(lines, strings.ReplaceAll(serve[1], "- ", " "))
	readme := regexp.MustCompile("(?m)(?:^ +|`)fleetd ([a-z-]+ --dir[^`\n]*)").FindAllStringSubmatch(read("README.md"), -1)
	for _, m := range readme {
		line, _, _ := strings.Cut(m[1], " > ")
		lines = append(lines, line)
	}
	if len(lines) < 10 {
		t.Errorf("only %d command lines: %q", len(lines), lines)
	}
	for _, line := range lines {
		cmd, rest, err := root().Find(strings.Fields(line))
		if err != nil || !cmd.HasParent() {
			t.Errorf("fleetd %s: %v", line, err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("fleetd %s: %v", line, err)
			continue
		}
		if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
			t.Errorf("fleetd %s: %v", line, err)
		}
	}
}
