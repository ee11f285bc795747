package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPackageOf(t *testing.T) {
	for symbol, want := range map[string]string{
		"runtime.main":                                   "runtime",
		"boxd/internal/cache.(*Cache).Run.func1":         "boxd/internal/cache",
		"gopkg.in/yaml%2ev3.(*decoder).scalar":           "gopkg.in/yaml.v3",
		"github.com/a/generics.Set[go.shape.string].Add": "github.com/a/generics",
		"type:.eq.net/http.Cookie":                       "net/http",
		"main.main":                                      "main",
	} {
		if got := packageOf(symbol); got != want {
			t.Errorf("packageOf(%q) = %q, want %q", symbol, got, want)
		}
	}
}

func TestModuleOfTakesTheLongest(t *testing.T) {
	modules := []string{"boxd", "github.com/a/torrent", "github.com/a/torrent/bencode"}
	for pkg, want := range map[string]string{
		"main": "boxd", "boxd/internal/lan": "boxd", "net/http": "std",
		"github.com/a/torrent/bencode/x": "github.com/a/torrent/bencode", "github.com/a/torrentfs": "std",
	} {
		if got := moduleOf(pkg, modules); got != want {
			t.Errorf("moduleOf(%q) = %q, want %q", pkg, got, want)
		}
	}
}

func TestOwnBinaryIsMeasured(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := textByModule(exe)
	if err != nil {
		t.Fatal(err)
	}
	if text["std"] < 1<<18 || text["boxd"] == 0 {
		t.Errorf("a Go program with %d bytes of the standard library and %d of ours", text["std"], text["boxd"])
	}
}

func TestBudgets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "budgets")
	if err := os.WriteFile(file, []byte("# comment\ntotal 1_000\nstd 500\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := check(map[string]int64{"total": 1000, "std": 500, "other": 9000}, file); err != nil {
		t.Errorf("within budget: %v", err)
	}
	err := check(map[string]int64{"total": 1001, "std": 500}, file)
	if err == nil || !strings.Contains(err.Error(), "total takes 1001 of 1000") {
		t.Errorf("over budget: %v", err)
	}
}
