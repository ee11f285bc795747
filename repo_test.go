// Package boxd_test holds the rules that the whole tree keeps, as tests that need nothing but Go.
package boxd_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Of a Go file; most are far shorter.
const maxLines, maxTestLines = 500, 700

// source is one Go file of the tree.
type source struct {
	path  string // slash-separated, from the root
	pkg   string // its folder
	test  bool
	text  string
	tree  *ast.File
	fset  *token.FileSet
	lines int
}

func (s source) at(n ast.Node) string { return s.fset.Position(n.Pos()).String() }

// line is the source line where a node begins.
func (s source) line(n ast.Node) string {
	return strings.Split(s.text, "\n")[s.fset.Position(n.Pos()).Line-1]
}

// boxSide says whether the file is linked into the box.
func (s source) boxSide() bool {
	return s.pkg == "cmd/boxd" || slices.ContainsFunc(slices.Concat(boxSide, vocabulary), func(root string) bool {
		return under(s.pkg, root)
	})
}

func under(pkg, root string) bool { return pkg == root || strings.HasPrefix(pkg, root+"/") }

// walk calls f for every file of the tree that is ours: no build output, nothing that stands in for a module.
func walk(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case ".git", "bin", "out", "dist", "third_party":
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			f(filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".go") || strings.HasPrefix(path, "build/tools/") ||
			under(path, "internal/warm") {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := source{path: path, pkg: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(path, "_test.go")}
		s.text, s.lines, s.fset = string(text), strings.Count(string(text), "\n"), token.NewFileSet()
		if s.tree, err = parser.ParseFile(s.fset, path, text, parser.ParseComments); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	})
	if len(all) < 10 {
		t.Fatalf("only %d Go files found: the test runs in the wrong folder", len(all))
	}
	return all
}

func (s source) imports() []string {
	var paths []string
	for _, spec := range s.tree.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		paths = append(paths, path)
	}
	return paths
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	said, files := map[string]bool{}, map[string]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		files[s.pkg] = s.path
		if s.tree.Doc != nil && len(s.tree.Doc.Text()) > 40 {
			said[s.pkg] = true
		}
	}
	for pkg, file := range files {
		if !said[pkg] {
			t.Errorf("package %s has no package comment that says its purpose (looked at %s and beside it)", pkg, file)
		}
	}
}

func TestFilesStayShort(t *testing.T) {
	for _, s := range sources(t) {
		limit := maxLines
		if s.test {
			limit = maxTestLines
		}
		if s.lines > limit && !strings.Contains(s.text, "\n// Code generated ") {
			t.Errorf("%s has %d lines, more than %d: split it by what it does", s.path, s.lines, limit)
		}
	}
}

// forbiddenImports are imports that a part of the tree must not have, and why.
var forbiddenImports = []struct {
	path, why string
	in        func(source) bool
}{
	{"net/http/pprof", "it serves the inside of the process", func(s source) bool { return true }},
	{"os/exec", "nothing on the box runs another program", func(s source) bool { return s.boxSide() && !s.test }},
	{"github.com/prometheus/client_golang", "too heavy for the box", source.boxSide},
	{"github.com/nats-io", "the box speaks MQTT only", func(s source) bool { return s.boxSide() && !s.test }},
	{"modernc.org/sqlite", "the box has bbolt", source.boxSide},
	{"log", "the box logs through an injected slog.Logger", func(s source) bool {
		return s.boxSide() && !s.test && s.pkg != "cmd/boxd" // which silences the loggers of libraries
	}},
}

func TestForbiddenImports(t *testing.T) {
	for _, s := range sources(t) {
		for _, path := range s.imports() {
			for _, f := range forbiddenImports {
				if under(path, f.path) && f.in(s) && !(f.path == "log" && path != "log") {
					t.Errorf("%s imports %s: %s", s.path, path, f.why)
				}
			}
		}
	}
}

// forbiddenCalls are package-level functions that must not be used outside tests, and why.
var forbiddenCalls = map[string]string{
	"log.Fatal": "return an error", "log.Fatalf": "return an error", "log.Fatalln": "return an error",
	"log.Panic": "return an error", "log.Panicf": "return an error",
	"http.Handle":            "it registers on http.DefaultServeMux, where a dependency puts pprof",
	"http.HandleFunc":        "it registers on http.DefaultServeMux, where a dependency puts pprof",
	"http.ListenAndServe":    "build an http.Server with timeouts and a handler of its own",
	"http.ListenAndServeTLS": "build an http.Server with timeouts and a handler of its own",
	"http.DefaultServeMux":   "a dependency puts pprof there",
	"http.Get":               "it has no timeout and no fleet CA",
	"http.Post":              "it has no timeout and no fleet CA",
}

