package schedule

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests name zones, and CI machines may have none
)

var night = Window{From: 22 * 60, To: 6 * 60}

func berlin(t *testing.T) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func at(t *testing.T, loc *time.Location, s string) time.Time {
	t.Helper()
	v, err := time.ParseInLocation("2006-01-02 15:04:05", s, loc)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// base is a box that may fetch one asset of 100 MiB at 10 MiB/s.
func base() Input {
	return Input{
		BoxID: "box-a", ClockTrusted: true, CatalogFresh: true, PlayOpensWAN: true, LineRate: 10 << 20,
		Campaigns: []Campaign{{ID: "c", Assets: []Ref{{ID: "x"}}}},
		Assets:    []Asset{{ID: "x", Length: 100 << 20, Missing: 100 << 20, PeersKnown: true, Peers: 3}},
	}
}

func only(t *testing.T, p Plan) Want {
	t.Helper()
	if len(p.Wants) != 1 {
		t.Fatalf("%d wants, want 1", len(p.Wants))
	}
	return p.Wants[0]
}

func TestWindowOpensAndCloses(t *testing.T) {
	loc := berlin(t)
	for _, c := range []struct {
		name, now string
		window    Window
		open      bool
		next      string
	}{
		{"before", "2026-03-02 21:59:59", night, false, "2026-03-02 22:00:00"},
		{"at the beginning", "2026-03-02 22:00:00", night, true, "2026-03-03 06:00:00"},
		{"after midnight", "2026-03-03 05:59:59", night, true, "2026-03-03 06:00:00"},
		{"at the end", "2026-03-03 06:00:00", night, false, "2026-03-03 22:00:00"},
		{"all day", "2026-03-03 12:00:00", Window{}, true, "2026-03-04 00:00:00"},
		{"to midnight", "2026-03-03 23:30:00", Window{From: 23 * 60, To: 24 * 60}, true, "2026-03-04 00:00:00"},
		{"another day", "2026-03-03 23:30:00", Window{Days: [7]bool{time.Monday: true}, From: 22 * 60, To: 6 * 60}, false, "2026-03-09 22:00:00"},
		{"the day is that of the opening", "2026-03-03 05:00:00", Window{Days: [7]bool{time.Monday: true}, From: 22 * 60, To: 6 * 60}, true, "2026-03-03 06:00:00"},
		{"summer time begins: opens at the change", "2026-03-29 01:59:59", Window{From: 2*60 + 30, To: 4 * 60}, false, "2026-03-29 03:00:00"},
		{"summer time begins: a window in the gap has no length", "2026-03-29 01:00:00", Window{From: 2*60 + 10, To: 2*60 + 50}, false, "2026-03-30 02:10:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := base()
			in.Location, in.Campaigns[0].Windows = loc, []Window{c.window}
			p := Decide(at(t, loc, c.now), in)
			w := only(t, p)
			if w.WAN != c.open || !w.Fetch {
				t.Errorf("WAN %v, fetch %v; want %v, true (%s)", w.WAN, w.Fetch, c.open, w.Reason.Text)
			}
			if want := at(t, loc, c.next); !p.Next.Equal(want) {
				t.Errorf("next %v, want %v", p.Next.In(loc), want)
			}
			if !c.open && (w.Origin != OriginOff || w.Reason.Code != "window") {
				t.Errorf("closed, but origin %v and reason %q", w.Origin, w.Reason.Code)
			}
		})
	}
}

func TestNightOfTheChangeHasItsRealLength(t *testing.T) {
	loc := berlin(t)
	for day, hours := range map[string]float64{"2026-03-28": 7, "2026-10-24": 9, "2026-06-01": 8} {
		d := decider{now: at(t, loc, day+" 12:00:00"), loc: loc}
		o := d.merged([]Window{night}, false)
		if got := o.until(d.now.Add(24*time.Hour)) / 3600; got != hours {
			t.Errorf("%s: %v open hours, want %v", day, got, hours)
		}
	}
}

