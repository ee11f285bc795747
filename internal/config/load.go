package config

import (
	"encoding"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// MaxFileBytes bounds a configuration file.
const MaxFileBytes = 1 << 20

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	File string // "" for an environment variable
	Line int    // 0 when the fault is in no line, as with a key that is missing
	Key  string // "cache.quota", or the variable's name
	Text string
}

func (f Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File + ":")
		if f.Line > 0 {
			b.WriteString(strconv.Itoa(f.Line) + ":")
		}
		b.WriteString(" ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Text)
	return b.String()
}

// Faults is all that is wrong, in the order of the file.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads the file and lays the environment (os.Environ's form) over it. Its error is Faults when the content is
// at fault.
func Load(file string, environ []string) (*Config, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if st.Size() > MaxFileBytes {
		return nil, Faults{{File: file, Text: fmt.Sprintf("%d bytes, more than %d", st.Size(), MaxFileBytes)}}
	}
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(file, text, environ)
}

// Parse is Load for text that is already in memory.
func Parse(file string, text []byte, environ []string) (*Config, error) {
	c := Default()
	d := decoder{file: file, lines: keyLines(string(text))}
	tree := map[string]any{}
	if _, err := toml.Decode(string(text), &tree); err != nil {
		return nil, Faults{syntaxFault(file, err)}
	}
	d.table(tree, reflect.ValueOf(&c).Elem(), "")
	d.environ(environ, reflect.ValueOf(&c).Elem())
	for _, f := range c.Validate() {
		if !d.at[f.Key] { // a value that could not be read is told once
			if name, set := d.env[f.Key]; set { // the file is not to blame
				f.Key = name
			} else {
				f.File, f.Line = file, d.lines[f.Key]
			}
			d.faults = append(d.faults, f)
		}
	}
	if len(d.faults) > 0 {
		sort.SliceStable(d.faults, func(i, j int) bool { return d.faults[i].Line < d.faults[j].Line })
		return nil, d.faults
	}
	return &c, nil
}

func syntaxFault(file string, err error) Fault {
	var pe toml.ParseError
	if errors.As(err, &pe) {
		line := pe.Position.Line
		if strings.HasSuffix(pe.Message, `got '\n' instead`) {
			line-- // the parser has already counted the line break that it stumbled over
		}
		return Fault{File: file, Line: line, Text: "not TOML: " + pe.Message}
	}
	return Fault{File: file, Text: "not TOML: " + err.Error()}
}

type decoder struct {
	file   string
	lines  map[string]int
	at     map[string]bool   // keys with a fault
	env    map[string]string // keys that the environment has set, and by which variable
	faults Faults
}

func (d *decoder) fault(file, key, format string, args ...any) {
	if d.at == nil {
		d.at = map[string]bool{}
	}
	d.at[key] = true
	f := Fault{File: file, Key: key, Text: fmt.Sprintf(format, args...)}
	if file != "" {
		f.Line = d.lines[key]
	}
	d.faults = append(d.faults, f)
}

func (d *decoder) table(tree map[string]any, v reflect.Value, prefix string) {
	fields := fieldsOf(v)
	for key, val := range tree {
		name := prefix + key
		field, ok := fields[key]
		if !ok {
			d.fault(d.file, name, "unknown key%s", suggest(key, fields))
			continue
		}
		if _, leaf := field.Addr().Interface().(encoding.TextUnmarshaler); !leaf && field.Kind() == reflect.Struct {
			sub, ok := val.(map[string]any)
			if !ok {
				d.fault(d.file, name, "want a table [%s], have %s", name, kindName(val))
				continue
			}
			d.table(sub, field, name+".")
			continue
		}
		if err := set(field, val); err != nil {
			d.fault(d.file, name, "%v", err)
		}
	}
}

