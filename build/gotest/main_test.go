package main

import (
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
