package tracker

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRegionsOfTheOperatorsList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "regions")
	write := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	write("# ours\n10.0.0.0/8 north\n10.1.0.0/16\tsouth # moved\n\n2001:db8::/32 north\n192.0.2.7 desk\n", day)
	r, err := OpenRegions(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]string{
		"10.2.3.4": "north", "10.1.3.4": "south", "::ffff:10.1.3.4": "south", "11.0.0.1": "", "2001:db8:7::1": "north",
		"2001:db9::1": "", "192.0.2.7": "desk", "192.0.2.8": "",
	} {
		if got := r.Of(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is in %q, want %q", a, got, want)
		}
	}
	write("10.0.0.0/8 west\nnonsense\n", day.Add(time.Minute))
	r.look()
	if got := r.Of(netip.MustParseAddr("10.2.3.4")); got != "north" {
		t.Errorf("a list with faults was taken: %q", got)
	}
	write("10.0.0.0/8 west\n", day.Add(2*time.Minute))
	r.look()
	if got := r.Of(netip.MustParseAddr("10.1.3.4")); got != "west" {
		t.Errorf("the new list was not taken: %q", got)
	}
}

func TestRegionsFaults(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8":                            "line 1: want a prefix and a name",
		"10.0.0.0/8 north west":                 "line 1: want a prefix and a name",
		"\nnorth 10.0.0.0/8":                    "line 2: \"north\" is no prefix",
		"10.1.0.0/8 north":                      "10.0.0.0/8?",
		"10.0.0.0/8 a\n10.0.0.0/8 b":            "line 2: 10.0.0.0/8 is in a already",
		"::ffff:10.0.0.0/104 north":             "no plain prefix",
		"10.0.0.0/8 " + strings.Repeat("n", 65): "64 bytes",
	} {
		if _, err := parseRegions([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := OpenRegions(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Error("a file that is not there was taken")
	}
}

func FuzzRegions(f *testing.F) {
	f.Add([]byte("10.0.0.0/8 north\n2001:db8::/32 south # x\n"))
	f.Add([]byte("fe80::%eth0/10 x\n0.0.0.0/0 all"))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := parseRegions(b)
		if err != nil {
			return
		}
		r := &Regions{}
		r.table.Store(table)
		for p, name := range table.names {
			if got := r.Of(p.Addr()); got == "" {
				t.Errorf("%s of %s is in no region", p, name)
			}
		}
	})
}
