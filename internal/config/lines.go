package config

import (
	"reflect"
	"strings"
)

// keyLines finds the line of every "[table]" and "key =" for messages. It knows no more of TOML than that: what it does
// not find gets no line, and the TOML library alone decides what the file means.
func keyLines(text string) map[string]int {
	lines := map[string]int{}
	table, multi := "", ""
	for i, line := range strings.Split(text, "\n") {
		if multi != "" {
			if strings.Contains(line, multi) {
				multi = ""
			}
			continue
		}
		line = strings.TrimSpace(line)
		for _, q := range []string{`"""`, `'''`} {
			if strings.Count(line, q)%2 == 1 {
				multi = q
			}
		}
		if strings.HasPrefix(line, "[") {
			if head, _, ok := strings.Cut(strings.TrimLeft(line, "["), "]"); ok && !strings.Contains(head, ",") {
				table = keyName(head)
				note(lines, table, i+1)
				table += "."
			}
			continue
		}
		if key, _, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			note(lines, table+keyName(key), i+1)
		}
	}
	return lines
}

func note(lines map[string]int, key string, line int) {
	if _, had := lines[key]; !had {
		lines[key] = line
	}
}

func keyName(s string) string {
	parts := strings.Split(s, ".")
	for i, p := range parts {
		parts[i] = strings.Trim(strings.TrimSpace(p), `"'`)
	}
	return strings.Join(parts, ".")
}

// suggest names the nearest known key when it is near enough to be what was meant.
func suggest(key string, known map[string]reflect.Value) string {
	best, bestDist := "", 3
	for k := range known {
		if d := distance(key, k); d < bestDist || d == bestDist && best != "" && k < best {
			best, bestDist = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is Levenshtein's, over bytes.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
