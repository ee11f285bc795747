package operate

import "testing"

// While no box is online nobody can say that the clock is right.
func TestAClockThatNobodyConfirmsIsDoubted(t *testing.T) {
	d := newDesk(t)
	d.hear("box-a")
	if doubtful, err := d.clockDoubtful(ctx); doubtful || err != nil {
		t.Errorf("doubtful with a box that agrees: %t, %v", doubtful, err)
	}
	if _, err := d.o.Registry.MarkSilent(ctx, d.now().Add(1)); err != nil {
		t.Fatal(err)
	}
	if doubtful, err := d.clockDoubtful(ctx); !doubtful || err != nil {
		t.Errorf("doubtful with nobody online: %t, %v", doubtful, err)
	}
}
