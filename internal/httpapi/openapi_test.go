package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/control"
)

// docFiles are written from the code and compared with it: BOXD_UPDATE=1 go test ./internal/httpapi writes them.
const (
	openapiFile = "../../docs/openapi-box.yaml"
	metricsFile = "../../docs/metrics.md"
)

// operation is one row of the interface.
type operation struct {
	method, path, tag, summary string
	query                      string // name: description
	body, answer               any    // values of the types
	media                      string // of an answer that is not JSON
	also                       string // other statuses
	write                      bool
}

type assetList struct {
	Assets []control.Asset `json:"assets"`
}

type statusAnswer struct {
	Status string `json:"status"`
}

var operations = []operation{
	{
		method: "get", path: "/api/v1/status", tag: "look", summary: "The whole box at one moment",
		answer: control.Snapshot{},
	},
	{
		method: "get", path: "/api/v1/events", tag: "look", media: "text/event-stream",
		summary: "The status as server-sent events named status: one at once, then at most one a " +
			"second when something has changed",
	},
	{
		method: "get", path: "/api/v1/assets", tag: "look", summary: "The assets that are here or coming",
		answer: assetList{},
	},
	{
		method: "get", path: "/api/v1/assets/{id}", tag: "look",
		summary: "One asset with all its files, by id, name or the beginning of one",
		answer:  control.Asset{}, also: "404",
	},
	{
		method: "get", path: "/api/v1/history", tag: "look",
		summary: "What moved in the last ten minutes and the last day", answer: control.History{},
	},
	{
		method: "get", path: "/api/v1/schedule", tag: "look", summary: "The schedule played forward",
		query:  "hours: 1 to 48; 24 when absent",
		answer: control.Day{}, also: "400",
	},
	{
		method: "get", path: "/api/v1/bugreport", tag: "help", media: "application/gzip", write: true,
		summary: "A .tar.gz of what an engineer needs to see, without secrets; needs the token",
	},
	{
		method: "get", path: "/api/v1/pairing", tag: "help",
		summary: "The code that a phone of the home needs for the read-only page", answer: pairingAnswer{},
	},
	{
		method: "post", path: "/api/v1/commands", tag: "change", write: true, body: control.Command{},
		answer: control.Result{}, also: "400 404 409",
		summary: "Run a command: refresh, pin, unpin, evict, verify, pause, resume, log-tail, " +
			"diagnose, set-limits, renew-certificate",
	},
	{
		method: "post", path: "/api/v1/playback", tag: "change", write: true, body: leaseRequest{}, answer: leaseAnswer{},
		also: "400",
		summary: "Say that a player is at work for the given seconds (at most 6 h): boxd holds back until then. " +
			"Each player that gives its name has a lease of its own",
	},
	{
		method: "delete", path: "/api/v1/playback", tag: "change", write: true, answer: leaseAnswer{},
		query: "player: the name that began it; without one when absent", summary: "End that lease",
	},
	{
		method: "get", path: "/assets/{id}/{path}", tag: "play", media: "application/octet-stream",
		also: "206 304 404 416 503",
		summary: "A file of an asset, with ranges and ETag (RFC 9110); bytes that are not here " +
			"yet are fetched first, and waited for",
	},
	{method: "get", path: "/metrics", tag: "watch", media: "text/plain", summary: "Metrics in Prometheus' text format"},
	{
		method: "get", path: "/healthz", tag: "watch", summary: "Whether the services answer", answer: statusAnswer{},
		also: "503",
	},
	{
		method: "get", path: "/readyz", tag: "watch", summary: "Whether the box is enrolled and has a catalog",
		answer: statusAnswer{}, also: "503",
	},
}

// comments holds what the source says about types and fields: "control.Asset" and "control.Asset.Name".
func comments(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range []string{".", "../control", "../health"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				if g, ok := d.(*ast.GenDecl); ok {
					noteTypes(out, f.Name.Name, g)
				}
			}
		}
	}
	return out
}

func noteTypes(out map[string]string, pkg string, g *ast.GenDecl) {
	for _, spec := range g.Specs {
		ts, ok := spec.(*ast.TypeSpec)
		if !ok {
			continue
		}
		name := pkg + "." + ts.Name.Name
		out[name] = strings.TrimSpace(g.Doc.Text())
		st, ok := ts.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range st.Fields.List {
			for _, n := range f.Names {
				out[name+"."+n.Name] = strings.TrimSpace(f.Comment.Text())
			}
		}
	}
}

// generator writes schemas of Go types as YAML.
type generator struct {
	docs  map[string]string
	types map[string]reflect.Type
}

func (g *generator) ref(t reflect.Type) string {
	g.types[schemaName(t)] = t
	return "{$ref: '#/components/schemas/" + schemaName(t) + "'}"
}

