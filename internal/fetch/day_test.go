package fetch_test

import (
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3
	mrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata" // the tests name a time zone

	"github.com/anacrolix/torrent/bencode"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
	"boxd/internal/health"
	"boxd/internal/schedule"
)

// day is a box in memory, inside a synctest bubble, whose clock shows what the test wants.
type day struct {
	*fetch.Fetcher
	t      *testing.T
	clock  *settableClock
	cache  *memCache
	swarm  *memSwarm
	origin *memOrigin
	paper  *paper
	camps  []catalog.Campaign
	assets map[asset.ID]*catalog.Asset
	loc    *time.Location
	health *health.Set
	home   fetch.LAN // nil: there is none
	stop   func()
}

const dayLine = 16 << 10 // bytes per second that the box's line gives

// aDay is a test of what a box does from a local time on; the box stops with it.
func aDay(t *testing.T, local string, test func(*testing.T, *day)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newDay(t, local)) })
}

// wholeDays skips a test that simulates one day or several: with the race detector, or emulated, that takes minutes, and it
// finds what the shorter ones find.
func wholeDays(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("simulates whole days")
	}
}

// newDay makes a box whose clock shows the given local time; start runs it.
func newDay(t *testing.T, local string) *day {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	d := &day{
		t: t, loc: loc, clock: &settableClock{box: "box-a"}, cache: newMemCache(1 << 40), swarm: newMemSwarm(),
		origin: &memOrigin{data: map[string][]byte{}}, paper: &paper{changed: make(chan struct{})},
		assets: map[asset.ID]*catalog.Asset{}, health: health.New(nil),
	}
	d.clock.trusted.Store(true)
	d.clock.set(d.at(local))
	return d
}

// at reads "2006-01-02 15:04".
func (d *day) at(local string) time.Time {
	at, err := time.ParseInLocation("2006-01-02 15:04", local, d.loc)
	if err != nil {
		d.t.Fatal(err)
	}
	return at
}

func (d *day) now() time.Time { now, _ := d.clock.Now(); return now }

// publish adds an asset of so many bytes, in pieces of 16 KiB.
func (d *day) publish(name string, n int) asset.ID { return d.publishFilm(name, n, nil) }

// publishFilm publishes a file that begins so.
func (d *day) publishFilm(name string, n int, begin []byte) asset.ID {
	const piece = 16 << 10
	data := make([]byte, n)
	_, _ = mrand.NewChaCha8([32]byte{name[0], byte(len(name))}).Read(data)
	copy(data, begin)
	var hashes []byte
	for off := 0; off < n; off += piece {
		h := sha1.Sum(data[off:min(off+piece, n)]) //nolint:gosec // BEP 3
		hashes = append(hashes, h[:]...)
	}
	tor, err := bencode.Marshal(map[string]any{
		"info":     map[string]any{"name": name, "piece length": piece, "length": n, "pieces": string(hashes), "private": 1},
		"url-list": []string{"http://origin.test/"},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	info, err := asset.ParseTorrent(tor)
	if err != nil {
		d.t.Fatal(err)
	}
	d.origin.data["/"+name] = data
	d.assets[info.ID] = &catalog.Asset{Info: info, Torrent: tor, Name: name, Publisher: "acme"}
	return info.ID
}

func (d *day) campaign(id string, c catalog.Campaign, assets ...asset.ID) {
	c.V, c.ID, c.Group = 1, id, "north"
	for _, a := range assets {
		c.Assets = append(c.Assets, catalog.AssetRef{ID: a, Path: catalog.AssetPath("acme", a)})
	}
	if err := c.Validate(); err != nil {
		d.t.Fatal(err)
	}
	d.camps = append(d.camps, c)
}

func (d *day) announce() {
	d.paper.set(&catalog.Snapshot{
		Version: 1, Expires: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), Campaigns: d.camps, Assets: d.assets,
	})
}

func (d *day) start(limits fetch.Limits) {
	d.t.Helper()
	d.startWith(fetch.Options{Origin: &http.Client{Transport: d.origin}, Limits: limits})
}

// startWith starts the box with options of which the day brings the rest.
func (d *day) startWith(o fetch.Options) {
	d.t.Helper()
	d.announce()
	o.Limits.WANDown = o.Limits.WANDown.Min(limit(dayLine))
	o.Cache, o.Catalog, o.Identity, o.Location, o.Health, o.LAN = d.cache, d.paper, d.clock, d.loc, d.health, d.home
	o.NewSwarm, o.Probe = func(fetch.Hooks) fetch.Swarm { return d.swarm }, fetch.Probe{Off: true}
	f, err := fetch.New(o)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Fetcher = f
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.Run(ctx); err != nil {
			d.t.Error(err)
		}
	}()
	d.stop = func() { cancel(); <-done }
	d.t.Cleanup(d.stop)
	d.wait(time.Second)
}

