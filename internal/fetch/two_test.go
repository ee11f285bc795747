package fetch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fetch"
)

// Two viewers of two films share the line, and what nobody watches leaves it to them.
func TestTwoViewersShareTheLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		a, b := d.shut("film", 400), d.shut("show", 400)
		other := d.publish("other", 400*dayPiece)
		d.campaign("other", catalog.Campaign{}, other)
		d.start(fetch.Limits{})
		d.wait(10 * time.Second)
		before := d.kept(other).HaveCount()
		d.kept(a).play(0, 300)
		d.kept(b).play(0, 300)
		d.wait(2 * time.Minute)
		film, show, rest := d.kept(a).HaveCount(), d.kept(b).HaveCount(), d.kept(other).HaveCount()-before
		if film < 35 || show < 35 || rest > 25 {
			t.Errorf("in two minutes came %d and %d pieces of what is watched, and %d of what is not", film, show, rest)
		}
		d.stop()
	})
}
