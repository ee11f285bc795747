package api

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var route = regexp.MustCompile(`s\.on\("(\w+) (\S+)", (\w+), s\.(\w+)\)`)

// The document names every route with its role, and no others.
func TestTheOpenAPIDocumentAgreesWithTheRoutes(t *testing.T) {
	doc, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]string{} // "GET /path" → role
	path, method := "", ""
	for _, line := range strings.Split(string(doc), "\n") {
		switch {
		case strings.HasPrefix(line, "  /"):
			path = strings.TrimSuffix(strings.TrimSpace(line), ":")
		case path != "" && regexp.MustCompile(`^    (get|put|post|delete):$`).MatchString(line):
			method = strings.ToUpper(strings.TrimSuffix(strings.TrimSpace(line), ":"))
		case strings.HasPrefix(line, "      x-role: "):
			described[method+" "+path] = strings.TrimPrefix(line, "      x-role: ")
		}
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	routes := map[string]string{}
	for _, name := range sources {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range route.FindAllStringSubmatch(string(text), -1) {
			if !strings.HasPrefix(m[2], "/data/") { // the dashboard's own
				routes[m[1]+" "+m[2]] = strings.ToLower(m[3])
			}
		}
	}
	if len(routes) < 30 {
		t.Fatalf("only %d routes found", len(routes))
	}
	for r, role := range routes {
		if described[r] != role {
			t.Errorf("%s needs the role %q, openapi.yaml says %q", r, role, described[r])
		}
	}
	for r := range described {
		if _, ok := routes[r]; !ok {
			t.Errorf("openapi.yaml describes %s, which is no route", r)
		}
	}
}