// wait lets the box live for a while.
func (d *day) wait(span time.Duration) { time.Sleep(span); synctest.Wait() }

// until lets the box live until its clock shows a local time.
func (d *day) until(local string) { d.wait(d.at(local).Sub(d.now())) }

func (d *day) asset(id asset.ID) fetch.AssetStatus {
	d.t.Helper()
	for _, a := range d.Status().Assets {
		if a.ID == id {
			return a
		}
	}
	d.t.Fatalf("%s: no asset %s", d.now().In(d.loc).Format(time.DateTime), id.Short())
	return fetch.AssetStatus{}
}

// why checks what `boxd why` says.
func (d *day) why(id asset.ID, want string) {
	d.t.Helper()
	if got, _ := d.Why(id); !strings.Contains(got, want) {
		d.t.Errorf("%s: why says %q, want %q", d.now().In(d.loc).Format(time.DateTime), got, want)
	}
}

// traffic lives for so many minutes and returns what the origin sent in each, by local time.
type traffic struct {
	at   []time.Time
	sent []int64
}

func (d *day) record(minutes int) (tr traffic) {
	for range minutes {
		before := d.origin.sent.Load()
		tr.at = append(tr.at, d.now())
		d.wait(time.Minute)
		tr.sent = append(tr.sent, d.origin.sent.Load()-before)
	}
	return tr
}

// span is a stretch of local time with what may pass each second.
type allowed struct {
	from, to time.Time
	rate     int64
}

// check compares the traffic with what was allowed: as much as the rate lets through inside, nothing outside.
func (tr traffic) check(t *testing.T, loc *time.Location, spans []allowed) {
	t.Helper()
	for i, at := range tr.at {
		var most, least int64
		end := at.Add(time.Minute)
		for _, s := range spans {
			from, to := at, end
			if s.from.After(from) {
				from = s.from
			}
			if s.to.Before(to) {
				to = s.to
			}
			if in := to.Sub(from); in > 0 {
				most += int64(in.Seconds() * float64(s.rate))
			}
		}
		least = most * 9 / 10
		if n := tr.sent[i]; n > most+most/20+32<<10 || n < least-32<<10 {
			t.Errorf("%s: %d bytes in a minute, want %d to %d", at.In(loc).Format(time.DateTime), n, least, most)
		}
	}
}

// hm is a window on the given days.
func hm(from, to string, rate int64, days ...string) catalog.Window {
	w := catalog.Window{Days: days, From: from, To: to}
	if rate >= 0 {
		w.RateBytesPerSecond = &rate
	}
	return w
}

// The windows of one campaign over a day and a half: several a day, one across midnight, other ones at the weekend, each
// with a rate of its own.
func TestADayOfWindows(t *testing.T) {
	wholeDays(t)
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) { // a Friday
		film := d.publish("film", 80<<20)
		d.campaign("night", catalog.Campaign{Windows: []catalog.Window{
			hm("01:00", "02:30", 4<<10, "mon", "tue", "wed", "thu", "fri"),
			hm("13:10", "13:30", 2<<10, "fri"),
			hm("23:00", "00:30", 8<<10, "fri"),
			hm("03:00", "03:20", -1, "sat", "sun"),
			hm("04:00", "05:00", 0, "sat"), // stopped
		}}, film)
		d.start(fetch.Limits{})
		d.why(film, "Its next window opens today at 13:10.")
		slots := d.Schedule(d.now(), 24*time.Hour)
		tr := d.record(30 * 60)
		d.why(film, "Its next window opens on Sunday at 03:00.")
		want := []allowed{
			{d.at("2026-06-05 13:10"), d.at("2026-06-05 13:30"), 2 << 10},
			{d.at("2026-06-05 23:00"), d.at("2026-06-06 00:30"), 8 << 10},
			{d.at("2026-06-06 03:00"), d.at("2026-06-06 03:20"), dayLine},
		}
		tr.check(t, d.loc, want)
		var active []schedule.Slot
		for _, s := range slots {
			if len(s.Active) > 0 {
				active = append(active, s)
			} else if s.Reason == "" {
				t.Errorf("the schedule does not say why nothing moves from %v to %v", s.From, s.To)
			}
		}
		if len(active) != len(want) {
			t.Fatalf("the schedule has %d active slots, want %d: %+v", len(active), len(want), slots)
		}
		for i, s := range active {
			if !s.From.Equal(want[i].from) || !s.To.Equal(want[i].to) {
				t.Errorf("the schedule foretold %v to %v, it was %v to %v", s.From, s.To, want[i].from, want[i].to)
			}
		}
	})
}

