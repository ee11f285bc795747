package fetch

import (
	"encoding/json"
	"time"

	"boxd/internal/schedule"
)

// habit learns in which hours of the week this box is on, so that a deadline counts only time that it can use. It is
// learnt from the clock, when that is trusted: time that passed without this program having run was spent off.
type habit struct {
	V       int       `json:"v"`
	First   time.Time `json:"first"` // the beginning of what was learnt
	Last    time.Time `json:"last"`  // up to when it was
	On      float64   `json:"on"`    // seconds on in the hour of Last
	Percent [168]int  `json:"percent"`
}

const (
	bucketHabit  = "fetch.habit"
	habitKnown   = 7 * 24 * time.Hour  // before, the box is thought to be always on
	habitGap     = 2 * time.Minute     // longer between two looks: it was off
	habitLongest = 28 * 24 * time.Hour // after more the box begins anew: it was sold, or stored
	habitSave    = 10 * time.Minute
	habitShare   = 0.3 // of the latest week in what is known of an hour
)

// look takes note that the box is on now.
func (h *habit) look(now time.Time, loc *time.Location) {
	gap := now.Sub(h.Last)
	if h.V == 0 || gap < 0 || gap > habitLongest {
		*h = habit{V: 1, First: now, Last: now}
		for i := range h.Percent {
			h.Percent[i] = 100
		}
		return
	}
	on := gap <= habitGap
	for h.Last.Before(now) {
		end := h.Last.Truncate(time.Hour).Add(time.Hour)
		to := end
		if now.Before(end) {
			to = now
		}
		if on {
			h.On += to.Sub(h.Last).Seconds()
		}
		if to.Equal(end) {
			l := h.Last.In(loc)
			slot := &h.Percent[int(l.Weekday())*24+l.Hour()]
			*slot = int((1-habitShare)*float64(*slot) + habitShare*min(h.On/36, 100) + 0.5)
			h.On = 0
		}
		h.Last = to
	}
}

// known is the habit for the schedule; nil while too little is known.
func (h *habit) known() *schedule.Habit {
	if h.Last.Sub(h.First) < habitKnown {
		return nil
	}
	var s schedule.Habit
	for i, p := range h.Percent {
		s[i] = uint8(min(max(p, 0), 100)) //nolint:gosec // bounded
	}
	return &s
}

// learnHabit looks at the clock and keeps what was learnt.
func (f *Fetcher) learnHabit(now time.Time, trusted bool) {
	if !trusted {
		return
	}
	if !f.habitLoaded {
		f.habitLoaded = true
		f.loadHabit()
	}
	f.habit.look(now, f.o.Location)
	if since := now.Sub(f.habitSaved); since >= habitSave || since < 0 {
		f.saveHabit(now)
	}
}

func (f *Fetcher) loadHabit() {
	if f.o.State == nil {
		return
	}
	b, ok, err := f.o.State.Get(bucketHabit, []byte("v1"))
	if err == nil && ok {
		err = json.Unmarshal(b, &f.habit)
	}
	if err != nil {
		f.log.Warn("what was learnt of the box's hours is lost", "err", err)
		f.habit = habit{}
	}
}

func (f *Fetcher) saveHabit(now time.Time) {
	f.habitSaved = now
	if f.o.State == nil || f.habit.V == 0 {
		return
	}
	b, err := json.Marshal(&f.habit)
	if err == nil {
		err = f.o.State.Put(bucketHabit, []byte("v1"), b)
	}
	if err != nil {
		f.log.Warn("saving the box's hours failed", "err", err)
	}
}
