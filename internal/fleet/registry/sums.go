package registry

import "strings"

// mostBytes is where sums of bytes end: a box that lies may not make them overflow, which would be an error for everybody.
const mostBytes = "4611686018427387904"

// sum is SUM, exact below mostBytes and never above it. NULL stays NULL.
func (g *Registry) sum(expr string) string {
	if g.pg {
		return "CAST(LEAST(SUM(" + expr + "), " + mostBytes + ") AS BIGINT)"
	}
	// SQLite's SUM of integers fails where it overflows, and its other arithmetic goes on with floating point.
	return "CAST(MIN(SUM((" + expr + ") >> 20) * 1048576 + SUM((" + expr + ") & 1048575), " + mostBytes + ") AS INTEGER)"
}

func (g *Registry) sums(columns ...string) string {
	list := make([]string, 0, len(columns))
	for _, c := range columns {
		list = append(list, g.sum(c))
	}
	return strings.Join(list, ", ")
}

// addUp is what ON CONFLICT sets to add counts to those that are there.
func (g *Registry) addUp(table string, columns ...string) string {
	least := "MIN"
	if g.pg {
		least = "LEAST"
	}
	list := make([]string, 0, len(columns))
	for _, c := range columns {
		list = append(list, c+" = "+least+"("+table+"."+c+", "+mostBytes+" - excluded."+c+") + excluded."+c)
	}
	return strings.Join(list, ", ")
}