func schemaName(t reflect.Type) string {
	name := t.Name()
	return strings.ToUpper(name[:1]) + name[1:]
}

func (g *generator) typeOf(t reflect.Type, doc string) string {
	desc := ""
	if doc != "" {
		desc = ", description: " + strconv.Quote(doc)
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "{type: string, format: date-time" + desc + "}"
	case t == reflect.TypeFor[asset.ID]():
		return "{type: string, pattern: '^[0-9a-f]{40}$'" + desc + "}"
	case t == reflect.TypeFor[json.RawMessage]():
		return "{" + strings.TrimPrefix(desc, ", ") + "}"
	}
	switch t.Kind() { //nolint:exhaustive // the kinds that the answers have
	case reflect.Pointer:
		return "{type: [integer, 'null'], format: int64" + desc + "}"
	case reflect.String:
		return "{type: string" + desc + "}"
	case reflect.Bool:
		return "{type: boolean" + desc + "}"
	case reflect.Int, reflect.Int64:
		return "{type: integer, format: int64" + desc + "}"
	case reflect.Float64:
		return "{type: number" + desc + "}"
	case reflect.Slice:
		return "{type: array, items: " + g.typeOf(t.Elem(), "") + desc + "}"
	case reflect.Struct:
		if t.Name() == "" {
			return "{type: object" + desc + "}"
		}
		return g.ref(t)
	}
	return "{}"
}

func (g *generator) schema(out *bytes.Buffer, t reflect.Type) {
	pkg := filepath.Base(t.PkgPath())
	fmt.Fprintf(out, "    %s:\n      type: object\n", schemaName(t))
	if doc := g.docs[pkg+"."+t.Name()]; doc != "" {
		fmt.Fprintf(out, "      description: %q\n", strings.Join(strings.Fields(doc), " "))
	}
	var required []string
	props := &bytes.Buffer{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		if opts == "" {
			required = append(required, name)
		}
		fmt.Fprintf(props, "        %s: %s\n", name, g.typeOf(f.Type, g.docs[pkg+"."+t.Name()+"."+f.Name]))
	}
	if len(required) > 0 {
		fmt.Fprintf(out, "      required: [%s]\n", strings.Join(required, ", "))
	}
	fmt.Fprintf(out, "      properties:\n%s", props)
}

const openapiHead = `# Written from the code by BOXD_UPDATE=1 go test ./internal/httpapi; the same test fails when it is out of date.
openapi: 3.1.0
info:
  title: boxd on the box
  version: "1"
  description: >-
    What boxd serves on a set-top box: on a loopback address to the programs of the box, and on a unix socket to its command
    line. The TCP server answers only to a loopback Host. Other web origins read nothing unless [http] origins names them.
    Writes need a JSON content type and, over TCP, the token of the box; on the socket root, the daemon's own user or the group
    boxd-admin. Fields are only added within one schema number.
servers:
  - url: http://127.0.0.1:8480
paths:
`

func (g *generator) paths(out *bytes.Buffer) {
	seen := ""
	for _, op := range operations {
		if op.path != seen {
			fmt.Fprintf(out, "  %s:\n", op.path)
			seen = op.path
		}
		fmt.Fprintf(out, "    %s:\n      tags: [%s]\n      summary: %q\n      operationId: %s\n", op.method, op.tag,
			op.summary, operationID(op))
		if op.write {
			out.WriteString("      security: [{token: []}]\n")
		}
		g.parameters(out, op)
		if op.body != nil {
			fmt.Fprintf(out,
				"      requestBody:\n        required: true\n        content: {application/json: {schema: %s}}\n",
				g.ref(reflect.TypeOf(op.body)))
		}
		out.WriteString("      responses:\n")
		if op.answer != nil {
			fmt.Fprintf(out, "        '200': {description: %q, content: {application/json: {schema: %s}}}\n", op.summary,
				g.ref(reflect.TypeOf(op.answer)))
		} else {
			fmt.Fprintf(out, "        '200': {description: %q, content: {%s: {}}}\n", op.summary, op.media)
		}
		for _, code := range strings.Fields(op.also) {
			n, _ := strconv.Atoi(code)
			if n < 400 {
				fmt.Fprintf(out, "        '%s': {description: %q}\n", code, http.StatusText(n))
			} else {
				fmt.Fprintf(out, "        '%s': {description: %q, content: {application/json: {schema: %s}}}\n", code,
					http.StatusText(n), g.ref(reflect.TypeFor[apiError]()))
			}
		}
	}
}

