package main

import (
	"fmt"
	"slices"
	"strings"
)

// mayBeFlaky is how many failed tests are run again; more than that is no accident.
const mayBeFlaky = 3

// secondChance runs the tests that failed once more, alone: each package by itself, with the flags of the first run. What
// passes then counts as passed and is named as flaky, loudly: a flaky test is a defect, but the submission that met it is
// seldom the one that made it. A build failure, a panic, a timeout, a data race, a test that may not be skipped and an
// input of a fuzz test that fails are never excused, nor is anything beside them.
func (r *report) secondChance(goTest goTester, args []string) {
	if len(r.failures) == 0 {
		return
	}
	if why := r.noSecondChance(); why != "" {
		fmt.Fprintf(r.w, "nothing is run again: %s\n", why)
		return
	}
	var pkgs []string
	for _, f := range r.failures {
		if !slices.Contains(pkgs, f.pkg) {
			pkgs = append(pkgs, f.pkg)
		}
	}
	for _, pkg := range pkgs {
		var tests []string
		for _, f := range r.failures {
			if f.pkg == pkg {
				tests = append(tests, f.test)
			}
		}
		fmt.Fprintf(r.w, "again %s %s\n", pkg, strings.Join(tests, " "))
		again := newReport(r.w, r.allowSkips)
		again.measure(goTest, append(flagsOf(args), "-count=1", "-p", "1", "-run", "^("+strings.Join(tests, "|")+")$", pkg))
		for _, f := range r.failures {
			if f.pkg == pkg && again.grave == "" && slices.Contains(again.passes, f.test) {
				r.failed--
				r.passed++
				r.flaky = append(r.flaky, f)
			}
		}
	}
}

func (r *report) noSecondChance() string {
	if n := len(r.failures); n > mayBeFlaky {
		return fmt.Sprintf("%d tests failed", n)
	}
	for _, f := range r.failures {
		if strings.HasPrefix(f.test, "Fuzz") {
			return f.test + " is a fuzz test"
		}
	}
	return r.grave
}

// flagsOf is what of the arguments of `go test` is no package.
func flagsOf(args []string) []string {
	takesValue := []string{"p", "exec", "run", "skip", "count", "cpu", "parallel", "tags", "ldflags", "gcflags"}
	var flags []string
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			continue
		}
		flags = append(flags, args[i])
		if slices.Contains(takesValue, strings.TrimLeft(args[i], "-")) && i+1 < len(args) {
			i++
			flags = append(flags, args[i])
		}
	}
	return flags
}

func names(tests []outcome) string {
	var all []string
	for _, t := range tests {
		all = append(all, t.pkg+" "+t.test)
	}
	return strings.Join(all, ", ")
}