func TestReasonsThatKeepTheLineClosed(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		code   string
		change func(*Input)
		fetch  bool
	}{
		{"clock", func(in *Input) { in.ClockTrusted = false }, true},
		{"limit-zero", func(in *Input) { in.WANDown = LimitTo(0) }, true},
		{"budget", func(in *Input) { in.Budget, in.BudgetUsed = LimitTo(5), 5 }, true},
		{"budget", func(in *Input) { in.Budget = LimitTo(0) }, true},
		{"follower", func(in *Input) { in.Assets[0].Follower = true }, true},
		{"window", func(in *Input) { in.Campaigns[0].Windows = []Window{{Rate: LimitTo(0)}} }, true},
		{"paused", func(in *Input) { in.Paused = true }, false},
		{"catalog-expired", func(in *Input) { in.CatalogFresh = false }, false},
		{"rejected", func(in *Input) { in.Assets[0].Rejected = "no space" }, false},
		{"complete", func(in *Input) { in.Assets[0].Missing = 0 }, false},
		{"not-wanted", func(in *Input) { in.Campaigns = nil }, false},
		{"not-wanted", func(in *Input) { in.Campaigns[0].KeepUntil = now }, false},
		{"not-before", func(in *Input) { in.Campaigns[0].NotBefore = now.Add(time.Second) }, false},
		{"missed", func(in *Input) { in.Campaigns[0].Deadline, in.Campaigns[0].MissedStops = now, true }, false},
	} {
		in := base()
		c.change(&in)
		w := only(t, Decide(now, in))
		if w.Reason.Code != c.code || w.WAN || w.Origin != OriginOff || w.Fetch != c.fetch {
			t.Errorf("%s: have %q, wan %v, origin %v, fetch %v", c.code, w.Reason.Code, w.WAN, w.Origin, w.Fetch)
		}
		if !strings.HasSuffix(w.Reason.Text, ".") {
			t.Errorf("%s: reason %q is not a sentence", c.code, w.Reason.Text)
		}
	}
}

func TestLateAssetStillCompletes(t *testing.T) {
	in := base()
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in.Campaigns[0].Deadline = now.Add(-time.Hour)
	if w := only(t, Decide(now, in)); !w.WAN || !w.Late || w.Origin != OriginUrgent {
		t.Errorf("wan %v late %v origin %v; want a late asset to go on, urgently", w.WAN, w.Late, w.Origin)
	}
}

func TestOriginJoins(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		change func(*Input)
		want   OriginMode
	}{
		{"no peers: it alone has it", func(in *Input) { in.Assets[0].Peers = 0 }, OriginSpare},
		{"peers, within the delay", func(in *Input) { in.Campaigns[0].Origin.Delay = time.Minute }, OriginOff},
		{"peers, after the delay", func(in *Input) {
			in.Campaigns[0].Origin.Delay = time.Minute
			in.Assets[0].Started = now.Add(-time.Minute)
		}, OriginSpare},
		{"below the floor", func(in *Input) { in.Campaigns[0].Origin.Floor, in.Assets[0].PeerRate = 2, 1 }, OriginAssist},
		{"at the floor", func(in *Input) { in.Campaigns[0].Origin.Floor, in.Assets[0].PeerRate = 2, 2 }, OriginSpare},
		{"deadline in danger", func(in *Input) { in.Campaigns[0].Deadline = now.Add(12 * time.Second) }, OriginUrgent},
		{"danger, but never the origin", func(in *Input) {
			in.Campaigns[0].Deadline = now.Add(12 * time.Second)
			in.Campaigns[0].Origin.Never = true
		}, OriginOff},
		{"played", func(in *Input) { in.Assets[0].Playing = true }, OriginUrgent},
	} {
		in := base()
		c.change(&in)
		if w := only(t, Decide(now, in)); w.Origin != c.want || !w.WAN {
			t.Errorf("%s: origin %v, wan %v; want %v, true (%s)", c.name, w.Origin, w.WAN, c.want, w.Reason.Text)
		}
	}
}

func TestDangerCountsOpenTimeAndHabitOnly(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) // 100 MiB at 10 MiB/s need 10 s; the margin is 13 to 20 s
	in := base()
	in.Campaigns[0].Deadline = now.Add(time.Hour)
	if w := only(t, Decide(now, in)); w.Danger {
		t.Error("an hour for ten seconds' work is no danger")
	}
	in.Campaigns[0].Windows = []Window{{From: 22 * 60, To: 23 * 60}}
	if w := only(t, Decide(now, in)); !w.Danger || !w.Late {
		t.Errorf("no window opens before the deadline: danger %v late %v, want both", w.Danger, w.Late)
	}
	in.Campaigns[0].Windows = nil
	in.Habit = &Habit{} // never on
	if w := only(t, Decide(now, in)); !w.Danger || !w.ETA.IsZero() {
		t.Errorf("a box that is never on: danger %v eta %v", w.Danger, w.ETA)
	}
}