func operationID(op operation) string {
	parts := strings.FieldsFunc(strings.TrimPrefix(op.path, "/api/v1"),
		func(r rune) bool { return strings.ContainsRune("/{}", r) })
	return op.method + "-" + strings.Join(parts, "-")
}

func (g *generator) parameters(out *bytes.Buffer, op operation) {
	var list []string
	for part := range strings.SplitSeq(op.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			list = append(list, fmt.Sprintf("{name: %s, in: path, required: true, schema: {type: string}}",
				strings.TrimSuffix(name, "}")))
		}
	}
	if name, doc, ok := strings.Cut(op.query, ": "); ok {
		kind := "integer"
		if name == "player" {
			kind = "string"
		}
		list = append(list, fmt.Sprintf("{name: %s, in: query, description: %q, schema: {type: %s}}", name, doc, kind))
	}
	if len(list) > 0 {
		fmt.Fprintf(out, "      parameters:\n        - %s\n", strings.Join(list, "\n        - "))
	}
}

func generateOpenAPI(t *testing.T) []byte {
	t.Helper()
	g := &generator{docs: comments(t), types: map[string]reflect.Type{}}
	out := bytes.NewBufferString(openapiHead)
	g.paths(out)
	out.WriteString("components:\n  securitySchemes:\n    token: {type: http, scheme: bearer, " +
		"description: \"The content of <state>/http.token.\"}\n  schemas:\n")
	done := map[string]bool{}
	body := map[string]string{}
	for {
		var next string
		for name := range g.types {
			if !done[name] && (next == "" || name < next) {
				next = name
			}
		}
		if next == "" {
			break
		}
		done[next] = true
		var one bytes.Buffer
		g.schema(&one, g.types[next])
		body[next] = one.String()
	}
	names := make([]string, 0, len(body))
	for name := range body {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		out.WriteString(body[name])
	}
	return out.Bytes()
}

func generateMetrics() []byte {
	var out bytes.Buffer
	out.WriteString(`# Metrics of a box

` + "`GET /metrics` on the box's loopback address gives these in Prometheus' text format. Units are base units; there is no label\n" +
		"per asset and none per box, so the number of series does not grow with what a box holds. This page is written from the code.\n" + `
| name | type | labels | meaning |
|---|---|---|---|
`)
	for _, m := range families {
		labels := map[string]bool{}
		for _, s := range m.samples(&control.Snapshot{}) {
			if name, _, ok := strings.Cut(s.label, "="); ok {
				labels[name] = true
			}
		}
		names := make([]string, 0, 1)
		for l := range labels {
			names = append(names, "`"+l+"`")
		}
		sort.Strings(names)
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(names, ", "), m.help)
	}
	return out.Bytes()
}

func TestDocumentsSayWhatTheCodeDoes(t *testing.T) {
	for file, want := range map[string][]byte{openapiFile: generateOpenAPI(t), metricsFile: generateMetrics()} {
		if os.Getenv("BOXD_UPDATE") != "" {
			if err := os.WriteFile(file, want, 0o644); err != nil { //nolint:gosec // a document
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("%s is out of date: BOXD_UPDATE=1 go test ./internal/httpapi", file)
		}
	}
}

// TestEveryOperationIsServed asks for each row of the document.
func TestEveryOperationIsServed(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	for _, op := range operations {
		if op.path == "/api/v1/events" {
			continue // has its own test, and does not end
		}
		path := strings.NewReplacer("{id}", s.box.id.String(), "{path}", "film.mp4").Replace(op.path)
		c := call{
			method: strings.ToUpper(op.method), url: s.base + path,
			header: map[string]string{"Content-Type": "application/json"},
		}
		if op.write {
			resp, _ := c.do(t)
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s without the token: %s", op.method, op.path, resp.Status)
			}
			c.header["Authorization"] = "Bearer " + testToken
		}
		switch op.body.(type) {
		case control.Command:
			c.body = `{"name":"refresh"}`
		case leaseRequest:
			c.body = `{"seconds":5}`
		}
		resp, body := c.do(t)
		if resp.StatusCode != http.StatusOK && op.path != "/readyz" {
			t.Errorf("%s %s: %s %s", op.method, op.path, resp.Status, body)
		}
		kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		if op.answer != nil && kind != "application/json" || op.answer == nil && op.tag != "play" && kind != op.media {
			t.Errorf("%s %s: %s", op.method, op.path, kind)
		}
		if op.answer != nil && resp.StatusCode == http.StatusOK {
			v := reflect.New(reflect.TypeOf(op.answer))
			d := json.NewDecoder(strings.NewReader(body))
			d.DisallowUnknownFields()
			if err := d.Decode(v.Interface()); err != nil {
				t.Errorf("%s %s: not what the document says: %v", op.method, op.path, err)
			}
		}
	}
}