func TestForbiddenCalls(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !s.boxSide() && !under(s.pkg, "internal/fleet") {
			continue
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok {
					if why := forbiddenCalls[x.Name+"."+n.Sel.Name]; why != "" {
						t.Errorf("%s: %s.%s: %s", s.at(n), x.Name, n.Sel.Name, why)
					}
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "panic" && s.tree.Name.Name != "main" && s.boxSide() {
					t.Errorf("%s: panic outside main: return an error", s.at(n))
				}
			}
			return true
		})
	}
}

func TestUnitTestsDoNotSleep(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test || !s.boxSide() || slices.Contains(s.imports(), "testing/synctest") ||
			strings.HasSuffix(s.path, "bench_test.go") {
			continue // inside a synctest bubble a sleep takes no time
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && !strings.Contains(s.line(n), "//") {
					t.Errorf("%s: time.Sleep in a unit test: use testing/synctest, wait on a channel, or say beside it why not", s.at(n))
				}
			}
			return true
		})
	}
}

// leaks are texts of a development machine that nothing in the tree may name. They are put together here, so that this
// file does not hold them either.
var leaks = regexp.MustCompile(`/work` + `/(main|shared|\.library)|/tmp` + `/brief|proxy\.golang` + `\.org|` +
	`(?i)\bissue` + ` #?[0-9]+\b[^/]`)

func TestNothingLocalIsNamed(t *testing.T) {
	walk(t, func(path string) {
		info, err := os.Stat(path)
		if err != nil || info.Size() > 2<<20 {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil || strings.ContainsRune(string(text), 0) {
			return
		}
		for i, line := range strings.Split(string(text), "\n") {
			if m := leaks.FindString(line); m != "" {
				t.Errorf("%s:%d names %q, which means nothing to a reader of this tree", path, i+1, m)
			}
		}
	})
}

// TestEveryHealthCodeIsExplained: each code that the source raises has one section in docs/operating.md, and each section
// there belongs to a code.
func TestEveryHealthCodeIsExplained(t *testing.T) {
	doc, err := os.ReadFile("docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^### `([a-z0-9-]+)`").FindAllStringSubmatch(string(doc), -1) {
		if explained[m[1]] {
			t.Errorf("docs/operating.md explains %q twice", m[1])
		}
		explained[m[1]] = true
	}
	raised := healthCodes(t)
	for code, where := range raised {
		if !explained[code] {
			t.Errorf("%s raises %q, which docs/operating.md does not explain (### `%s`)", where, code, code)
		}
	}
	for code := range explained {
		if raised[code] == "" {
			t.Errorf("docs/operating.md explains %q, which nothing raises", code)
		}
	}
}

// healthCodes finds every health.Warning literal with a code, be it a string or a constant of its package.
func healthCodes(t *testing.T) map[string]string {
	t.Helper()
	constants, codes, all := map[string]string{}, map[string]string{}, sources(t)
	for _, s := range all {
		ast.Inspect(s.tree, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Names) == len(v.Values) {
				for i, name := range v.Names {
					if lit, ok := v.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
						constants[s.pkg+" "+name.Name], _ = strconv.Unquote(lit.Value)
					}
				}
			}
			return true
		})
	}
	for _, s := range all {
		if s.test {
			continue
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && strings.Contains(strings.ToLower(lastName(call.Fun)), "raise") {
				for _, arg := range call.Args { // a helper that raises: its code is an argument
					if name, ok := arg.(*ast.Ident); ok && strings.HasPrefix(strings.ToLower(name.Name), "code") {
						if code := constants[s.pkg+" "+name.Name]; code != "" {
							codes[code] = s.at(call)
						}
					}
				}
			}
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if table, ok := lit.Type.(*ast.MapType); ok && isWarning(table.Value) {
				for _, e := range lit.Elts { // code → what to do
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						codes[constants[s.pkg+" "+lastName(kv.Key)]] = s.at(kv)
					}
				}
				return true
			}
			if !isWarning(lit.Type) {
				return true
			}
			for _, e := range lit.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok || fmt.Sprint(kv.Key) != "Code" {
					continue
				}
				switch v := kv.Value.(type) {
				case *ast.BasicLit:
					code, _ := strconv.Unquote(v.Value)
					codes[code] = s.at(lit)
				case *ast.Ident:
					if code := constants[s.pkg+" "+v.Name]; code != "" {
						codes[code] = s.at(lit)
					} // else a parameter of a helper, found at its calls
				}
			}
			return true
		})
	}
	return codes
}

func lastName(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	}
	return ""
}

func isWarning(x ast.Expr) bool {
	sel, ok := x.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Warning" && fmt.Sprint(sel.X) == "health"
}