func TestDangerPointIsForetoldExactly(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.Campaigns[0].Deadline = now.Add(time.Hour)
	p := Decide(now, in)
	before, after := Decide(p.Next.Add(-time.Second), in), Decide(p.Next, in)
	if only(t, before).Danger || !only(t, after).Danger {
		t.Errorf("next is %v: danger before %v, at it %v; want false, true", p.Next, before.Wants[0].Danger, after.Wants[0].Danger)
	}
}

func TestDangerPointsAreSpreadOverTheFleet(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.Campaigns[0].Deadline = now.Add(time.Hour)
	in.LineRate = 100 << 10 // 1024 s of work
	var tenth [10]int
	for i := range 1000 {
		in.BoxID = "box-" + time.Duration(i).String()
		left := (in.Campaigns[0].Deadline.Sub(Decide(now, in).Next).Seconds() - dangerReserve) / 1024
		k := int((left - dangerMargin) / dangerSpread * 10)
		if k < 0 || k > 9 {
			t.Fatalf("danger begins %v times the needed time before the deadline", left)
		}
		tenth[k]++
	}
	for k, n := range tenth {
		if n < 60 || n > 140 {
			t.Errorf("tenth %d of the spread has %d of 1000 boxes", k, n)
		}
	}
}

func TestAnEarlierAssetTakesTimeFromALaterOne(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.Campaigns = []Campaign{
		{ID: "c", Assets: []Ref{{ID: "x"}}, Deadline: now.Add(300 * time.Second)},
		{ID: "d", Assets: []Ref{{ID: "y"}}, Deadline: now.Add(290 * time.Second)},
	}
	in.Assets = append(in.Assets, Asset{ID: "y", Length: 1 << 30, Missing: 1 << 30}) // 102 s
	p := Decide(now, in)
	if p.Wants[0].ID != "y" || p.Wants[0].Danger || p.Wants[1].Danger {
		t.Fatalf("order and danger at first: %+v", p.Wants)
	}
	if eta := p.Wants[1].ETA.Sub(now); eta < 112*time.Second || eta > 113*time.Second {
		t.Errorf("eta of the later asset %v, want 112.4 s: it comes after the earlier one", eta)
	}
	in.Assets[1].Follower = true // another box carries it
	if eta := Decide(now, in).Wants[1].ETA.Sub(now); eta != 10*time.Second {
		t.Errorf("eta %v, want 10 s when another box carries the first", eta)
	}
}

func TestOrder(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := Input{BoxID: "b", ClockTrusted: true, CatalogFresh: true, LineRate: 1 << 20, MaxActive: 2, PlayOpensWAN: true}
	add := func(id string, c Campaign, a Asset) {
		a.ID, a.Length, c.ID, c.Assets = id, 1<<20, id, []Ref{{ID: id}}
		if a.Missing == 0 {
			a.Missing = 1 << 20
		}
		in.Campaigns, in.Assets = append(in.Campaigns, c), append(in.Assets, a)
	}
	add("none", Campaign{}, Asset{})
	add("late", Campaign{Deadline: now.Add(3 * time.Hour)}, Asset{})
	add("soon", Campaign{Deadline: now.Add(2 * time.Hour)}, Asset{})
	add("soon-important", Campaign{Deadline: now.Add(2 * time.Hour), Priority: 9}, Asset{})
	add("prefix", Campaign{Deadline: now.Add(9 * time.Hour)}, Asset{PrefixMissing: 5})
	add("danger", Campaign{Deadline: now.Add(time.Second)}, Asset{})
	add("watched", Campaign{}, Asset{Playing: true})
	p := Decide(now, in)
	var got []string
	for _, w := range p.Wants {
		got = append(got, w.ID)
	}
	want := "watched danger prefix soon-important soon late none"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("order %s\nwant  %s", s, want)
	}
	for i, w := range p.Wants {
		if active := i < 3; w.WAN != active || (!active && w.Reason.Code != "queued") {
			t.Errorf("%s: wan %v, reason %s; two may be active beside what is watched", w.ID, w.WAN, w.Reason.Code)
		}
	}
}

