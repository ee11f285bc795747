package boxd_test

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"
)

// vocabulary is what any package may import: words and leaves that import nothing of ours but each other.
var vocabulary = []string{"internal/asset", "internal/health"}

// arrows says, for each package of ours, which others it may import beside the vocabulary (ARCHITECTURE.md has the
// picture). A line is for the package and those below it. A new package gets a line, and an arrow only ever points down.
var arrows = map[string][]string{
	"internal/asset":    {},
	"internal/health":   {},
	"internal/durable":  {},
	"internal/courtesy": {},
	"internal/schedule": {},
	"internal/mqttwire": {},
	"internal/ops":      {},
	"internal/config":   {},
	"internal/cli":      {"internal/durable"},
	"internal/state":    {"internal/durable"},
	"internal/cache":    {"internal/durable", "internal/state", "internal/courtesy"},
	"internal/identity": {"internal/durable", "internal/state", "internal/ops"},
	// Whole fleets for tests; nothing but tests imports it.
	"internal/identity/identitytest": {"internal/identity", "internal/identity/pki", "internal/fleet/ca"},

	"internal/catalog": {"internal/durable", "internal/state", "internal/identity"},
	"internal/lan":     {"internal/identity"},
	"internal/fetch": {
		"internal/schedule", "internal/catalog", "internal/cache", "internal/lan", "internal/identity",
		"internal/durable", "internal/state", "internal/courtesy",
	},
	"internal/remote":   {"internal/lan", "internal/identity"},
	"internal/firmware": {"internal/cache", "internal/catalog", "internal/courtesy", "internal/durable"},
	"internal/control": {
		"internal/fetch", "internal/schedule", "internal/catalog", "internal/cache", "internal/lan", "internal/identity",
		"internal/durable", "internal/state", "internal/config",
	},
	"internal/mgmt": {
		"internal/control", "internal/identity", "internal/durable", "internal/state", "internal/ops", "internal/mqttwire",
	},
	"internal/httpapi": {"internal/control", "internal/cache", "internal/config"},
	// Files of the status page; the fleet's dashboard draws a box with them.
	"internal/httpapi/page": {},
	"cmd/boxd":              boxSide,

	"internal/netlab": {},
	// A real browser for tests of pages; nothing but tests imports it.
	"internal/browsertest": {},
	"internal/fleet":       append([]string{"internal/identity", "internal/netlab", "internal/httpapi/page"}, shared...),
	"cmd/fleetd":           append([]string{"internal/fleet", "internal/identity"}, shared...),
	"cmd/demo":             {"internal/demo"},
	"internal/demo":        {}, // runs the programs, and knows of them what a user knows
	"build/gotest":         {},
}

// shared is what both sides speak, so that they cannot drift apart.
var shared = []string{
	"internal/durable", "internal/ops", "internal/mqttwire", "internal/catalog", "internal/config", "internal/state",
	"internal/cli",
}

// boxSide is everything that is linked into the box; the operator's side is not in it.
var boxSide = []string{
	"internal/durable", "internal/state", "internal/cache", "internal/identity", "internal/ops", "internal/catalog",
	"internal/lan", "internal/schedule", "internal/fetch", "internal/control", "internal/mgmt", "internal/mqttwire",
	"internal/httpapi", "internal/config", "internal/firmware", "internal/remote", "internal/cli", "internal/courtesy",
}

const module = "boxd/"

// rootOf finds the line of the table that a package belongs to; "" when there is none.
func rootOf(pkg string) string {
	best := ""
	for root := range arrows {
		if under(pkg, root) && len(root) > len(best) {
			best = root
		}
	}
	return best
}

func TestArrowsPointDown(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue // a test may look at its package from any side
		}
		root := rootOf(s.pkg)
		if root == "" {
			if under(s.pkg, "internal") || under(s.pkg, "cmd") {
				t.Errorf("%s: package %s has no line in the table of arrows", s.path, s.pkg)
			}
			continue
		}
		for _, path := range s.imports() {
			dep, ours := strings.CutPrefix(path, module)
			if !ours || slices.Contains(vocabulary, dep) || rootOf(dep) == root {
				continue
			}
			if !slices.ContainsFunc(arrows[root], func(allowed string) bool { return under(dep, allowed) }) {
				t.Errorf("%s imports %s: no arrow leads from %s there", s.path, path, s.pkg)
			}
		}
	}
}

// TestLintKnowsTheArrows keeps the depguard rules of .golangci.yml equal to the table; UPDATE_ARROWS=1 rewrites them.
func TestLintKnowsTheArrows(t *testing.T) {
	const begin, end = "      # arrows: begin\n", "      # arrows: end\n"
	config, err := os.ReadFile(".golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(config), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatal(".golangci.yml lacks the marks around the arrows")
	}
	want := depguardRules()
	if have == want {
		return
	}
	if os.Getenv("UPDATE_ARROWS") == "" {
		t.Fatal("the depguard rules of .golangci.yml differ from the table here: run UPDATE_ARROWS=1 go test -run Arrows .")
	}
	if err := os.WriteFile(".golangci.yml", []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func depguardRules() string {
	var b strings.Builder
	roots := make([]string, 0, len(arrows))
	for root := range arrows {
		roots = append(roots, root)
	}
	sort.Strings(roots)
	for _, root := range roots {
		fmt.Fprintf(&b, "        %s:\n          list-mode: lax\n", strings.ReplaceAll(root, "/", "-"))
		files := fmt.Sprintf("\"**/%s/**\", \"!$test\"", root)
		for _, below := range roots {
			if below != root && under(below, root) { // it has a line of its own
				files += fmt.Sprintf(", \"!**/%s/**\"", below)
			}
		}
		fmt.Fprintf(&b, "          files: [%s]\n", files)
		b.WriteString("          deny: [{pkg: boxd/, desc: no arrow leads there}]\n          allow:\n")
		for _, dep := range append(append(slices.Clone(vocabulary), arrows[root]...), root) {
			fmt.Fprintf(&b, "            - %s%s$\n            - %s%s/\n", module, dep, module, dep)
		}
	}
	return b.String()
}
