package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes; in the file "20GiB", "500MB" or a plain number.
type Size int64

// Rate is bytes a second; in the file "20Mbit/s", "2.5MB/s", "512KiB/s" or a plain number of bytes.
type Rate int64

// Duration is a time.Duration; in the file "90s", "15m", "36h" or "30d".
type Duration time.Duration

// RateLimit is a Rate that may be absent: the zero value is no limit, a Value of 0 stops.
type RateLimit struct {
	Set   bool
	Value Rate
}

// SizeLimit is a Size that may be absent: the zero value is no limit, a Value of 0 stops.
type SizeLimit struct {
	Set   bool
	Value Size
}

type unit struct {
	name  string
	bytes float64
}

// Longest suffix first, so that "GiB" is not read as "B".
var sizeUnits = []unit{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
	{"", 1},
}

var bitUnits = []unit{{"kbit", 125}, {"Mbit", 125e3}, {"Gbit", 125e6}, {"bit", 0.125}}

func parseUnits(s string, units []unit) (int64, error) {
	s = strings.TrimSpace(s)
	for _, u := range units {
		num, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		switch {
		case err != nil || math.IsNaN(v):
			return 0, errors.New("not a number with a unit")
		case v < 0:
			return 0, errors.New("negative")
		case v*u.bytes >= math.MaxInt64:
			return 0, errors.New("too large")
		}
		return int64(v * u.bytes), nil
	}
	return 0, errors.New("not a number with a unit")
}

// ParseSize reads a size.
func ParseSize(s string) (Size, error) {
	v, err := parseUnits(s, sizeUnits)
	if err != nil {
		return 0, fmt.Errorf("size %.40q: %w; write it like \"20GiB\" or \"500MB\"", s, err)
	}
	return Size(v), nil
}

// ParseRate reads a rate.
func ParseRate(s string) (Rate, error) {
	num, perSecond := strings.CutSuffix(strings.TrimSpace(s), "/s")
	units := sizeUnits
	if perSecond {
		units = append(append([]unit{}, bitUnits...), sizeUnits...)
	}
	v, err := parseUnits(num, units)
	if err != nil {
		return 0, fmt.Errorf("rate %.40q: %w; write it like \"20Mbit/s\" or \"2.5MB/s\"", s, err)
	}
	return Rate(v), nil
}

// ParseDuration reads a duration; on top of Go's units "d" is 24 hours.
func ParseDuration(s string) (Duration, error) {
	s = strings.TrimSpace(s)
	if s == "0" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err == nil && n >= 0 && n < 100*365 {
			return Duration(n * 24 * float64(time.Hour)), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("duration %.40q: write it like \"90s\", \"15m\" or \"30d\"", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("duration %.40q: negative", s)
	}
	return Duration(d), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Size) UnmarshalText(b []byte) (err error) { *v, err = ParseSize(string(b)); return err }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Rate) UnmarshalText(b []byte) (err error) { *v, err = ParseRate(string(b)); return err }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Duration) UnmarshalText(b []byte) (err error) {
	*v, err = ParseDuration(string(b))
	return err
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *RateLimit) UnmarshalText(b []byte) error { v.Set = true; return v.Value.UnmarshalText(b) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *SizeLimit) UnmarshalText(b []byte) error { v.Set = true; return v.Value.UnmarshalText(b) }

// String is the size with the largest unit that leaves no remainder.
func (v Size) String() string {
	for i := 3; i >= 0; i-- {
		if u := sizeUnits[i]; v != 0 && int64(v)%int64(u.bytes) == 0 {
			return strconv.FormatInt(int64(v)/int64(u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(v), 10) + "B"
}

// String is Size's with "/s" behind it.
func (v Rate) String() string { return Size(v).String() + "/s" }

// String is time.Duration's.
func (v Duration) String() string { return time.Duration(v).String() }

// Std is the duration as the standard library's type.
func (v Duration) Std() time.Duration { return time.Duration(v) }

// Ratio is a number that is not negative.
type Ratio float64

// UnmarshalText reads "1.5".
func (r *Ratio) UnmarshalText(b []byte) error {
	x, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(x >= 0 && x <= 1000) {
		return fmt.Errorf("%.40q; want a number from 0 to 1000", b)
	}
	*r = Ratio(x)
	return nil
}