func TestPlayingOpensTheLineOutsideItsWindow(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.Campaigns[0].Windows = []Window{night}
	in.Assets[0].Playing = true
	if w := only(t, Decide(now, in)); !w.WAN || w.Origin != OriginUrgent {
		t.Errorf("wan %v origin %v while someone watches", w.WAN, w.Origin)
	}
	in.PlayOpensWAN = false
	if w := only(t, Decide(now, in)); w.WAN {
		t.Error("the operator's policy says no, and the line opened")
	}
	in.PlayOpensWAN, in.Budget = true, LimitTo(0)
	if w := only(t, Decide(now, in)); w.WAN {
		t.Error("playing is charged to the budget, which is spent")
	}
}

func TestACampaignThatKeepsTheOriginOutDoesSoForViewersToo(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.Campaigns[0].Origin.Never, in.Assets[0].Playing = true, true
	for _, windows := range [][]Window{nil, {night}} {
		in.Campaigns[0].Windows = windows
		if w := only(t, Decide(now, in)); !w.WAN || w.Origin != OriginOff {
			t.Errorf("windows %v: wan %v, origin %v", windows, w.WAN, w.Origin)
		}
	}
	in.Campaigns = append(in.Campaigns, Campaign{ID: "d", Assets: in.Campaigns[0].Assets, Windows: []Window{night}})
	if w := only(t, Decide(now, in)); w.Origin != OriginUrgent {
		t.Errorf("another campaign lets the origin in: %v", w.Origin)
	}
}

func TestFollowerTurnsToTheLineOnlyWhenTheCourierCannotMakeIt(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.Assets[0].Follower = true
	in.Campaigns[0].Deadline = now.Add(11 * time.Second) // the margin alone makes this a danger
	in.Assets[0].CourierETA = now.Add(10 * time.Second)
	if w := only(t, Decide(now, in)); w.WAN || !w.Danger {
		t.Errorf("wan %v danger %v: the courier makes it", w.WAN, w.Danger)
	}
	in.Assets[0].CourierETA = now.Add(12 * time.Second)
	if w := only(t, Decide(now, in)); !w.WAN {
		t.Error("the courier is too late and the follower waits")
	}
	in.Assets[0].CourierETA = time.Time{}
	if w := only(t, Decide(now, in)); w.WAN || !w.Danger {
		t.Errorf("wan %v danger %v: nobody knows that the courier is late", w.WAN, w.Danger)
	}
	in.Assets[0].CourierStuck = true
	if w := only(t, Decide(now, in)); !w.WAN {
		t.Error("the courier does not move and the follower waits")
	}
}

func TestSpreadStartsTheFleetEvenlyAndShrinksBeforeADeadline(t *testing.T) {
	begin := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.Campaigns[0].NotBefore, in.Campaigns[0].Spread = begin, time.Hour
	started := func(at time.Time) (n int) {
		for i := range 1000 {
			in.BoxID = time.Duration(i).String()
			if Decide(at, in).Wants[0].WAN {
				n++
			}
		}
		return n
	}
	if n := started(begin.Add(30 * time.Minute)); n < 450 || n > 550 {
		t.Errorf("%d of 1000 boxes have begun half-way through the spread", n)
	}
	if n := started(begin.Add(time.Hour)); n != 1000 {
		t.Errorf("%d of 1000 boxes have begun after the spread", n)
	}
	in.Campaigns[0].Deadline = begin.Add(time.Minute) // 10 s of work: the spread is (60-20)/2 s
	if n := started(begin.Add(20 * time.Second)); n != 1000 {
		t.Errorf("%d of 1000 boxes have begun in time for the deadline", n)
	}
}

func TestRateIsTheWidestOpenWindowWithinTheBoxLimit(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.WANDown = LimitTo(7)
	in.Campaigns[0].Windows = []Window{{Rate: LimitTo(5)}, {Rate: LimitTo(9)}, {From: 13 * 60, To: 14 * 60}}
	p := Decide(now, in)
	if w := only(t, p); w.Rate != LimitTo(9) || p.WAN != LimitTo(7) {
		t.Errorf("rate %+v, overall %+v", w.Rate, p.WAN)
	}
	if !p.Next.Equal(now.Add(time.Hour)) {
		t.Errorf("next %v, want 13:00, when the rate changes", p.Next)
	}
}

