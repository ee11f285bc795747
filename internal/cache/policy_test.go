package cache

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"

	"pgregory.net/rapid"
)

var policyNow = time.Unix(1_700_000_000, 0)

func in(d time.Duration) time.Time { return policyNow.Add(d) }

// cand makes a candidate of 100 bytes that nobody promised to keep; its ID begins with name.
func cand(name string, change func(*Candidate)) Candidate {
	c := Candidate{Bytes: 100, LastUse: in(-time.Hour)}
	copy(c.ID[:], name)
	if change != nil {
		change(&c)
	}
	return c
}

func planText(p EvictionPlan) string {
	var s []string
	for _, st := range p.Steps {
		name := strings.TrimRight(string(st.ID[:]), "\x00")
		if st.Keep > 0 {
			name += fmt.Sprintf("[%d:]", st.Keep)
		}
		s = append(s, name)
	}
	return fmt.Sprintf("%s %v", strings.Join(s, " "), p.Enough)
}

func TestEvictionOrder(t *testing.T) {
	expired := cand("expired", func(c *Candidate) { c.KeepUntil, c.Priority = in(-time.Hour), 9 })
	old := cand("old", func(c *Candidate) { c.LastUse = in(-9 * time.Hour) })
	neighbour := cand("neighbour", func(c *Candidate) { c.NeighbourHolds = true })
	big := cand("big", func(c *Candidate) { c.Bytes = 300 })
	low := cand("low", func(c *Candidate) { c.Priority = -1; c.LastUse = in(0) })
	high := cand("high", func(c *Candidate) { c.Priority = 5 })
	promised := cand("promised", func(c *Candidate) { c.KeepUntil = in(time.Hour) })
	due := cand("due", func(c *Candidate) { c.Deadline = in(time.Minute) })
	pinned := cand("pinned", func(c *Candidate) { c.Pinned, c.KeepUntil = true, in(-time.Hour) })
	open := cand("open", func(c *Candidate) { c.Open, c.KeepUntil = true, in(-time.Hour) })
	film := cand("film", func(c *Candidate) { c.Prefix, c.LastUse = 20, in(-2*time.Hour) })
	all := []Candidate{open, pinned, due, promised, high, big, old, neighbour, low, expired}
	normal := &Incoming{}
	for _, tc := range []struct {
		name    string
		need    int64
		in      *Incoming
		untrust bool
		cands   []Candidate
		want    string
	}{
		{"expired first", 50, normal, false, all, "expired true"},
		{"then by priority", 200, normal, false, all, "expired low true"},
		{"then what a neighbour has", 300, normal, false, all, "expired low neighbour true"},
		{"then what was used longest ago", 400, normal, false, all, "expired low neighbour old true"},
		{"then by size", 601, normal, false, all, "expired low neighbour old big true"},
		{"no step that is not needed", 300, normal, false, []Candidate{old, big}, "big true"},
		{"never the rest", 5000, normal, false, all, "expired low neighbour old big false"},
		{
			"a higher priority takes promises too", 900, &Incoming{Priority: 2}, false, all,
			"expired low neighbour old big promised false",
		},
		{
			"a nearer deadline", 500, &Incoming{Deadline: in(time.Second)}, false,
			[]Candidate{due, promised},
			"due promised false",
		},
		{"a later deadline", 100, &Incoming{Priority: 9, Deadline: in(time.Hour)}, false, []Candidate{due}, " false"},
		{"nothing expires on an untrusted clock", 100, normal, true, []Candidate{expired, promised}, " false"},
		{"a tail before a whole", 80, normal, false, []Candidate{film, old}, "film[20:] true"},
		{"wholes when tails are not enough", 180, normal, false, []Candidate{film, old}, "film[20:] old true"},
		{"the prefix at last", 200, normal, false, []Candidate{film, old}, "film old true"},
		{"others fill the disk", 800, nil, false, all, "expired low neighbour old big high true"},
		{"and more", 9000, nil, false, all, "expired low neighbour old big high promised due false"},
		{"others, on an untrusted clock", 300, nil, true, []Candidate{expired, promised, old}, "old promised expired true"},
	} {
		p := PlanEviction(policyNow, !tc.untrust, tc.need, tc.in, tc.cands)
		if got := planText(p); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		for _, s := range p.Steps {
			if s.Reason == "" {
				t.Errorf("%s: a step without a reason", tc.name)
			}
		}
	}
}

// What the policy promises, for anything that could be in a cache.
func TestEvictionProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := func(label string) time.Time {
			if rapid.Bool().Draw(t, label+"?") {
				return time.Time{}
			}
			return in(time.Duration(rapid.IntRange(-100, 100).Draw(t, label)) * time.Minute)
		}
		var cands []Candidate
		byID := map[asset.ID]Candidate{}
		for i := range rapid.IntRange(0, 12).Draw(t, "n") {
			c := Candidate{
				ID: asset.ID{byte(i)}, Bytes: rapid.Int64Range(0, 50).Draw(t, "bytes"), Deadline: at("deadline"),
				Priority: rapid.IntRange(0, 3).Draw(t, "priority"), KeepUntil: at("keep"), LastUse: at("use"),
				Pinned: rapid.Bool().Draw(t, "pinned"), Open: rapid.Bool().Draw(t, "open"),
				Prefix: rapid.Int64Range(0, 20).Draw(t, "prefix"),
			}
			cands = append(cands, c)
			byID[c.ID] = c
		}
		need, trusted := rapid.Int64Range(1, 300).Draw(t, "need"), rapid.Bool().Draw(t, "trusted")
		var inc *Incoming
		if rapid.Bool().Draw(t, "incoming") {
			inc = &Incoming{asset.ID{99}, rapid.IntRange(0, 3).Draw(t, "p"), at("d")}
		}
		p := PlanEviction(policyNow, trusted, need, inc, cands)
		sum := int64(0)
		for _, s := range p.Steps {
			c := byID[s.ID]
			sum += s.Frees
			if c.Pinned || c.Open || s.Frees <= 0 || s.Keep+s.Frees != c.Bytes || s.Reason == "" {
				t.Fatalf("step %+v of %+v", s, c)
			}
			expired := trusted && !c.KeepUntil.IsZero() && c.KeepUntil.Before(policyNow)
			if inc != nil && !expired && c.Priority > inc.Priority {
				t.Fatalf("%+v went for %+v", c, inc)
			}
		}
		if sum != p.Frees || p.Enough != (sum >= need) || len(p.Spared) > len(cands) {
			t.Fatalf("%+v for %d", p, need)
		}
		for _, s := range p.Steps {
			if p.Enough && sum-s.Frees >= need {
				t.Fatalf("step %+v is not needed in %+v for %d", s, p, need)
			}
		}
	})
}

// Two campaigns that do not fit together must not push each other out for ever.
func TestEvictionDoesNotFlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mk := func(label string) Candidate {
			c := Candidate{ID: asset.ID{label[0]}, Bytes: 100, Priority: rapid.IntRange(0, 1).Draw(t, label+"p")}
			c.KeepUntil = in(24 * time.Hour)
			if rapid.Bool().Draw(t, label+"d?") {
				c.Deadline = in(time.Duration(rapid.IntRange(-60, 60).Draw(t, label+"d")) * time.Minute)
			}
			return c
		}
		a, b := mk("a"), mk("b")
		pushes := func(x, y Candidate) bool {
			return PlanEviction(policyNow, true, 100, &Incoming{x.ID, x.Priority, x.Deadline}, []Candidate{y}).Enough
		}
		if pushes(a, b) && pushes(b, a) {
			t.Fatalf("%+v and %+v push each other out", a, b)
		}
	})
}
