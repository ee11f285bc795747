package fetch

import (
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/engine"
	"boxd/internal/lan"
)

// nearSwarm tells how many boxes of the home have each piece.
type nearSwarm struct {
	Swarm
	near []int
}

func (s *nearSwarm) Availability(_ asset.ID, _ engine.Class) []int { return s.near }

// emptyStore has nothing yet.
type emptyStore struct{ Asset }

func (emptyStore) HaveCount() int { return 0 }

func TestEachPieceHasOneFollowerThatTakesItFirst(t *testing.T) {
	boxes := []string{"a", "b", "c", "d", "e", "f", "g"}
	takers := map[string]int{}
	for piece := range 7000 {
		n := 0
		for _, self := range boxes {
			var others []uint64
			for _, o := range boxes {
				if o != self {
					others = append(others, boxHash(o))
				}
			}
			if takes(piece, boxHash(self), others) {
				takers[self]++
				n++
			}
		}
		if n != 1 {
			t.Fatalf("piece %d is taken first by %d boxes", piece, n)
		}
	}
	for box, n := range takers {
		if n < 800 || n > 1200 {
			t.Errorf("box %s takes %d of 7000 pieces first", box, n)
		}
	}
}

func TestAFollowerLeavesPiecesToOthersForAMoment(t *testing.T) {
	h := &fixedHome{courier: "c"}
	f, it := follower(t, h)
	it.courier, it.store = "c", emptyStore{}
	s := &nearSwarm{near: make([]int, it.info.NumPieces())}
	f.swarm = s
	want := lan.Want{ID: it.id}
	h.neighbours = []lan.Neighbour{{ID: "c", Wants: []lan.Want{want}}}
	now := time.Now()
	if f.spread(it, now) != nil {
		t.Error("it waits for followers that are not there")
	}
	h.neighbours = append(h.neighbours, lan.Neighbour{ID: "x", Wants: []lan.Want{want}})
	if f.spread(it, now) != nil {
		t.Error("it waits before it has met anybody who has pieces")
	}
	s.near[0], s.near[1] = 1, 1 // there before this box looked
	theirs := 2
	for takes(theirs, boxHash("me"), []uint64{boxHash("x")}) {
		theirs++
	}
	mine := 2
	for !takes(mine, boxHash("me"), []uint64{boxHash("x")}) {
		mine++
	}
	left := f.spread(it, now)
	if left(0) || left(1) {
		t.Error("it waits for what was there when it came")
	}
	if !left(theirs) || left(mine) {
		t.Errorf("of pieces to come: leaves its own %v, the other's %v", left(mine), left(theirs))
	}
	s.near[theirs] = 1
	if !f.spread(it, now)(theirs) {
		t.Error("it takes at once what is the other's")
	}
	if f.spread(it, now.Add(meshWait))(theirs) {
		t.Error("it waits for ever")
	}
	s.near[theirs] = 2
	if f.spread(it, now)(theirs) {
		t.Error("it does not take what is in the home twice")
	}
	it.want.Danger = true
	if f.spread(it, now) != nil {
		t.Error("it waits though the deadline is in danger")
	}
}
