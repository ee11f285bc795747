// Command gotest runs `go test -json` and prints what a person wants to read: one line per package, the whole output of
// what failed, every skip with its reason, and last the line "N passed, N failed, N skipped".
//
// A skip is a failure unless -allow-skips is given or the reason starts with "optional: ": a test that silently does
// not run is worth less than none. With -rerun, which CI=true implies, a few tests that failed get a second chance (see
// rerun.go). Where BOXD_TEST_COUNTS names a file, the three counts are appended to it, and a line for each flaky test.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
)

func main() {
	timeout := flag.String("timeout", "300s", "limit for each package's tests")
	allowSkips := flag.Bool("allow-skips", false, "a skipped test does not fail the run")
	again := flag.Bool("rerun", os.Getenv("CI") == "true", "run a few failed tests a second time")
	flag.Parse()
	goTest := func(args []string, read func(io.Reader)) error {
		cmd := exec.Command("go", append([]string{"test", "-json", "-timeout", *timeout}, args...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		read(out)
		return cmd.Wait()
	}
	run := newReport(os.Stdout, *allowSkips)
	run.measure(goTest, flag.Args())
	if *again {
		run.secondChance(goTest, flag.Args())
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
	text := fmt.Sprintln(r.passed, r.failed, r.skipped)
	for _, t := range r.flaky {
		text += fmt.Sprintln("flaky", t.pkg, t.test)
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
