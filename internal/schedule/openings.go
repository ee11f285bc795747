package schedule

import (
	"fmt"
	"time"
)

// maxLookAhead bounds how far usable time is added up: a deadline beyond it is in no danger.
const maxLookAhead = 35 * 24 * time.Hour

// opening is a stretch of usable time: within one clock hour, so that one weight holds for all of it.
type opening struct {
	from, to time.Time
	weight   float64 // how likely the box is on, 0 to 1
}

func (o opening) seconds() float64 { return o.to.Sub(o.from).Seconds() * o.weight }

// openings is usable time from now to the end of the look-ahead, in order and without overlap.
type openings []opening

// merged returns the usable time of these windows; whole means that no window restricts it.
func (d *decider) merged(ws []Window, whole bool) openings {
	key := "whole"
	if !whole {
		key = fmt.Sprint(ws)
	}
	if o, ok := d.usable[key]; ok {
		return o
	}
	var o openings
	end := d.now.Add(maxLookAhead)
	if whole {
		o = d.in.Habit.hours(o, d.now, end, d.loc)
	} else {
		for _, s := range mergedSpans(d.now, end, ws, d.loc) {
			o = d.in.Habit.hours(o, s.from, s.to, d.loc)
		}
	}
	if d.usable == nil {
		d.usable = map[string]openings{}
	}
	d.usable[key] = o
	return o
}

// mergedSpans returns the openings of ws in [from, to) as spans that do not overlap.
func mergedSpans(from, to time.Time, ws []Window, loc *time.Location) []span {
	var out []span
	for t := from; t.Before(to); {
		y, m, d := t.In(loc).Date()
		end := earliest(time.Date(y, m, d+7, 0, 0, 0, 0, loc), to) // spans is sure to be complete up to here
		for _, s := range spans(t, ws, loc) {
			s.from, s.to = later(s.from, t), earliest(s.to, end)
			if n := len(out); n > 0 && !s.from.After(out[n-1].to) {
				out[n-1].to = later(out[n-1].to, s.to)
			} else if s.from.Before(s.to) {
				out = append(out, s)
			}
		}
		t = end
	}
	return out
}

// hours appends [from, to) to o: whole when the box is always on, else cut at clock hours.
func (h *Habit) hours(o openings, from, to time.Time, loc *time.Location) openings {
	if h == nil {
		return append(o, opening{from, to, 1})
	}
	for t := from; t.Before(to); {
		end := earliest(to, t.Truncate(time.Hour).Add(time.Hour))
		l := t.In(loc)
		o = append(o, opening{t, end, float64(h[int(l.Weekday())*24+l.Hour()]) / 100})
		t = end
	}
	return o
}

// until adds up the usable seconds before the deadline.
func (o openings) until(deadline time.Time) float64 {
	var sum float64
	for _, x := range o {
		if x.to = earliest(x.to, deadline); x.to.After(x.from) {
			sum += x.seconds()
		}
	}
	return sum
}

// lasting adds up the open time before the end, whether the box tends to be on or not.
func (o openings) lasting(end time.Time) (sum time.Duration) {
	for _, x := range o {
		if x.to = earliest(x.to, end); x.to.After(x.from) {
			sum += x.to.Sub(x.from)
		}
	}
	return sum
}

// after is the moment at which so many usable seconds will have passed; zero when that is beyond the look-ahead.
func (o openings) after(seconds float64) time.Time {
	for _, x := range o {
		if got := x.seconds(); got >= seconds && x.weight > 0 {
			return x.from.Add(time.Duration(seconds / x.weight * float64(time.Second)))
		}
		seconds -= x.seconds()
	}
	return time.Time{}
}

// before is the last moment from which so many usable seconds remain until the deadline; zero when there never were as
// many. A deadline beyond the look-ahead counts from its end.
func (o openings) before(deadline time.Time, seconds float64) time.Time {
	for i := len(o) - 1; i >= 0; i-- {
		x := o[i]
		if x.to = earliest(x.to, deadline); !x.to.After(x.from) {
			continue
		}
		if got := x.seconds(); got >= seconds && x.weight > 0 {
			return x.to.Add(-time.Duration(seconds / x.weight * float64(time.Second)))
		}
		seconds -= x.seconds()
	}
	return time.Time{}
}
