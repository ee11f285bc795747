package registry

import (
	"fmt"
	"testing"
)

// With more boxes than are to be remembered a batch looks at all of them at most every half minute.
func TestManyBoxesAreSweptSeldom(t *testing.T) {
	s := spent{boxes: map[string]written{}}
	for i := range maxSpent {
		s.boxes[fmt.Sprint(i)] = written{lines: 1, at: 1}
	}
	const now = 10 * dayMS
	add := func(at int64) int {
		s.add(map[string]written{"new": {lines: 1, at: at}, "other": {lines: 1, at: at}})
		return len(s.boxes)
	}
	s.swept = now - sweepMS + 1
	if n := add(now); n != maxSpent+2 {
		t.Errorf("%d boxes, swept too early", n)
	}
	if n := add(now + 1); n != 2 || s.swept != now+1 {
		t.Errorf("%d boxes are remembered", n)
	}
	s.swept = now + dayMS // by a clock that was wrong
	for i := range maxSpent {
		s.boxes[fmt.Sprint(i)] = written{lines: 1, at: 1}
	}
	if n := add(now + 2); n != 2 {
		t.Errorf("%d boxes are remembered behind a clock that was ahead", n)
	}
}

// A box is told once that it makes too many lines; what it may write again afterwards is its own.
func TestTooManyLinesAreToldOnce(t *testing.T) {
	g := &Registry{}
	now := int64(dayMS)
	told, noted := 0, 0
	note := func(n int) {
		b := &batch{g: g, wrote: map[string]written{}}
		for range n {
			yes, last := b.mayNote("evil", now)
			if yes {
				noted++
			}
			if last {
				told++
			}
		}
		g.spent.add(b.wrote)
	}
	note(maxLines + 100)
	if noted != maxLines || told != 1 {
		t.Fatalf("%d lines, told %d times", noted, told)
	}
	for range 50 {
		now += dayMS/maxLines + 1
		note(3)
	}
	if noted != maxLines+50 || told != 1 {
		t.Errorf("little by little: %d lines, told %d times", noted, told)
	}
	now += dayMS * 3 / 4
	note(maxLines)
	if told != 2 {
		t.Errorf("another flood: told %d times", told)
	}
}