// Windows are local time: in the night to summer time they are an hour shorter, in the one back an hour longer, and one
// in the hour that is skipped does not open.
func TestTheNightsInWhichTheClocksChange(t *testing.T) {
	wholeDays(t)
	t.Parallel()
	for name, c := range map[string]struct {
		evening string
		spans   [][2]string // UTC
	}{
		"to summer time": {"2026-03-28 20:00", [][2]string{{"2026-03-29 00:30", "2026-03-29 01:30"}}},
		"back":           {"2026-10-24 20:00", [][2]string{{"2026-10-24 23:30", "2026-10-25 02:30"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDay(t, c.evening)
				film := d.publish("film", 80<<20)
				d.campaign("night", catalog.Campaign{Windows: []catalog.Window{hm("01:30", "03:30", 4<<10)}}, film)
				gap := d.publish("gap", 1<<20)
				if name == "to summer time" {
					d.campaign("gap", catalog.Campaign{Windows: []catalog.Window{hm("02:10", "02:50", 4<<10, "sun")}}, gap)
				}
				d.start(fetch.Limits{})
				tr := d.record(10 * 60)
				var want []allowed
				for _, s := range c.spans {
					var ends [2]time.Time
					for i := range s {
						at, err := time.Parse("2006-01-02 15:04", s[i])
						if err != nil {
							t.Fatal(err)
						}
						ends[i] = at
					}
					want = append(want, allowed{ends[0], ends[1], 4 << 10})
				}
				tr.check(t, d.loc, want)
				d.stop()
			})
		})
	}
}

// A box wakes in 1970, learns the time in the middle of a window, and has its clock put forward and back.
func TestTheClockIsPutRight(t *testing.T) {
	aDay(t, "1970-01-01 02:00", func(t *testing.T, d *day) {
		d.clock.trusted.Store(false)
		film := d.publish("film", 80<<20)
		d.campaign("night", catalog.Campaign{Windows: []catalog.Window{hm("01:00", "05:00", 4<<10)}}, film)
		d.start(fetch.Limits{})
		steps := []struct {
			local   string
			trusted bool
			moves   bool
			why     string
		}{
			{"1970-01-01 02:30", false, false, "The clock is not trusted yet"},
			{"2026-06-05 02:00", false, false, "The clock is not trusted yet"},
			{"2026-06-05 02:00", true, true, "origin"},
			{"2026-06-05 12:00", true, false, "Its next window opens on Saturday at 01:00."}, // forward, out of the window
			{"2026-06-05 04:00", true, true, "origin"},                                       // back, into it
			{"2026-06-04 04:30", true, true, "origin"},                                       // a whole day back
			{"2027-12-31 23:00", true, false, "Its next window opens on Saturday at 01:00."},
		}
		for _, s := range steps {
			d.clock.set(d.at(s.local))
			d.clock.trusted.Store(s.trusted)
			d.wait(20 * time.Second) // at most, until the box has noticed
			before := d.origin.sent.Load()
			d.wait(10 * time.Minute)
			if moved := d.origin.sent.Load() > before; moved != s.moves {
				t.Errorf("%s, trusted %v: moves %v, want %v", s.local, s.trusted, moved, s.moves)
			}
			d.why(film, s.why)
		}
	})
}

