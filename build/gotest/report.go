package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// outcome is a test (no subtest) that failed, with all that it and its subtests said.
type outcome struct {
	pkg, test string
	output    []string
}

// report turns events into text and counts. Subtests count as their parents' business, not as tests of their own.
type report struct {
	w                       io.Writer
	allowSkips              bool
	output                  map[string][]string // package/test → its lines
	broken                  map[string]bool     // packages of which a test failed
	running                 map[string]bool     // package/test that has begun and not ended
	said                    map[string][]string // package/test → what its failed subtests said
	passes                  []string            // tests, whatever their package
	failures, flaky         []outcome
	grave                   string // what no second run can excuse, if there was such a thing
	skips                   []string
	passed, failed, skipped int
}

func newReport(w io.Writer, allowSkips bool) *report {
	return &report{
		w: w, allowSkips: allowSkips, output: map[string][]string{}, broken: map[string]bool{},
		running: map[string]bool{}, said: map[string][]string{},
	}
}

// goTester runs `go test -json` with these arguments and hands its output to read.
type goTester func(args []string, read func(io.Reader)) error

func (r *report) measure(goTest goTester, args []string) {
	if err := goTest(args, r.read); err != nil && r.failed == 0 {
		fmt.Fprintln(r.w, "go test:", err)
		r.failed++
		r.isGrave("go test itself failed")
	}
}

// isGrave keeps the first reason.
func (r *report) isGrave(why string) {
	if r.grave == "" {
		r.grave = why
	}
}

func (r *report) read(in io.Reader) {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprint(r.w, string(line))
			} else {
				r.take(e)
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *report) take(e event) {
	if e.Package == "" {
		e.Package = e.ImportPath
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "run":
		r.running[key] = true
	case "output", "build-output":
		r.output[key] = append(r.output[key], e.Output)
		r.judge(e)
	case "pass":
		delete(r.running, key)
		r.pass(e, key)
	case "fail":
		delete(r.running, key)
		r.fail(e, key)
	case "skip":
		delete(r.running, key)
		r.skip(e, key)
	}
}

func (r *report) judge(e event) {
	switch {
	case strings.Contains(e.Output, "DATA RACE"):
		r.isGrave("a data race in " + e.Package)
	case strings.HasPrefix(e.Output, "panic: "), strings.HasPrefix(e.Output, "fatal error: "):
		r.isGrave("a panic or a timeout in " + e.Package)
	}
}

func (r *report) pass(e event, key string) {
	switch {
	case e.Test == "":
		fmt.Fprintf(r.w, "ok    %-40s %6.1f s\n", e.Package, e.Elapsed)
		for _, line := range r.output[key] {
			if strings.HasPrefix(line, "RESULT ") { // what a test measured and wants seen
				fmt.Fprint(r.w, "      ", line)
			}
		}
	case !strings.Contains(e.Test, "/"):
		r.passed++
		r.passes = append(r.passes, e.Test)
		delete(r.said, key)
	}
	r.results(e, key)
	delete(r.output, key)
}

// results shows the lines that a passing test marked with t.Log("RESULT …").
func (r *report) results(e event, key string) {
	if e.Test == "" {
		return
	}
	for _, line := range r.output[key] {
		if _, text, ok := strings.Cut(line, "RESULT "); ok {
			fmt.Fprintf(r.w, "      %s: %s", e.Test, text)
		}
	}
}

func (r *report) fail(e event, key string) {
	if e.Test == "" {
		fmt.Fprintf(r.w, "FAIL  %-40s %6.1f s\n", e.Package, e.Elapsed)
		for k, lines := range r.output { // the build's output, and tests that a crash or a timeout cut short
			if k == key || strings.HasPrefix(k, e.Package+" ") {
				fmt.Fprint(r.w, "      ", strings.Join(lines, "      "))
				delete(r.output, k)
			}
		}
		for k := range r.running {
			if strings.HasPrefix(k, e.Package+" ") {
				r.isGrave(k + " was cut short")
			}
		}
		if !r.broken[e.Package] {
			r.failed++ // no test of it failed: a build failure, a timeout or a crash outside any test
			r.isGrave(e.Package + " failed outside its tests")
		}
		return
	}
	fmt.Fprintf(r.w, "FAIL  %s %s\n      %s", e.Package, e.Test, strings.Join(r.output[key], "      "))
	name, _, sub := strings.Cut(e.Test, "/")
	top := e.Package + " " + name
	r.said[top] = append(r.said[top], r.output[key]...)
	delete(r.output, key)
	r.broken[e.Package] = true
	if !sub {
		r.failed++
		r.failures = append(r.failures, outcome{e.Package, e.Test, r.said[top]})
		delete(r.said, top)
	}
}

func (r *report) skip(e event, key string) {
	if e.Test == "" {
		return // a package without tests
	}
	if strings.HasPrefix(e.Test, "Fuzz") && strings.Contains(e.Test, "/") {
		return // an input of the corpus that says nothing
	}
	reason := ""
	for _, line := range r.output[key] {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			if _, text, ok := strings.Cut(line, ": "); ok {
				line = text // drop "file_test.go:12: "
			}
			reason = strings.TrimSpace(reason + " " + line)
		}
	}
	delete(r.output, key)
	r.skipped++
	text := fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason)
	if !r.allowSkips && !strings.HasPrefix(reason, "optional: ") {
		text += "  ← must not be skipped here"
		r.failed++
		r.isGrave("a test was skipped that must run")
	}
	r.skips = append(r.skips, text)
}

func (r *report) finish() {
	for _, t := range r.flaky {
		fmt.Fprintf(r.w, "FLAKY %s %s: failed, then passed alone; it said first:\n      %s",
			t.pkg, t.test, strings.Join(t.output, "      "))
	}
	for _, s := range r.skips {
		fmt.Fprintln(r.w, "skip ", s)
	}
	if len(r.flaky) > 0 {
		fmt.Fprintf(r.w, "%d flaky: %s\n", len(r.flaky), names(r.flaky))
	}
	fmt.Fprintf(r.w, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
}
