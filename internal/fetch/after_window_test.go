package fetch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fetch"
)

// When a window ends while somebody plays, the line closes if playing does not open it; if it does, what he does not need
// stops with the window.
func TestAWindowEndsWhileSomebodyPlays(t *testing.T) {
	for _, off := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d := newDay(t, "2026-06-05 22:58")
			a := d.publish("film", 4000*dayPiece)
			d.campaign("f", catalog.Campaign{Windows: []catalog.Window{hm("22:00", "23:00", -1)}}, a)
			d.start(fetch.Limits{PlaybackOff: off})
			defer d.stop()
			play := func(span time.Duration) {
				for begin := time.Now(); time.Since(begin) < span; {
					d.kept(a).play(3000, 3990)
					d.wait(10 * time.Second)
				}
			}
			play(2*time.Minute + 10*time.Second) // until after the window's end
			before := len(d.here(a))
			if before == 0 {
				t.Fatal("nothing came in the window: this shows nothing")
			}
			play(5 * time.Minute)
			d.swarm.mu.Lock()
			open := d.swarm.wan
			d.swarm.mu.Unlock()
			if came := len(d.here(a)) - before; off && (open || came > 2) || !off && came == 0 {
				t.Errorf("playing opens the line: %v; 5 minutes later it is open: %v, and %d pieces came", !off, open, came)
			}
		})
	}
}
