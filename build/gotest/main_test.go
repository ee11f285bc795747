package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func play(t *testing.T, allowSkips bool, lines ...string) (*report, string) {
	t.Helper()
	var out strings.Builder
	r := newReport(&out, allowSkips)
	r.read(strings.NewReader(strings.Join(lines, "\n")))
	r.finish()
	return r, out.String()
}

func TestReportCounts(t *testing.T) {
	r, out := play(t, false,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: RESULT 1.02 copies\n"}`,
		`{"Action":"pass","Package":"p","Test":"TestA/sub"}`,
		`{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:2: wrong bytes\n"}`,
		`{"Action":"fail","Package":"p","Test":"TestB"}`,
		`{"Action":"fail","Package":"p"}`)
	if r.passed != 1 || r.failed != 1 || r.skipped != 0 {
		t.Errorf("counted %d passed, %d failed, %d skipped", r.passed, r.failed, r.skipped)
	}
	for _, want := range []string{"1.02 copies", "wrong bytes", "1 passed, 1 failed, 0 skipped"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

func TestSkipFailsUnlessAllowed(t *testing.T) {
	required := []string{
		`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: no mosquitto here\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestA"}`,
	}
	if r, out := play(t, false, required...); r.failed != 1 || !strings.Contains(out, "no mosquitto here") {
		t.Errorf("a skipped test passed: %d failed\n%s", r.failed, out)
	}
	if r, _ := play(t, true, required...); r.failed != 0 || r.skipped != 1 {
		t.Errorf("an allowed skip: %d failed, %d skipped", r.failed, r.skipped)
	}
	optional := strings.Replace(required[0], "no mosquitto", "optional: no /dev/kvm", 1)
	if r, _ := play(t, false, optional, required[1]); r.failed != 0 || r.skipped != 1 {
		t.Errorf("an optional skip: %d failed, %d skipped", r.failed, r.skipped)
	}
}

// goTest plays go test: each call takes the next of the given outputs and fails when a line of it says so.
type played struct {
	outputs [][]string
	calls   []string
}

func (p *played) goTest(args []string, read func(io.Reader)) error {
	p.calls = append(p.calls, strings.Join(args, " "))
	text := strings.Join(p.outputs[0], "\n")
	p.outputs = p.outputs[1:]
	read(strings.NewReader(text))
	if strings.Contains(text, `"fail"`) {
		return errors.New("exit status 1")
	}
	return nil
}

func run(pkg, test string) string {
	return `{"Action":"run","Package":"` + pkg + `","Test":"` + test + `"}`
}

func says(pkg, test, text string) string {
	return `{"Action":"output","Package":"` + pkg + `","Test":"` + test + `","Output":"` + text + `\n"}`
}

func ends(how, pkg, test string) string {
	if test != "" {
		test = `","Test":"` + test
	}
	return `{"Action":"` + how + `","Package":"` + pkg + test + `"}`
}

func failing(pkg string, tests ...string) []string {
	var lines []string
	for _, test := range tests {
		lines = append(lines, run(pkg, test), says(pkg, test, "    x_test.go:1: "+test+" is off"), ends("fail", pkg, test))
	}
	return append(lines, ends("fail", pkg, ""))
}

func passing(pkg string, tests ...string) []string {
	var lines []string
	for _, test := range tests {
		lines = append(lines, run(pkg, test), ends("pass", pkg, test))
	}
	return append(lines, ends("pass", pkg, ""))
}

func TestSecondChance(t *testing.T) {
	sub := []string{
		run("m/p", "TestA"), run("m/p", "TestA/sub"), says("m/p", "TestA/sub", "    x_test.go:9: late"),
		ends("fail", "m/p", "TestA/sub"), ends("fail", "m/p", "TestA"), ends("fail", "m/p", ""),
	}
	one := failing("m/p", "TestA")
	with := func(lines ...string) []string { return append(lines, one...) }
	for name, c := range map[string]struct {
		args                  []string
		first                 []string
		again                 [][]string
		calls                 []string // of the second runs
		passed, failed, flaky int
		says                  []string
	}{
		"all is well": {first: passing("m/p", "TestA"), passed: 1},
		"flaky": {
			args:  []string{"-race", "-short", "-exec", "qemu -cpu x", "-p", "2", "./m/p", "./m/q"},
			first: append(passing("m/q", "TestQ"), sub...), again: [][]string{passing("m/p", "TestA")},
			calls:  []string{"-race -short -exec qemu -cpu x -p 2 -count=1 -p 1 -run ^(TestA)$ m/p"},
			passed: 2, flaky: 1,
			says: []string{"FLAKY m/p TestA: ", "x_test.go:9: late", "1 flaky: m/p TestA\n2 passed, 0 failed, 0 skipped\n"},
		},
		"fails again": {first: one, again: [][]string{one}, calls: []string{"-count=1 -p 1 -run ^(TestA)$ m/p"}, failed: 1},
		"three of two packages, of which one fails again": {
			first:  append(failing("m/p", "TestA", "TestB"), failing("m/q", "TestA")...),
			again:  [][]string{append(failing("m/p", "TestA"), passing("m/p", "TestB")...), passing("m/q", "TestA")},
			calls:  []string{"-count=1 -p 1 -run ^(TestA|TestB)$ m/p", "-count=1 -p 1 -run ^(TestA)$ m/q"},
			passed: 2, failed: 1, flaky: 2, says: []string{"2 flaky: m/p TestB, m/q TestA\n"},
		},
		"not there the second time": {
			first: one, again: [][]string{passing("m/p")},
			calls: []string{"-count=1 -p 1 -run ^(TestA)$ m/p"}, failed: 1,
		},
		"skipped the second time": {
			first: one, again: [][]string{{run("m/p", "TestA"), ends("skip", "m/p", "TestA"), ends("pass", "m/p", "")}},
			calls: []string{"-count=1 -p 1 -run ^(TestA)$ m/p"}, failed: 1,
		},
		"passes beside a race": {
			first: one,
			again: [][]string{append(passing("m/p", "TestA"), says("m/p", "TestA", "WARNING: DATA RACE"))},
			calls: []string{"-count=1 -p 1 -run ^(TestA)$ m/p"}, failed: 1,
		},
		"four":            {first: failing("m/p", "TestA", "TestB", "TestC", "TestD"), failed: 4},
		"a fuzz test":     {first: failing("m/p", "FuzzA"), failed: 1},
		"a build failure": {first: with(ends("fail", "m/q", "")), failed: 2},
		"a race":          {first: with(says("m/p", "TestA", "WARNING: DATA RACE")), failed: 1},
		"a panic":         {first: with(says("m/p", "TestA", "panic: nil map")), failed: 1},
		"a timeout":       {first: with(says("m/p", "TestB", "panic: test timed out after 5s")), failed: 1},
		"cut short":       {first: with(run("m/p", "TestB")), failed: 1},
		"a skip":          {first: with(run("m/p", "TestB"), ends("skip", "m/p", "TestB")), failed: 2},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out, false)
			p := &played{outputs: append([][]string{c.first}, c.again...)}
			r.measure(p.goTest, c.args)
			r.secondChance(p.goTest, c.args)
			r.finish()
			if r.passed != c.passed || r.failed != c.failed || len(r.flaky) != c.flaky {
				t.Errorf("%d passed, %d failed, %d flaky; want %d, %d, %d",
					r.passed, r.failed, len(r.flaky), c.passed, c.failed, c.flaky)
			}
			if !slices.Equal(p.calls[1:], c.calls) {
				t.Errorf("ran again %q, want %q", p.calls[1:], c.calls)
			}
			for _, want := range c.says {
				if !strings.Contains(out.String(), want) {
					t.Errorf("output lacks %q", want)
				}
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}

func TestCountsNameTheFlaky(t *testing.T) {
	name := filepath.Join(t.TempDir(), "counts")
	r := newReport(io.Discard, false)
	r.passed, r.flaky = 2, []outcome{{pkg: "m/p", test: "TestA"}}
	for range 2 {
		if err := appendCounts(name, r); err != nil {
			t.Fatal(err)
		}
	}
	const once = "2 0 0\nflaky m/p TestA\n"
	if got, err := os.ReadFile(name); err != nil || string(got) != once+once {
		t.Errorf("%q, %v", got, err)
	}
}