// environ reads BOXD_<SECTION>_<KEY>; lists are separated by commas. Other programs and tests have BOXD_ variables of their
// own, so an unknown one is a fault only when it looks like a known one misspelt.
func (d *decoder) environ(environ []string, root reflect.Value) {
	known, keys := map[string]reflect.Value{}, map[string]string{}
	d.env = map[string]string{}
	for section, v := range fieldsOf(root) {
		for key, field := range fieldsOf(v) {
			name := "BOXD_" + strings.ToUpper(section+"_"+key)
			known[name], keys[name] = field, section+"."+key
		}
	}
	for _, kv := range environ {
		name, val, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "BOXD_") || reservedEnv[name] {
			continue
		}
		field, ok := known[name]
		if !ok {
			if like := suggest(name, known); like != "" {
				d.fault("", name, "unknown environment variable%s", like)
			}
			continue
		}
		if err := set(field, fromEnv(field, val)); err != nil {
			d.fault("", name, "%v", err)
			continue
		}
		d.env[keys[name]] = name
	}
}

// reservedEnv are read by the command line and are no configuration keys.
var reservedEnv = map[string]bool{"BOXD_CONFIG": true, "BOXD_SOCKET": true}

func fromEnv(field reflect.Value, s string) any {
	switch {
	case field.Kind() == reflect.Slice:
		list := []any{}
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		return list
	case field.Kind() == reflect.Bool:
		if b, err := strconv.ParseBool(s); err == nil {
			return b
		}
	case field.Kind() == reflect.Int:
		if n, err := strconv.ParseInt(s, 10, 32); err == nil {
			return n
		}
	}
	return s
}

func set(field reflect.Value, val any) error {
	if u, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		switch x := val.(type) {
		case string:
			return u.UnmarshalText([]byte(x))
		case int64:
			if _, isTime := u.(*Duration); isTime && x != 0 {
				return errors.New(`want a duration with a unit, like "90s"`)
			}
			return u.UnmarshalText([]byte(strconv.FormatInt(x, 10)))
		case float64:
			if _, isRatio := u.(*Ratio); isRatio {
				return u.UnmarshalText([]byte(strconv.FormatFloat(x, 'g', -1, 64)))
			}
			return fmt.Errorf("want a string with a unit, have %s", kindName(val))
		default:
			return fmt.Errorf("want a string with a unit, have %s", kindName(val))
		}
	}
	switch field.Kind() { //nolint:exhaustive // the kinds that Config has
	case reflect.String:
		if s, ok := val.(string); ok {
			field.SetString(s)
			return nil
		}
		return fmt.Errorf("want a string, have %s", kindName(val))
	case reflect.Bool:
		if b, ok := val.(bool); ok {
			field.SetBool(b)
			return nil
		}
		return fmt.Errorf("want true or false, have %s", kindName(val))
	case reflect.Int:
		if n, ok := val.(int64); ok && n >= -1<<31 && n < 1<<31 {
			field.SetInt(n)
			return nil
		}
		return fmt.Errorf("want a whole number, have %s", kindName(val))
	case reflect.Slice:
		return setStrings(field, val)
	default:
		return fmt.Errorf("cannot hold %s", kindName(val))
	}
}

func setStrings(field reflect.Value, val any) error {
	items, ok := val.([]any)
	if !ok {
		return fmt.Errorf("want a list of strings, have %s", kindName(val))
	}
	list := make([]string, 0, len(items))
	for i, it := range items {
		s, ok := it.(string)
		if !ok {
			return fmt.Errorf("item %d: want a string, have %s", i+1, kindName(it))
		}
		list = append(list, s)
	}
	field.Set(reflect.ValueOf(list))
	return nil
}

func kindName(v any) string {
	switch x := v.(type) {
	case string:
		return fmt.Sprintf("the string %.40q", x)
	case bool:
		return strconv.FormatBool(x)
	case int64, float64:
		return fmt.Sprintf("the number %v", x)
	case []any:
		return "a list"
	case map[string]any, []map[string]any:
		return "a table"
	default:
		return "a date"
	}
}

func fieldsOf(v reflect.Value) map[string]reflect.Value {
	m := make(map[string]reflect.Value, v.NumField())
	for i := range v.NumField() {
		m[v.Type().Field(i).Tag.Get("toml")] = v.Field(i)
	}
	return m
}