// The month's budget stops everything but the home, and the next month goes on.
func TestTheMonthlyBudget(t *testing.T) {
	aDay(t, "2026-06-30 22:00", func(t *testing.T, d *day) {
		film := d.publish("film", 80<<20)
		d.campaign("now", catalog.Campaign{}, film)
		const budget = 20 << 20
		d.start(fetch.Limits{Budget: limit(budget)})
		d.until("2026-06-30 23:59")
		d.why(film, "The monthly budget of the access line is spent.")
		if n := d.origin.sent.Load(); n < budget || n > budget+3*dayLine {
			t.Errorf("%d bytes of a budget of %d were used", n, budget)
		}
		if s := d.Status(); s.Month != "2026-06" || s.MonthWAN != d.origin.sent.Load() {
			t.Errorf("counted %d bytes in %s, the origin sent %d", s.MonthWAN, s.Month, d.origin.sent.Load())
		}
		before := d.origin.sent.Load()
		d.until("2026-07-01 00:10")
		if n := d.origin.sent.Load() - before; n < 9*60*dayLine || n > 10*61*dayLine {
			t.Errorf("%d bytes in the first ten minutes of the new month", n)
		}
	})
}

func TestZeroMeansStoppedAllDay(t *testing.T) {
	wholeDays(t)
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) {
		film := d.publish("film", 80<<20)
		d.campaign("night", catalog.Campaign{Windows: []catalog.Window{hm("00:00", "24:00", 0)}}, film)
		d.start(fetch.Limits{})
		d.wait(24 * time.Hour)
		d.why(film, "None of its windows opens within the coming week.")
		d.camps[0].Windows = nil
		d.announce()
		d.SetLimits(fetch.Limits{WANDown: limit(0)})
		d.wait(24 * time.Hour)
		d.why(film, "The access line limit of this box is zero.")
		if n := d.origin.sent.Load(); n != 0 {
			t.Errorf("the origin sent %d bytes", n)
		}
	})
}

// Not before, priorities, deadlines and keep-until of several campaigns through a night.
func TestANightOfCampaigns(t *testing.T) {
	wholeDays(t)
	aDay(t, "2026-06-05 20:00", func(t *testing.T, d *day) {
		const size = 5 << 20 // 5.3 minutes of the line
		late, film, ad, doomed := d.publish("late", size), d.publish("film", size), d.publish("ad", size), d.publish("x", 80<<20)
		night := []catalog.Window{hm("22:00", "23:00", -1)}
		d.campaign("tomorrow", catalog.Campaign{NotBefore: d.at("2026-06-05 22:30"), Windows: night, Priority: 9}, late)
		d.campaign("film", catalog.Campaign{Windows: night}, film)
		d.campaign("ads", catalog.Campaign{Windows: night, Deadline: d.at("2026-06-05 22:50")}, ad)
		d.campaign("doomed", catalog.Campaign{
			Windows: night, Deadline: d.at("2026-06-06 08:00"), MissedStops: true, KeepUntil: d.at("2026-06-07 00:00"),
		}, doomed)
		d.start(fetch.Limits{MaxActive: 1})
		d.until("2026-06-05 21:00")
		if a := d.asset(doomed); !a.Late || !a.Danger {
			t.Errorf("80 MiB in one hour of a line of 16 KiB/s is not foreseen to be late: %+v", a)
		}
		d.why(doomed, "It will miss its deadline")
		if a := d.asset(ad); a.Late {
			t.Errorf("5 MiB in 50 minutes is thought to be late: %+v", a)
		}
		d.why(late, "Its campaign has not begun yet.")
		d.until("2026-06-05 22:00")
		var order []string
		for range 60 {
			d.wait(time.Minute)
			for _, id := range []asset.ID{late, film, ad} {
				if a := d.asset(id); a.State == fetch.Ready && !slices.Contains(order, a.Name) {
					order = append(order, a.Name)
				}
			}
		}
		// The ad's deadline is the first; what cannot be met in any case comes last, and uses the time that is left.
		if want := []string{"ad", "film", "late"}; !slices.Equal(order, want) {
			t.Errorf("complete in the order %v, want %v", order, want)
		}
		if a := d.asset(doomed); a.Verified < 20<<20 {
			t.Errorf("the line was left idle: %d MiB", a.Verified>>20)
		}
		d.until("2026-06-06 09:00")
		d.why(doomed, "Its deadline has passed, and its campaign does not want it late.")
		d.until("2026-06-07 00:01")
		d.why(doomed, "No campaign asks for it now.")
	})
}
