package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const minimal = "[fleet]\nurl = \"https://fleet.example:8443\"\n"

func faultsOf(t *testing.T, text string, env ...string) Faults {
	t.Helper()
	_, err := Parse("boxd.toml", []byte(text), env)
	var fs Faults
	if !errors.As(err, &fs) {
		t.Fatalf("error %v, want Faults", err)
	}
	return fs
}

func TestMinimalFileGetsTheDefaults(t *testing.T) {
	c, err := Parse("boxd.toml", []byte(minimal), []string{"HOME=/root", "BOXD_SOCKET=/x", "BOXD_TEST_X=1"})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Fleet.URL = "https://fleet.example:8443"
	if !reflect.DeepEqual(*c, want) {
		t.Errorf("have %+v\nwant %+v", *c, want)
	}
}

func TestEveryKeyCanBeSet(t *testing.T) {
	c, err := Load("testdata/full.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	def, have := reflect.ValueOf(Default()), reflect.ValueOf(*c)
	for i := range have.NumField() {
		for j := range have.Field(i).NumField() {
			name := have.Type().Field(i).Tag.Get("toml") + "." + have.Field(i).Type().Field(j).Tag.Get("toml")
			if name != "fleet.token" && reflect.DeepEqual(have.Field(i).Field(j).Interface(),
				def.Field(i).Field(j).Interface()) {
				t.Errorf("%s: the file did not change it from %v", name, def.Field(i).Field(j))
			}
		}
	}
	if c.Cache.Quota != 40<<30 || c.Limits.WANDown != (RateLimit{true, 2_500_000}) ||
		c.Cache.ScrubPeriod.Std() != 7*24*time.Hour {
		t.Errorf("units: %v %v %v", c.Cache.Quota, c.Limits.WANDown, c.Cache.ScrubPeriod)
	}
	if c.Location().String() != "Europe/Berlin" || len(c.PrefixList()) != 1 {
		t.Errorf("location %v, prefixes %v", c.Location(), c.PrefixList())
	}
}

func TestAllFaultsAtOnceWithTheirLines(t *testing.T) {
	fs := faultsOf(t, `[paths]
cache = "relative"
[fleet]
url = "http://plain"
tokn = "x"
[cache]
quota = "20 GiBs"
reserve = true
[http]
listen = "0.0.0.0:80"
max_players = "many"
[swrm]
listen = ":1"
[lan]
prefixes = ["192.168.0.0/16", "::/0"]
`, "BOXD_CACHE_QOTA=1GiB", "BOXD_LAN_MDNS=perhaps")
	got := fs.Error()
	for _, want := range []string{
		"boxd.toml:2: paths.cache:",
		"boxd.toml:4: fleet.url:",
		"boxd.toml:5: fleet.tokn: unknown key; did you mean token?",
		"boxd.toml:7: cache.quota: size",
		"boxd.toml:8: cache.reserve: want a string with a unit, have true",
		"boxd.toml:10: http.listen: \"0.0.0.0:80\" is not loopback",
		"boxd.toml:11: http.max_players: want a whole number",
		"boxd.toml:12: swrm: unknown key; did you mean swarm?",
		"boxd.toml:15: lan.prefixes: \"::/0\" is the whole internet",
		"BOXD_CACHE_QOTA: unknown environment variable; did you mean BOXD_CACHE_QUOTA?",
		"BOXD_LAN_MDNS: want true or false",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if len(fs) != 11 {
		t.Errorf("%d faults, want 11:\n%s", len(fs), got)
	}
}

// What is larger than any disk is a slip of the pen.
func TestAbsurdSizesAreRefused(t *testing.T) {
	fs := faultsOf(t, minimal+"[cache]\nquota = \"9000000000GB\"\nreserve = \"9223372036854774784\"\n")
	if len(fs) != 2 || fs[0].Key != "cache.quota" || fs[1].Key != "cache.reserve" || !strings.HasSuffix(fs[1].Text, "want at most 1024TiB") {
		t.Errorf("%v", fs)
	}
}

func TestSyntaxFaultHasItsLine(t *testing.T) {
	fs := faultsOf(t, minimal+"\n[cache\nquota = 1\n")
	if len(fs) != 1 || fs[0].Line != 4 {
		t.Errorf("%v", fs)
	}
}

func TestEnvironmentWins(t *testing.T) {
	c, err := Parse("f", []byte(minimal+"[cache]\nquota = \"1GiB\"\n"), []string{
		"BOXD_CACHE_QUOTA=2GiB", "BOXD_LAN_STATIC=10.0.0.2:6880, 10.0.0.3:6880", "BOXD_LAN_MDNS=false",
		"BOXD_SWARM_MAX_PEERS=7",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Cache.Quota != 2<<30 || len(c.LAN.Static) != 2 || c.LAN.MDNS || c.Swarm.MaxPeers != 7 {
		t.Errorf("%+v", c)
	}
}

// A value of the environment that is out of bounds is the variable's fault, not the file's.
func TestTheEnvironmentIsBlamedForItsValues(t *testing.T) {
	_, err := Parse("boxd.toml", []byte(minimal+"[cache]\nquota = \"1GiB\"\n"), []string{"BOXD_CACHE_QUOTA=1"})
	if err == nil || !strings.HasPrefix(err.Error(), "BOXD_CACHE_QUOTA: ") || strings.Contains(err.Error(), "boxd.toml") {
		t.Errorf("%v", err)
	}
}

func TestMissingFileIsAnOrdinaryError(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"), nil)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestUnits(t *testing.T) {
	for s, want := range map[string]int64{"20GiB": 20 << 30, "500MB": 500e6, "1.5KiB": 1536, "7": 7, " 3 B ": 3, "0": 0} {
		if v, err := ParseSize(s); err != nil || int64(v) != want {
			t.Errorf("size %q: %d, %v; want %d", s, v, err, want)
		}
	}
	for s, want := range map[string]int64{
		"20Mbit/s": 2_500_000, "2.5MB/s": 2_500_000, "8bit/s": 1,
		"512KiB/s": 512 << 10, "9": 9,
	} {
		if v, err := ParseRate(s); err != nil || int64(v) != want {
			t.Errorf("rate %q: %d, %v; want %d", s, v, err, want)
		}
	}
	for _, s := range []string{"", "GiB", "-1", "1e400", "NaN", "Inf", "9999999TiB", "20Mbit", "1 giraffe"} {
		if v, err := ParseSize(s); err == nil {
			t.Errorf("size %q read as %d", s, v)
		}
	}
	for v, want := range map[Size]string{20 << 30: "20GiB", 1536: "1536B", 0: "0B", 5 << 10: "5KiB"} {
		if v.String() != want {
			t.Errorf("%d prints as %q, want %q", int64(v), v, want)
		}
		if back, err := ParseSize(v.String()); err != nil || back != v {
			t.Errorf("%q reads back as %d, %v", v, back, err)
		}
	}
	for _, s := range []string{"-5s", "5", "d", "1x"} {
		if v, err := ParseDuration(s); err == nil {
			t.Errorf("duration %q read as %v", s, v)
		}
	}
}

func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(full), "BOXD_CACHE_QUOTA=1GiB")
	f.Add(minimal, "")
	f.Add("a.b.c = [[1],{x=2}]\n[[fleet]]\n", "BOXD_=")
	f.Fuzz(func(t *testing.T, text, env string) {
		c, err := Parse("f", []byte(text), []string{env})
		if (c == nil) == (err == nil) {
			t.Fatal("a config and an error, or neither")
		}
		if c != nil && len(c.Validate()) > 0 {
			t.Fatalf("returned an invalid config: %v", c.Validate())
		}
	})
}

// TestDocumentHasEveryKey compares docs/config.md with the code, key by key, with the defaults of those that are written plainly.
func TestDocumentHasEveryKey(t *testing.T) {
	doc, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	def := reflect.ValueOf(Default())
	keys := 0
	for i := range def.NumField() {
		for j := range def.Field(i).NumField() {
			keys++
			key := def.Type().Field(i).Tag.Get("toml") + "." + def.Field(i).Type().Field(j).Tag.Get("toml")
			_, row, ok := strings.Cut(string(doc), "\n| `"+key+"` | ")
			if !ok {
				t.Errorf("docs/config.md has no %s", key)
				continue
			}
			row, _, _ = strings.Cut(row, " |")
			if s, isText := def.Field(i).Field(j).Interface().(string); isText && s != "" && row != "`\""+s+"\"`" {
				t.Errorf("docs/config.md has %s as the default of %s, want %q", row, key, s)
			}
		}
	}
	if rows := strings.Count(string(doc), "\n| `"); rows != keys {
		t.Errorf("docs/config.md has %d keys, want %d", rows, keys)
	}
}
