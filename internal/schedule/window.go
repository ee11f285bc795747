package schedule

import (
	"sort"
	"time"
)

// Window is a span of local time that comes back on the days it names.
type Window struct {
	Days [7]bool // by time.Weekday, the day on which the window opens; none set means every day
	From int     // minutes after local midnight, 0 to 1439
	To   int     // minutes after local midnight, 0 to 1440; not after From: the next day. Equal to From: 24 hours
	Rate Limit   // bytes per second
}

// Habit is, for each hour of the week in local time from Sunday 00:00, how much of it this box tends to be on, in
// percent.
type Habit [7 * 24]uint8

// span is one opening of a window.
type span struct {
	from, to time.Time
	rate     Limit
}

// horizonDays is how far ahead windows are looked for: a week, a day for what began yesterday and one to round up.
const horizonDays = 9

// spans lists the openings that end after t, in order of their beginning, for the coming week.
func spans(t time.Time, ws []Window, loc *time.Location) []span {
	var list []span
	y, m, day := t.In(loc).Date()
	for k := -1; k < horizonDays; k++ {
		noon := time.Date(y, m, day+k, 12, 0, 0, 0, loc)
		for _, w := range ws {
			if w.Days != ([7]bool{}) && !w.Days[noon.Weekday()] || w.Rate.Stopped() { // one that lets nothing through is closed
				continue
			}
			s := span{from: clock(y, m, day+k, w.From, loc), to: clock(y, m, day+k, w.To, loc), rate: w.Rate}
			if w.To <= w.From {
				s.to = clock(y, m, day+k+1, w.To, loc)
			}
			// A window inside the hour that summer time skips has no length that night.
			if s.to.After(s.from) && s.to.After(t) {
				list = append(list, s)
			}
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].from.Before(list[j].from) })
	return list
}

// clock is the moment at which wall clocks show the given minutes after midnight. A time that the change to summer
// time skips is the moment of the change; of a time that comes twice in autumn it is the first.
func clock(y int, m time.Month, d, minutes int, loc *time.Location) time.Time {
	wall := time.Date(y, m, d, 0, minutes, 0, 0, time.UTC)
	// time.Date in loc would take the second of two moments east of Greenwich: the zones that were in force are gone through.
	for t := wall.Add(-farthest).In(loc); ; {
		_, offset := t.Zone()
		start, end := t.ZoneBounds()
		at := wall.Add(-time.Duration(offset) * time.Second)
		if end.IsZero() || at.Before(end) {
			return later(at, start).In(loc)
		}
		t = end
	}
}

// farthest is more than clocks differ from UTC anywhere.
const farthest = 26 * time.Hour

// openAt says whether one of the windows is open at t, at what rate and until when at least, and when one opens next.
func openAt(t time.Time, ws []Window, loc *time.Location) (open bool, rate Limit, until, next time.Time) {
	if len(ws) == 0 {
		return true, Limit{}, time.Time{}, time.Time{}
	}
	for _, s := range spans(t, ws, loc) {
		if s.from.After(t) {
			next = soonest(next, s.from)
			break
		}
		if !open || wider(s.rate, rate) {
			rate = s.rate
		}
		open = true
		until = soonest(until, s.to)
	}
	if open {
		until = soonest(until, next) // another window may change the rate
	}
	return open, rate, until, next
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
