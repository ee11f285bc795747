package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseDuration reads Go's durations and whole or broken days: 90m, 8h, 30d.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n <= 36500 {
			return time.Duration(n * 24 * float64(time.Hour)), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q: want how long, such as 90m, 8h or 30d", s)
	}
	return d, nil
}

// durationFlag reads the value of a flag into a form that the API takes; an empty one stays out.
func durationFlag(in map[string]any, key, flag, value string) error {
	if value == "" {
		return nil
	}
	d, err := parseDuration(value)
	if err != nil {
		return usageError{Err: fmt.Errorf("--%s %w", flag, err)}
	}
	in[key] = d.String()
	return nil
}

// objectFlag reads a JSON object from a flag.
func objectFlag(flag, value string) (json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(value), &object); err != nil {
		return nil, usageError{Err: fmt.Errorf("--%s: want a JSON object such as {\"key\":1}: %w", flag, err)}
	}
	return json.RawMessage(value), nil
}
