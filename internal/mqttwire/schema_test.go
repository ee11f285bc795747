package mqttwire

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"boxd/internal/asset"
)

var update = flag.Bool("update", false, "write docs/schemas anew from the code")

const docs = "../../docs"

// messages says for every payload which schema describes it and which examples show it.
var messages = []struct {
	name     string
	payload  Checker
	examples []string
	limit    int
}{
	{"state", &State{}, []string{"state", "state-will"}, MaxPayload},
	{"reported", &Reported{}, []string{"reported"}, MaxPayload},
	{"tele", &Tele{}, []string{"tele"}, MaxPayload},
	{"event", &Event{}, []string{"event-arrived", "event-erased"}, MaxPayload},
	{"event-ack", &EventAck{}, []string{"event-ack"}, MaxPayload},
	{"command-ack", &CommandAck{}, []string{"command-ack-accepted", "command-ack-done", "command-ack-failed"}, MaxPayload},
	{"desired", &Desired{}, []string{"desired"}, MaxDesired},
	{"command", &Command{}, []string{"command"}, MaxPayload},
	{"holdings", &HoldingsList{}, []string{"holdings"}, MaxHoldings},
}

// enums are the words that a field may have, where the code knows all of them.
var enums = map[string][]string{
	"AssetProgress.State": {Accepted, Fetching, Verified, Ready, Rejected, Failed},
	"CommandAck.Status":   {StatusAccepted, StatusDone, StatusFailed},
}

func schemaOf(t reflect.Type, at string) map[string]any {
	switch t {
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[asset.ID]():
		return map[string]any{"type": "string", "pattern": "^[0-9a-f]{40}$"}
	case reflect.TypeFor[json.RawMessage]():
		return map[string]any{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), at)
	case reflect.Struct:
		return structSchema(t)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), at)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), at)}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Uint64, reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.String:
		s := map[string]any{"type": "string", "maxLength": MaxText}
		if words := enums[at]; words != nil {
			s["enum"] = words
		}
		return s
	}
	panic("no schema for " + t.String())
}

func structSchema(t reflect.Type) map[string]any {
	props, required := map[string]any{}, []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			inner := structSchema(f.Type)
			for k, v := range inner["properties"].(map[string]any) {
				props[k] = v
			}
			required = append(required, inner["required"].([]string)...)
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		props[name] = schemaOf(f.Type, t.Name()+"."+f.Name)
		if name == "v" {
			props[name] = map[string]any{"const": Version}
		}
		if opts == "" {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "properties": props, "required": required}
}

// strictly makes what an operations key signs refuse keys that are not known, as the box does.
func strictly(s map[string]any) {
	s["additionalProperties"] = false
	for name, p := range s["properties"].(map[string]any) {
		if m, ok := p.(map[string]any); ok && m["properties"] != nil && name != "args" {
			strictly(m)
		}
	}
}

func schemaFile(name string, payload Checker) []byte {
	s := structSchema(reflect.TypeOf(payload).Elem())
	s["$schema"], s["$id"], s["title"] = "https://json-schema.org/draft/2020-12/schema", "urn:boxd:mqtt:v1:"+name, name
	if name == "desired" || name == "command" {
		strictly(s)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func TestSchemasAreThoseOfTheCode(t *testing.T) {
	for _, m := range messages {
		path := filepath.Join(docs, "schemas", m.name+".json")
		want := schemaFile(m.name, m.payload)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from the code: go test ./internal/mqttwire -run Schemas -update (%v)", path, err)
		}
	}
}

func compile(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile(filepath.Join(docs, "schemas", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, data []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// Both sides against the schemas: the examples, what the code writes after reading them, and what both must refuse.
func TestExamplesAndCodeSatisfyTheSchemas(t *testing.T) {
	for _, m := range messages {
		s := compile(t, m.name)
		for _, example := range m.examples {
			data, err := os.ReadFile(filepath.Join("testdata", "examples", example+".json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(t, s, data); err != nil {
				t.Errorf("example %s: %v", example, err)
			}
			into, ok := reflect.New(reflect.TypeOf(m.payload).Elem()).Interface().(Checker)
			if !ok {
				t.Fatalf("%T", m.payload)
			}
			if err := Decode(data, m.limit, into); err != nil {
				t.Fatalf("example %s: %v", example, err)
			}
			out, err := Encode(m.limit, into)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(t, s, out); err != nil {
				t.Errorf("what the code writes for %s: %v", example, err)
			}
			var doc map[string]any
			if err := json.Unmarshal(data, &doc); err != nil {
				t.Fatal(err)
			}
			doc["v"] = 2
			other, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			if validate(t, s, other) == nil || Decode(other, m.limit, into) == nil {
				t.Errorf("%s of version 2 is accepted", example)
			}
		}
	}
}

var fence = regexp.MustCompile("(?s)<!-- example: ([a-z-]+) -->\n```json\n(.*?)```")

func TestTheDocumentShowsTheExamples(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(docs, "mqtt.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		shown[m[1]] = true
		want, err := os.ReadFile(filepath.Join("testdata", "examples", m[1]+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if m[2] != string(want) {
			t.Errorf("docs/mqtt.md shows another %s than testdata/examples", m[1])
		}
	}
	for _, m := range messages {
		for _, e := range m.examples {
			if !shown[e] {
				t.Errorf("docs/mqtt.md does not show %s", e)
			}
		}
	}
	for _, c := range Commands {
		if !strings.Contains(string(text), "`"+c+"`") {
			t.Errorf("docs/mqtt.md does not name the command %s", c)
		}
	}
}

var (
	addressLine = regexp.MustCompile(`(?m)^    address: (\S+)$`)
	refLine     = regexp.MustCompile(`\$ref: \./schemas/([a-z-]+)\.json`)
)

// The AsyncAPI document names the topics and the schemas of the code, all of them and no others.
func TestTheAsyncAPIDocumentAgreesWithTheCode(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(docs, "asyncapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[Kind]bool{}
	groups := 0
	for _, m := range addressLine.FindAllStringSubmatch(string(text), -1) {
		topic := strings.NewReplacer("{fleet}", "f", "{box}", "b", "{group}", "g", "{number}", "7", "{command}", "c").Replace(m[1])
		p, err := ParseTopic(topic)
		if err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
		kinds[p.Kind] = true
		if p.Group != "" {
			groups++
		}
	}
	for _, k := range []Kind{KindState, KindReported, KindTele, KindEvent, KindEventAck, KindDesired, KindCommand, KindCmdAck} {
		if !kinds[k] {
			t.Errorf("no channel for %s", k)
		}
	}
	if groups != 1 {
		t.Errorf("%d channels for groups", groups)
	}
	refs := map[string]bool{}
	for _, m := range refLine.FindAllStringSubmatch(string(text), -1) {
		refs[m[1]] = true
		if _, err := os.Stat(filepath.Join(docs, "schemas", m[1]+".json")); err != nil {
			t.Error(err)
		}
	}
	for _, m := range messages {
		if m.name != "holdings" && !refs[m.name] { // holdings go by HTTPS
			t.Errorf("no message has the schema %s", m.name)
		}
	}
	for _, line := range []string{"asyncapi: 3.0.0", fmt.Sprintf("x-max-bytes: %d", MaxDesired)} {
		if !strings.Contains(string(text), line) {
			t.Errorf("asyncapi.yaml does not say %q", line)
		}
	}
}
