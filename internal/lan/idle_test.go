package lan

import (
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
)

// TestFallingIdleIsNoDeath: when the last want goes, the boxes speak less often, and neither takes the other for dead for
// having seen it later.
func TestFallingIdleIsNoDeath(t *testing.T) {
	ca := newCA(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		boxes := household(t, newSimNet(), ca, 2)
		defer stopAll(boxes)
		id := testID(1)
		for round := range 10 {
			boxes[0].SetSelf(wants(id))
			time.Sleep(5*time.Second + time.Duration(round)*97*time.Millisecond)
			boxes[0].SetSelf(Self{WAN: true, Holds: []asset.ID{id}})
			for range 150 {
				time.Sleep(100 * time.Millisecond)
				for i, b := range boxes {
					if len(b.Neighbours()) != 1 {
						t.Fatalf("round %d: box %d has lost its neighbour", round, i)
					}
				}
			}
		}
	})
}