func TestDayShowsWhatRunsWhen(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := base()
	in.Campaigns[0].Windows = []Window{{From: 13 * 60, To: 14 * 60}}
	slots := Day(now, in, 24*time.Hour)
	if len(slots) != 3 {
		t.Fatalf("%d slots: %+v", len(slots), slots)
	}
	if s := slots[0]; !s.To.Equal(now.Add(time.Hour)) || len(s.Active) != 0 || s.Reason == "" {
		t.Errorf("before the window: %+v", s)
	}
	if s := slots[1]; s.To.Sub(s.From) != 11*time.Second || strings.Join(s.Done, "") != "x" {
		t.Errorf("in the window: %+v; want 10 s of work and one to round up", s)
	}
	if s := slots[2]; !s.To.Equal(now.Add(24*time.Hour)) || len(s.Active) != 0 {
		t.Errorf("afterwards: %+v", s)
	}
}

// At a rate so low that what is left takes longer than a time.Duration can say, a day is a few decisions; and one that changes
// all the time ends.
func TestDayIsAFewDecisions(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	decisions := 0
	counted := func(now time.Time, in Input) Plan { decisions++; return Decide(now, in) }
	for _, prefix := range []int64{0, 1 << 40} {
		in := base()
		in.WANDown, in.Assets[0].Length, in.Assets[0].Missing, in.Assets[0].PrefixMissing = LimitTo(1), 1<<41, 1<<41, prefix
		decisions = 0
		slots := day(now, in, 24*time.Hour, counted)
		if last := slots[len(slots)-1]; decisions > 3 || !last.To.Equal(now.Add(24*time.Hour)) || len(last.Active) != 1 {
			t.Errorf("%d decisions, the last slot is %+v", decisions, last)
		}
	}
	decisions = 0
	day(now, base(), 24*time.Hour, func(now time.Time, _ Input) Plan {
		decisions++
		return Plan{Next: now.Add(time.Second)}
	})
	if decisions > 10_000 {
		t.Errorf("%d decisions", decisions)
	}
}

// Whatever the input, the plan keeps the package's promises. Run longer with go test -fuzz.
func FuzzDecide(f *testing.F) {
	f.Add(int64(0), uint64(0), int64(100), 60, 120, uint8(3), true)
	f.Add(int64(1774742400), uint64(0xffff), int64(-5), 1439, 1440, uint8(0xff), false)
	f.Fuzz(func(t *testing.T, unix int64, bits uint64, missing int64, from, to int, days uint8, trusted bool) {
		now := time.Unix(unix%(1<<34), 0)
		loc, err := time.LoadLocation([]string{"Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "UTC"}[bits%4])
		if err != nil {
			t.Fatal(err)
		}
		in := base()
		in.Location, in.ClockTrusted, in.Paused, in.CatalogFresh = loc, trusted, bits&16 != 0, bits&32 == 0
		in.Assets[0].Missing, in.Assets[0].Follower, in.Assets[0].Playing = missing, bits&64 != 0, bits&128 != 0
		if bits&256 != 0 {
			in.WANDown = LimitTo(int64(bits >> 40))
		}
		w := Window{From: abs(from) % 1440, To: abs(to) % 1441}
		for d := range w.Days {
			w.Days[d] = days&(1<<d) != 0
		}
		in.Campaigns[0].Windows = []Window{w}
		in.Campaigns[0].Deadline = now.Add(time.Duration(bits>>20) * time.Second)
		p := Decide(now, in)
		got := only(t, p)
		switch {
		case got.WAN && (!got.Fetch || !trusted || p.WAN.Stopped() || in.Paused):
			t.Errorf("the line is open though it must not be: %+v", got)
		case !got.WAN && got.Origin != OriginOff:
			t.Errorf("origin without the line: %+v", got)
		case got.Reason.Text == "" || got.Reason.Code == "":
			t.Errorf("no reason: %+v", got)
		case !p.Next.IsZero() && !p.Next.After(now):
			t.Errorf("next %v is not after now %v", p.Next, now)
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }

func BenchmarkDecide50Assets(b *testing.B) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	in := Input{BoxID: "b", ClockTrusted: true, CatalogFresh: true, Habit: &Habit{}}
	for i := range in.Habit {
		in.Habit[i] = 80
	}
	for i := range 50 {
		id := time.Duration(i).String()
		in.Campaigns = append(in.Campaigns, Campaign{
			ID: id, Assets: []Ref{{ID: id}}, Windows: []Window{night}, Deadline: now.Add(200 * time.Hour),
		})
		in.Assets = append(in.Assets, Asset{ID: id, Length: 1 << 30, Missing: 1 << 30})
	}
	b.ReportAllocs()
	for b.Loop() {
		Decide(now, in)
	}
}
