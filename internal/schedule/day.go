package schedule

import (
	"time"
)

// Slot is one stretch of the coming day, as `boxd schedule` prints it.
type Slot struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Active []string  `json:"active"` // assets that use the access line, most urgent first
	Done   []string  `json:"done"`   // assets expected to be complete at To
	Reason string    `json:"reason"` // when nothing is active: why
}

// A day with more changes than this ends early: in the preview, and in what is decided for it, as slots that look alike
// become one.
const (
	maxSlots     = 200
	maxDecisions = 10 * maxSlots
)

// Day plays the schedule forward over the given time, as if the line gave what it gave so far and nothing else changed.
func Day(now time.Time, in Input, length time.Duration) []Slot { return day(now, in, length, Decide) }

func day(now time.Time, in Input, length time.Duration, decide func(time.Time, Input) Plan) []Slot {
	end := now.Add(length)
	in.Assets = append([]Asset(nil), in.Assets...)
	var slots []Slot
	t := now
	for n := 0; n < maxDecisions && t.Before(end) && len(slots) < maxSlots; n++ {
		plan := decide(t, in)
		slot := Slot{From: t, To: end}
		if !plan.Next.IsZero() {
			slot.To = earliest(plan.Next, end)
		}
		var first *Want
		for i := range plan.Wants {
			w := &plan.Wants[i]
			if w.WAN {
				slot.Active = append(slot.Active, w.ID)
				if first == nil {
					first = w
				}
			} else if w.Fetch && slot.Reason == "" {
				slot.Reason = w.Reason.Text
			}
		}
		if first != nil {
			slot.Reason = ""
			slot.Done = in.carry(first, plan.WAN, &slot)
		}
		slots = appendSlot(slots, slot)
		t = slot.To
	}
	return slots
}

// carry takes from the most urgent asset what the line brings in the slot, and ends the slot when that completes it.
func (in *Input) carry(w *Want, wan Limit, s *Slot) []string {
	rate := in.LineRate
	if rate <= 0 {
		rate = DefaultLineRate
	}
	if l := w.Rate.Min(wan); l.Set {
		rate = min(rate, float64(l.Value))
	}
	for i := range in.Assets {
		a := &in.Assets[i]
		if a.ID != w.ID || rate <= 0 {
			continue
		}
		need := a.Missing
		if a.PrefixMissing > 0 {
			need = a.PrefixMissing
		}
		// At a very low rate that is more seconds than a Duration holds.
		if secs := float64(need)/rate + 1; secs < s.To.Sub(s.From).Seconds() {
			s.To = s.From.Add(time.Duration(secs * float64(time.Second)))
		}
		got := int64(rate * s.To.Sub(s.From).Seconds())
		in.BudgetUsed += min(got, a.Missing)
		a.PrefixMissing = max(0, a.PrefixMissing-got)
		a.Missing = max(0, a.Missing-got)
		if a.Missing == 0 {
			return []string{a.ID}
		}
	}
	return nil
}

// appendSlot joins a slot to the one before it when nothing that a person would see differs.
func appendSlot(slots []Slot, s Slot) []Slot {
	if n := len(slots); n > 0 {
		last := &slots[n-1]
		if len(last.Done) == 0 && last.Reason == s.Reason && equal(last.Active, s.Active) {
			last.To, last.Done = s.To, s.Done
			return slots
		}
	}
	return append(slots, s)
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
