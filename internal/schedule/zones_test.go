package schedule

import (
	"fmt"
	"testing"
	"time"
	_ "time/tzdata" // the tests name time zones
)

// changes are the moments of a year at which a zone's clocks are changed.
func changes(loc *time.Location, year int) (list []time.Time) {
	t := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
	for {
		_, end := t.In(loc).ZoneBounds()
		if end.IsZero() || end.Year() > year {
			return list
		}
		list = append(list, end)
		t = end
	}
}

// twice reports whether wall clocks show the time of t at another moment, too.
func twice(t time.Time) bool {
	for d := 15 * time.Minute; d <= 3*time.Hour; d += 15 * time.Minute {
		for _, o := range []time.Time{t.Add(d), t.Add(-d)} {
			if o.Hour() == t.Hour() && o.Minute() == t.Minute() && o.Day() == t.Day() {
				return true
			}
		}
	}
	return false
}

// Windows are open when wall clocks say so, in every zone and in the nights in which the clocks change: by half an hour, by
// two, at midnight, so that a day has none, or has it twice, and over a date that is left out.
func TestWindowsFollowTheWallClock(t *testing.T) {
	for zone, year := range map[string]int{
		"Australia/Lord_Howe": 2026, "Antarctica/Troll": 2026, "Africa/Cairo": 2026, "Asia/Beirut": 2026, "America/Santiago": 2026,
		"Asia/Gaza": 2026, "America/Nuuk": 2026, "America/Havana": 2026, "Europe/Berlin": 2026, "America/New_York": 2026,
		"Africa/Casablanca": 2026, "America/Sao_Paulo": 2018, "Pacific/Apia": 2011, "Pacific/Chatham": 2026, "Asia/Kathmandu": 2026,
	} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		moments := append(changes(loc, year), time.Date(year, 5, 5, 0, 0, 0, 0, loc))
		for _, w := range []Window{
			{From: 0, To: 60},
			{From: 0, To: 1440},
			{From: 0, To: 0},
			{From: 23 * 60, To: 60},
			{From: 23*60 + 30, To: 0},
			{From: 90, To: 150},
			{From: 60, To: 180},
			{From: 2 * 60, To: 3 * 60},
			{From: 135, To: 165},
			{From: 30, To: 15},
			{From: 22 * 60, To: 6 * 60},
			{From: 100, To: 100},
			{From: 1439, To: 1},
			{From: 0, To: 30},
			{From: 15, To: 45},
		} {
			for _, m := range moments {
				for at := m.Add(-26 * time.Hour); at.Before(m.Add(26 * time.Hour)); at = at.Add(15 * time.Minute) {
					l := at.In(loc)
					if twice(l) {
						continue // once is enough
					}
					minute := l.Hour()*60 + l.Minute()
					want := minute >= w.From && minute < w.To
					if w.To <= w.From {
						want = minute >= w.From || minute < w.To
					}
					open, _, until, next := openAt(at, []Window{w}, loc)
					if open != want {
						t.Errorf("%s: window %d-%d at %s: open %v", zone, w.From, w.To, l, open)
					}
					if open && !until.After(at) || !open && !next.After(at) {
						t.Errorf("%s: window %d-%d at %s: until %s, next %s", zone, w.From, w.To, l, until, next)
					}
				}
			}
		}
	}
}

// Of a time that comes twice in a night windows take the first, west and east of Greenwich.
func TestOfATimeThatComesTwiceItIsTheFirst(t *testing.T) {
	for zone, want := range map[string]string{ // of 01:45 or 02:30 in the night of the change
		"Europe/Berlin":       "2026-10-25 02:30 +0200",
		"America/New_York":    "2026-11-01 01:30 -0400",
		"Australia/Lord_Howe": "2026-04-05 01:45 +1100",
		"Antarctica/Troll":    "2026-10-25 02:00 +0200",
		"Africa/Casablanca":   "2026-02-15 02:30 +0100",
		"Europe/London":       "2026-10-25 01:30 +0100",
	} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		first, err := time.Parse("2006-01-02 15:04 -0700", want)
		if err != nil {
			t.Fatal(err)
		}
		l := first.In(loc)
		if got := clock(l.Year(), l.Month(), l.Day(), l.Hour()*60+l.Minute(), loc); !got.Equal(first) || got.Format("15:04") != want[11:16] {
			t.Errorf("%s: %s, want %s", zone, got, first)
		}
	}
}

// Windows that overlap: the widest that is open decides, and the plan changes when it closes.
func TestOverlappingWindowsWithDifferentCaps(t *testing.T) {
	ws := []Window{
		{From: 60, To: 300, Rate: LimitTo(1000)},
		{From: 120, To: 180, Rate: LimitTo(5000)},
		{From: 150, To: 240, Rate: LimitTo(200)},
		{From: 200, To: 210},
		{From: 0, To: 1440, Rate: LimitTo(0)}, // which lets nothing through
	}
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for minute, want := range map[int]string{
		0: "closed next 60", 59: "closed next 60", 60: "1000 until 120", 125: "5000 until 150", 160: "5000 until 180",
		180: "1000 until 200", 205: "free until 210", 210: "1000 until 240", 299: "1000 until 300", 300: "closed next 1500",
	} {
		open, rate, until, next := openAt(day.Add(time.Duration(minute)*time.Minute), ws, time.UTC)
		got := fmt.Sprint("closed next ", next.Sub(day).Minutes())
		if open {
			cap := "free"
			if rate.Set {
				cap = fmt.Sprint(rate.Value)
			}
			got = fmt.Sprint(cap, " until ", until.Sub(day).Minutes())
		}
		if got != want {
			t.Errorf("at minute %d: %s, want %s", minute, got, want)
		}
	}
}
