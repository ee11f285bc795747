package courtesy

import (
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// Temperatures in thousandths of a degree Celsius, as the kernel has them.
const (
	warmByDefault = 85_000 // where a zone names no trip point
	hotByDefault  = 100_000
	margin        = 5_000  // below the point at which the system slows itself down
	criticalRoom  = 10_000 // below the point at which it shuts down
	slowedRoom    = 3_000  // above the point at which it slows itself down: what it holds there does no harm
	hysteresis    = 5_000  // to cool down before it counts
	believable    = 200_000
	mostZones     = 64
	mostTrips     = 16
)

// read returns the heat of the warmest zone; before is what it was at the last look.
func read(sys fs.FS, before Heat) Heat {
	worst := Cool
	if sys == nil {
		return worst
	}
	entries, err := fs.ReadDir(sys, ".")
	if err != nil {
		return worst // a box without sensors, or a container
	}
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "thermal_zone") && n < mostZones {
			n++
			worst = max(worst, zone(sys, e.Name(), before))
		}
	}
	return worst
}

// zone compares a zone's temperature with the points at which the system itself does something about it.
func zone(sys fs.FS, name string, before Heat) Heat {
	if s, ok := word(sys, name+"/mode"); ok && s == "disabled" {
		return Cool
	}
	temp, ok := number(sys, name+"/temp")
	if !ok || temp <= 0 || temp > believable {
		return Cool // sensors that are asleep or broken say such things
	}
	slowed, noted, critical := 0, hotByDefault, believable // no trip point of the kind
	for i := range mostTrips {
		at, ok := number(sys, fmt.Sprintf("%s/trip_point_%d_temp", name, i))
		if !ok {
			break
		}
		kind, _ := word(sys, fmt.Sprintf("%s/trip_point_%d_type", name, i))
		if at <= 0 || at > believable {
			continue // not set
		}
		switch kind {
		case "passive": // the processor is slowed down; the lowest of several is often only where the governor begins to look
			slowed = max(slowed, at)
		case "hot": // somebody is told; many device trees slow down further there
			noted = min(noted, at)
		case "critical": // the system shuts down
			critical = min(critical, at)
		}
	}
	hot := min(max(min(noted, critical-criticalRoom), slowed+slowedRoom), critical-slowedRoom)
	warm := min(warmByDefault, hot-margin)
	if slowed > 0 {
		warm = min(slowed, hot) - margin
	}
	if before >= Warm {
		warm -= hysteresis
	}
	if before >= Hot {
		hot -= hysteresis
	}
	switch {
	case temp >= hot:
		return Hot
	case temp >= warm:
		return Warm
	}
	return Cool
}

func word(sys fs.FS, name string) (string, bool) {
	f, err := sys.Open(name)
	if err != nil {
		return "", false
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing to lose
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return "", false
	}
	return strings.TrimSpace(string(b)), true
}

func number(sys fs.FS, name string) (int, bool) {
	s, ok := word(sys, name)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}
