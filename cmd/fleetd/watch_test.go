package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"boxd/internal/cli"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/web"
)

// watched is a manager that answers with what the test wants, and one who watches it.
type watched struct {
	*watcher
	t    *testing.T
	view *web.Overview // nil: it does not answer
	out  bytes.Buffer
}

var evening = time.Date(2026, 3, 6, 20, 14, 5, 0, time.UTC)

func newWatched(t *testing.T) *watched {
	t.Helper()
	x := &watched{t: t, view: &web.Overview{
		Fleet: "riverside", At: evening,
		Glance: registry.Glance{Standings: registry.Standings{Boxes: 240, Online: 200}},
		Campaigns: []web.CampaignLine{{
			ID: "c1", Name: "Friday \x1b[2Jpremiere", Group: "north", State: "running", Deadline: evening.Add(7 * time.Hour),
			Counts: &web.Counted{Counts: operate.Counts{Boxes: 100, Included: 100, Ready: 50, Working: 49, Failed: 1}},
		}},
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/data/overview" {
			t.Errorf("asks %s: only what is counted once for all who look is cheap", r.URL.Path)
		}
		if x.view == nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		if err := json.NewEncoder(w).Encode(x.view); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	x.watcher = &watcher{c: &client{api: s.URL}, out: &x.out, now: func() time.Time { return evening }}
	return x
}

// onScreen lets it draw on a terminal of so many lines.
func (x *watched) onScreen(lines int) {
	x.screen = &cli.Screen{Out: &x.out, Size: func() (int, int) { return 80, lines }}
}

// step asks and draws once, and returns what was written for it.
func (x *watched) step() string {
	x.t.Helper()
	x.out.Reset()
	if err := x.ask(x.t.Context()); err != nil {
		x.t.Fatal(err)
	}
	if err := x.draw(); err != nil {
		x.t.Fatal(err)
	}
	return x.out.String()
}

func has(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%q", w, text)
		}
	}
}

func TestWatchDrawsInPlaceAndOnlyWhatChanged(t *testing.T) {
	x := newWatched(t)
	x.onScreen(24)
	first := x.step()
	has(t, first, "\x1b[?1049h", "200 of 240 boxes online", "██████████░░░░░░░░░░  50 %", "50 of 100 arrived, 49 on the way, 1 failed", "due in 7 h")
	if strings.Contains(first, "\x1b[2J") {
		t.Error("the screen is cleared, by us or by the name of a campaign")
	}
	if again := x.step(); again != "" {
		t.Errorf("nothing has changed, yet it writes %q", again)
	}
	x.view.Campaigns[0].Counts.Ready = 99
	second := x.step()
	has(t, second, "99 of 100 arrived")
	if !strings.HasPrefix(second, "\x1b[H") || strings.Count(second, "\x1b[K\n") != strings.Count(second, "\n") {
		t.Errorf("it is not drawn over what was there: %q", second)
	}
	x.onScreen(3)
	if low := x.step(); strings.Count(low, "\n") != 2 {
		t.Errorf("a terminal of three lines would scroll: %q", low)
	}
}

func TestWatchFitsATerminalOf80By24(t *testing.T) {
	x := newWatched(t)
	x.onScreen(24)
	for i := range 30 {
		c := x.view.Campaigns[0]
		c.Name = fmt.Sprintf("Campaign %d", i)
		x.view.Campaigns = append(x.view.Campaigns, c)
		x.view.Alerts = append(x.view.Alerts, registry.AlertCount{Code: fmt.Sprintf("code-%d", i), Severity: "warning", Boxes: i})
	}
	text := x.step()
	has(t, text, "code-5", "and 24 more: fleetd alerts", "Campaign 1", "more campaigns: fleetd campaign list")
	if n := strings.Count(text, "\n"); n > 23 || strings.Contains(text, "too low") {
		t.Errorf("%d lines:\n%s", n, text)
	}
	for _, l := range strings.Split(frame(x.o, "", evening, 23), "\n") {
		if n := utf8.RuneCountInString(l); n > 80 {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}

func TestWatchOutlivesARestartOfTheManager(t *testing.T) {
	x := newWatched(t)
	x.onScreen(24)
	x.step()
	good := x.view
	x.view = nil
	has(t, x.step(), "No answer now: 502", "50 of 100 arrived")
	x.view = good
	if back := x.step(); strings.Contains(back, "No answer") {
		t.Errorf("it answers again: %q", back)
	}
	never := newWatched(t)
	never.view = nil
	if err := never.run(t.Context(), nil); err == nil || never.out.Len() > 0 {
		t.Errorf("a manager that never answered: %v, and %q was written", err, never.out.String())
	}
}

func TestWatchWritesPlainLinesToAFile(t *testing.T) {
	x := newWatched(t)
	x.view.Alerts = []registry.AlertCount{{Code: "disk-slow", Severity: "warning", Boxes: 3}}
	first := x.step()
	has(t, first, "2026-03-06 20:14:05  riverside: 200 of 240 boxes online\n", "Friday ?[2Jpremiere: running, 50 of 100", "warning: disk-slow on 3\n")
	if strings.Contains(first, "\x1b") || strings.Count(first, "\n") != 3 {
		t.Errorf("not three plain lines: %q", first)
	}
	if again := x.step(); again != "" {
		t.Errorf("nothing has changed, yet it writes %q", again)
	}
	good := x.view
	x.view = nil
	has(t, x.step(), "no answer: 502")
	good.Online, good.Alerts = 201, nil
	x.view = good
	want := "2026-03-06 20:14:05  riverside: 201 of 240 boxes online\n2026-03-06 20:14:05  alert disk-slow: over\n" +
		"2026-03-06 20:14:05  fault: over\n"
	if got := x.step(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWatchInJSONIsADocumentALine(t *testing.T) {
	x := newWatched(t)
	x.c.json = true
	var doc struct {
		Online    int
		Campaigns []struct {
			Name   string
			Counts struct{ Ready int }
		}
	}
	text := x.step()
	if err := json.Unmarshal([]byte(text), &doc); err != nil || strings.Count(text, "\n") != 1 {
		t.Fatalf("%v: %q", err, text)
	}
	if doc.Online != 200 || len(doc.Campaigns) != 1 || doc.Campaigns[0].Counts.Ready != 50 {
		t.Errorf("%+v", doc)
	}
}

// The view is left on the screen when it ends, and the terminal is as it was.
func TestWatchGivesTheTerminalBack(t *testing.T) {
	x := newWatched(t)
	x.onScreen(24)
	ctx, stop := context.WithCancel(t.Context())
	tick := make(chan time.Time)
	done := make(chan error, 1)
	go func() { done <- x.run(ctx, tick) }()
	tick <- evening // taken after the first view was drawn
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_, after, left := strings.Cut(x.out.String(), "\x1b[?1049l")
	if !left || !strings.HasPrefix(after, "riverside: 200 of 240") || strings.Contains(after, "\x1b") {
		t.Errorf("it ends with %q", after)
	}
}
