// Command gotest runs `go test -json` and prints what a person wants to read: one line per package, the whole output of
// what failed, every skip with its reason, and last the line "N passed, N failed, N skipped".
//
// A skip is a failure unless -allow-skips is given or the reason starts with "optional: ": a test that silently does
// not run is worth less than none. Where BOXD_TEST_COUNTS names a file, the three counts are appended to it.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

func main() {
	timeout := flag.String("timeout", "300s", "limit for each package's tests")
	allowSkips := flag.Bool("allow-skips", false, "a skipped test does not fail the run")
	flag.Parse()
	cmd := exec.Command("go", append([]string{"test", "-json", "-timeout", *timeout}, flag.Args()...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(2)
	}
	run := newReport(os.Stdout, *allowSkips)
	run.read(out)
	if err := cmd.Wait(); err != nil && run.failed == 0 {
		fmt.Println("go test:", err)
		run.failed++
	}
	run.finish()
	if name := os.Getenv("BOXD_TEST_COUNTS"); name != "" {
		if err := appendCounts(name, run); err != nil {
			fmt.Fprintln(os.Stderr, "gotest:", err)
			os.Exit(2)
		}
	}
	if run.failed > 0 {
		os.Exit(1)
	}
}

func appendCounts(name string, r *report) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, r.passed, r.failed, r.skipped); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// report turns events into text and counts. Subtests count as their parents' business, not as tests of their own.
type report struct {
	w                       io.Writer
	allowSkips              bool
	output                  map[string][]string // package/test → its lines
	broken                  map[string]bool     // packages of which a test failed
	skips                   []string
	passed, failed, skipped int
}

func newReport(w io.Writer, allowSkips bool) *report {
	return &report{w: w, allowSkips: allowSkips, output: map[string][]string{}, broken: map[string]bool{}}
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
	case "output", "build-output":
		r.output[key] = append(r.output[key], e.Output)
	case "pass":
		r.pass(e, key)
	case "fail":
		r.fail(e, key)
	case "skip":
		r.skip(e, key)
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
		if !r.broken[e.Package] {
			r.failed++ // no test of it failed: a build failure, a timeout or a crash outside any test
		}
		return
	}
	fmt.Fprintf(r.w, "FAIL  %s %s\n      %s", e.Package, e.Test, strings.Join(r.output[key], "      "))
	delete(r.output, key)
	r.broken[e.Package] = true
	if !strings.Contains(e.Test, "/") {
		r.failed++
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
	}
	r.skips = append(r.skips, text)
}

func (r *report) finish() {
	for _, s := range r.skips {
		fmt.Fprintln(r.w, "skip ", s)
	}
	fmt.Fprintf(r.w, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
}
