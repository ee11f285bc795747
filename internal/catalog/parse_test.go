package catalog

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"boxd/internal/durable"
)

const sample = `{
	"v": 1, "id": "autumn-series", "name": "Autumn", "group": "north",
	"assets": [{"path": "assets/acme/0123456789abcdef0123456789abcdef01234567.torrent",
		"id": "0123456789abcdef0123456789abcdef01234567", "prefix_bytes": 1048576}],
	"not_before": "2026-11-20T00:00:00Z", "deadline": "2026-11-27T18:00:00Z", "keep_until": "2026-12-27T00:00:00Z",
	"priority": 5,
	"windows": [{"days": ["mon", "sun"], "from": "23:30", "to": "06:00", "rate_bytes_per_second": 0}, {"from": "12:00", "to": "24:00"}],
	"spread": "2h", "origin": {"delay": "30m", "floor_bytes_per_second": 100000}, "missed_stops": true,
	"rollout": {"per_mille": 50, "cohorts": ["pilot"]}
}`

func TestParseCampaign(t *testing.T) {
	c, err := ParseCampaign([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	if time.Duration(c.Spread) != 2*time.Hour || time.Duration(c.Origin.Delay) != 30*time.Minute || c.Assets[0].Publisher() != "acme" {
		t.Errorf("%+v", c)
	}
	w := c.Windows[0]
	from, to := w.Minutes()
	if from != 23*60+30 || to != 6*60 || w.Weekdays() != [7]bool{true, true} || *w.RateBytesPerSecond != 0 {
		t.Errorf("%+v: %d to %d on %v", w, from, to, w.Weekdays())
	}
	if _, to := c.Windows[1].Minutes(); to != 24*60 || c.Windows[1].RateBytesPerSecond != nil || c.Windows[1].Weekdays() != [7]bool{} {
		t.Errorf("%+v", c.Windows[1])
	}
}

func TestParseCampaignRefuses(t *testing.T) {
	for what, edit := range map[string][2]string{
		"unknown key":               {`"priority": 5`, `"prio": 5`},
		"newer format":              {`"v": 1`, `"v": 2`},
		"id":                        {"autumn-series", "Autumn Series"},
		"group":                     {`"north"`, `"../north"`},
		"path of another publisher": {"assets/acme/", "assets/../"},
		"path of another id":        {"01234567.torrent", "01234568.torrent"},
		"negative prefix":           {"1048576", "-1"},
		"deadline before start":     {"2026-11-27", "2026-11-19"},
		"kept shorter than needed":  {"2026-12-27", "2026-11-21"},
		"priority":                  {`"priority": 5`, `"priority": 5000`},
		"day":                       {`"mon"`, `"monday"`},
		"time of day":               {"23:30", "24:00"},
		"time of day, short":        {"06:00", "6:00"},
		"minutes":                   {"06:00", "06:60"},
		"negative rate":             {`"rate_bytes_per_second": 0`, `"rate_bytes_per_second": -1`},
		"duration":                  {`"2h"`, `"2 hours"`},
		"negative spread":           {`"2h"`, `"-2h"`},
		"rollout":                   {"50", "1001"},
		"cohort":                    {"pilot", "PILOT"},
		"never and more":            {`"delay": "30m"`, `"never": true, "delay": "30m"`},
	} {
		s := strings.Replace(sample, edit[0], edit[1], 1)
		if s == sample {
			t.Fatalf("%s: nothing was replaced", what)
		}
		if _, err := ParseCampaign([]byte(s)); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if _, err := ParseCampaign([]byte(sample + "{}")); err == nil {
		t.Error("a second value was accepted")
	}
	_, err := ParseCampaign([]byte(`{"v":3,"id":"X","group":"","priority":9999,"assets":[]}`))
	for _, part := range []string{"v is 3", "id", "group", "priority", "assets"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("not all faults are named: %v lacks %q", err, part)
		}
	}
}

// A campaign in a later format costs a box that campaign alone; other faults cost the file.
func TestLaterFormat(t *testing.T) {
	newer := `{"v":2,"id":"later","what":"ever"}`
	g, err := ParseGroup([]byte(`{"v":1,"group":"north","campaigns":[` + newer + `,` + sample + `]}`))
	if err != nil || len(g.Campaigns) != 1 || !reflect.DeepEqual(g.Newer, []string{"later"}) {
		t.Fatalf("%+v, %v", g, err)
	}
	for _, bad := range []string{
		`{"v":2,"group":"north","campaigns":[]}`, `{"v":1,"group":"north","campaigns":[{"v":1,"id":"x"}]}`,
		`{"v":1,"group":"north","campaigns":[{"v":0}]}`, `{"v":1,"group":"north","campaigns":[7]}`,
		`{"v":1,"group":"south","campaigns":[` + sample + `]}`, `{"v":1,"group":"north","campaigns":[],"x":1}`,
		`{"v":1,"group":"north","campaigns":[` + sample + `,` + sample + `]}`,
	} {
		if g, err := ParseGroup([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", bad, g)
		}
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "north-1": true, "0": true, strings.Repeat("a", 40): true, strings.Repeat("a", 41): false, "": false, "-a": false,
		"a-": false, "A": false, "a.b": false, "a/b": false, "a*": false, "ä": false, "a\n": false,
	} {
		if ValidName(s) != want {
			t.Errorf("ValidName(%q) = %v", s, !want)
		}
	}
}

func FuzzParseCampaign(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCampaign(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		d, err := ParseCampaign(again)
		if err != nil {
			t.Fatalf("%s is read, but not as it is written: %v\n%s", b, err, again)
		}
		if third, _ := json.Marshal(d); string(third) != string(again) {
			t.Fatalf("%s became %s", again, third)
		}
		for _, w := range c.Windows {
			if from, to := w.Minutes(); from < 0 || from > 1439 || to < 0 || to > 1440 {
				t.Fatalf("window %+v is %d to %d", w, from, to)
			}
		}
	})
}

func FuzzParseFiles(f *testing.F) {
	f.Add([]byte(`{"v":1,"group":"north","campaigns":[` + sample + `]}`))
	f.Add([]byte(`{"v":1,"serials":["0a","ff"]}`))
	f.Add([]byte(`{"v":1,"keys":["0000000000000000000000000000000000000000000000000000000000000000"]}`))
	f.Add([]byte(`{"v":1,"assets":["0123456789abcdef0123456789abcdef01234567"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := ParseGroup(b); err == nil {
			again, _ := json.Marshal(g)
			h, err := ParseGroup(again)
			if err != nil || len(h.Campaigns) != len(g.Campaigns) {
				t.Fatalf("group %s: %v", again, err)
			}
		}
		if r, err := ParseRevocations(b); err == nil {
			for _, s := range r.Serials {
				if s == "" || strings.ToLower(s) != s {
					t.Fatalf("serial %q", s)
				}
			}
		}
		if keys, err := ParseOperations(b); err == nil {
			for _, k := range keys {
				if len(k) != 32 {
					t.Fatalf("key of %d bytes", len(k))
				}
			}
		}
		if ids, err := ParseWithdrawn(b); err == nil && len(ids) > MaxWithdrawn {
			t.Fatal("too many")
		}
	})
}

// What lies on the disk comes from outside too: a damaged store must not stop the box from starting.
func FuzzStore(f *testing.F) {
	f.Add([]byte(`{"v":1,"roots":["e30="],"timestamp":"e30=","good":{"timestamp":"e30=","snapshot":"","roles":{"targets":"e30="}}}`))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := durable.NewMem(1 << 20)
		if err := m.MkdirAll("/c", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := durable.WriteFile(m, "/c/catalog.json", raw, 0o600); err != nil {
			t.Skip()
		}
		c, err := Open(Options{Dir: "/c", FS: m, Root: fuzzRoot, URL: "http://127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		if s := c.Snapshot(); s.Version != 0 || !reflect.DeepEqual(c.bundle.Roots[0], fuzzRoot) {
			t.Fatalf("unsigned metadata were believed: %+v", s)
		}
	})
}

var fuzzRoot = func() []byte {
	b, err := os.ReadFile("testdata/root.json")
	if err != nil {
		panic(err)
	}
	return b
}()
