// Package systemd holds the units that are shipped; its tests have systemd judge them.
package systemd

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// maxExposure is what `systemd-analyze security` may say of a unit that talks to the network (0 best, 10 worst).
const maxExposure = 1.2

func analyze(t *testing.T, args ...string) (string, error) {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	return string(out), err
}

func TestUnitsAreHardened(t *testing.T) {
	for _, unit := range []string{"boxd.service", "fleetd.service"} {
		out, err := analyze(t, "security", "--no-pager", "--offline=true", unit)
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("systemd-analyze security %s: %v\n%s", unit, err, out)
		}
		exposure, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		if exposure > maxExposure {
			t.Errorf("%s is exposed by %.1f, more than %.1f", unit, exposure, maxExposure)
		}
		t.Logf("RESULT %s exposure %.1f (at most %.1f)", unit, exposure, maxExposure)
	}
}

// TestUnitsAreWellFormed: verify complains of programs that are not installed here and of nothing else.
func TestUnitsAreWellFormed(t *testing.T) {
	for _, unit := range []string{"boxd.service", "fleetd.service"} {
		out, _ := analyze(t, "verify", "--man=no", "--recursive-errors=no", "./"+unit)
		for line := range strings.Lines(out) {
			if strings.Contains(line, unit+":") && !strings.Contains(line, "is not executable: No such file") {
				t.Error(strings.TrimSpace(line))
			}
		}
	}
}
