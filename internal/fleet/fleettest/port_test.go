package fleettest

import "testing"

// A port is nobody else's until the test ends.
func TestAPortIsGivenOnce(t *testing.T) {
	seen := map[int]bool{}
	for range 300 {
		p := FreePort(t)
		if seen[p] || p < firstPort || p >= firstPort+portCount {
			t.Fatalf("port %d, given before: %t", p, seen[p])
		}
		seen[p] = true
	}
}
