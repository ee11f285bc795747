package fetch

import (
	"testing"
	"time"
)

// A box that is switched off from 23:00 to 18:00 learns so within weeks, whatever the clock does at the change to summer
// time, and a box that was away begins anew.
func TestABoxLearnsItsHours(t *testing.T) {
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	var h habit
	begin := time.Date(2026, 3, 2, 18, 0, 0, 0, loc)
	day := 0
	live := func(days int) {
		for ; days > 0; days-- {
			on := time.Date(2026, 3, 2+day, 18, 0, 0, 0, loc)
			for at := on; at.Before(on.Add(5 * time.Hour)); at = at.Add(time.Minute) {
				h.look(at, loc)
			}
			day++
		}
	}
	live(6)
	if h.known() != nil {
		t.Error("a habit is known after six days")
	}
	live(50)
	k := h.known()
	if k == nil {
		t.Fatalf("nothing is known of %v", h.Last.Sub(begin))
	}
	for i, p := range k {
		switch hour := i % 24; {
		case hour >= 18 && hour < 23 && p < 95:
			t.Errorf("hour %d of the week: %d %%, and it was on", i, p)
		case (hour < 18 || hour == 23) && p > 12:
			t.Errorf("hour %d of the week: %d %%, and it was off", i, p)
		}
	}
	h.look(h.Last.Add(40*24*time.Hour), loc)
	if h.known() != nil {
		t.Error("a box that comes back after 40 days still has its old habit")
	}
	h.look(h.Last.Add(-time.Hour), loc) // a clock that goes back
	if h.On != 0 || h.known() != nil {
		t.Errorf("after the clock went back: %+v", h)
	}
}
