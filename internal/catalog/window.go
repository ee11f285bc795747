package catalog

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Window is a span of the box's local time that comes back on the days it names.
type Window struct {
	Days []string `json:"days,omitempty"` // "mon" to "sun": the day on which it opens; none: every day
	From string   `json:"from"`           // "HH:MM", 00:00 to 23:59
	To   string   `json:"to"`             // "HH:MM", 00:00 to 24:00; not after From: the next day; equal to From: 24 hours
	// RateBytesPerSecond caps the WAN while the window is open: nil means no cap, 0 means stopped.
	RateBytesPerSecond *int64 `json:"rate_bytes_per_second,omitempty"`
}

var weekdays = map[string]time.Weekday{
	"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday, "wed": time.Wednesday,
	"thu": time.Thursday, "fri": time.Friday, "sat": time.Saturday,
}

// Weekdays is Days indexed by time.Weekday; none set means every day.
func (w Window) Weekdays() (days [7]bool) {
	for _, d := range w.Days {
		if n, ok := weekdays[d]; ok {
			days[n] = true
		}
	}
	return days
}

// Minutes is From and To as minutes after local midnight. It is meaningful for a Window that Validate accepts.
func (w Window) Minutes() (from, to int) {
	from, _ = parseClock(w.From)
	to, _ = parseClock(w.To)
	return from, to
}

// Validate joins all faults of a window.
func (w Window) Validate() error {
	var faults []error
	for i, d := range w.Days {
		if _, ok := weekdays[d]; !ok {
			faults = append(faults, fmt.Errorf("days[%d]: %.20q is not one of mon, tue, wed, thu, fri, sat, sun", i, d))
		}
	}
	if len(w.Days) > len(weekdays) {
		faults = append(faults, fmt.Errorf("%d days, more than 7", len(w.Days)))
	}
	from, err := parseClock(w.From)
	if err != nil || from == 24*60 {
		faults = append(faults, fmt.Errorf("from %.20q: want HH:MM from 00:00 to 23:59", w.From))
	}
	if _, err := parseClock(w.To); err != nil {
		faults = append(faults, fmt.Errorf("to %.20q: want HH:MM from 00:00 to 24:00", w.To))
	}
	if w.RateBytesPerSecond != nil && *w.RateBytesPerSecond < 0 {
		faults = append(faults, errors.New("rate_bytes_per_second is negative"))
	}
	return errors.Join(faults...)
}

// parseClock reads exactly five characters, HH:MM.
func parseClock(s string) (int, error) {
	if len(s) != 5 || s[2] != ':' || strings.Trim(s[:2]+s[3:], "0123456789") != "" {
		return 0, fmt.Errorf("time of day %.20q: want HH:MM", s)
	}
	m := (int(s[0]-'0')*10+int(s[1]-'0'))*60 + int(s[3]-'0')*10 + int(s[4]-'0')
	if s[3] > '5' || m > 24*60 {
		return 0, fmt.Errorf("time of day %q is beyond 24:00", s)
	}
	return m, nil
}

// Duration is a time.Duration that is a string such as "1h30m" in JSON.
type Duration time.Duration

// String is time.Duration's.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes what time.ParseDuration reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText is time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}
