package fetch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
	"boxd/internal/lan"
)

// bring lets a piece come from the home.
func (d *day) bring(a asset.ID, i int) {
	k := d.kept(a)
	off, n := k.info.PieceSpan(i)
	_, _ = k.WriteAt(d.origin.data["/"+d.assets[a].Name][off:off+n], off)
	_ = k.MarkVerified(i)
	d.swarm.mu.Lock()
	d.swarm.useful += n
	d.swarm.mu.Unlock()
}

// inHome is a day in a home with another box, which wants the film, too; courier carries it.
func inHome(t *testing.T, courier string, pieces int) (d *day, a asset.ID, h *told) {
	d = newDay(t, "2026-06-05 12:00")
	h = &told{courier: courier, self: "box-a", other: lan.Neighbour{ID: "box-b", WAN: true}}
	d.home = h
	a = d.publish("film", pieces*dayPiece)
	h.other.Wants = []lan.Want{{ID: a, InFlight: true}}
	return d, a, h
}

func (d *day) comesWithin(a asset.ID, piece int, limit time.Duration) {
	d.t.Helper()
	for begin := time.Now(); !d.kept(a).Have(piece); {
		d.wait(100 * time.Millisecond)
		if time.Since(begin) > limit {
			d.t.Fatalf("piece %d is not here after %v: %s", piece, limit, d.asset(a).Why)
		}
	}
}

// A courier that brings a piece now and then, but far fewer than are needed and the line would bring, is too slow as well.
func TestAFollowerHelpsItselfWhenTheCourierBringsTooLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, a, _ := inHome(t, "box-b", 400)
		d.campaign("c", catalog.Campaign{}, a)
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		next := 50
		for range 40 { // the film needs a piece a second, and the line brings that
			d.kept(a).play(next, next+20)
			d.wait(2500 * time.Millisecond)
			d.bring(a, next)
			for d.kept(a).Have(next) {
				next++
			}
		}
		if next-50 < 80 {
			t.Errorf("in 100 s the player has got %d pieces", next-50)
		}
		d.stop()
	})
}

func TestAFollowerWithTwoPlayersHelpsItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, a, _ := inHome(t, "box-b", 400)
		d.campaign("c", catalog.Campaign{}, a)
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		x, y := fetch.Span{First: 50, End: 54, Soon: true, Now: true}, fetch.Span{First: 200, End: 204, Soon: true, Now: true}
		for range 10 {
			d.kept(a).need(x, y)
			d.wait(time.Second)
			d.kept(a).need(y, x)
			d.wait(time.Second)
		}
		if !d.kept(a).Have(50) || !d.kept(a).Have(200) {
			t.Errorf("after 20 s are here: %v", d.here(a))
		}
		d.stop()
	})
}

// What a box of the home has and does not give is not waited for.
func TestAPlayerDoesNotWaitForABoxThatHasItAndGivesNothing(t *testing.T) {
	t.Parallel()
	for _, courier := range []string{"box-a", "box-b"} {
		t.Run(courier, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, a, _ := inHome(t, courier, 200)
				d.swarm.near = 60
				d.campaign("c", catalog.Campaign{}, a)
				d.start(fetch.Limits{})
				d.wait(time.Minute)
				d.kept(a).play(50, 54)
				d.comesWithin(a, 53, 15*time.Second)
				d.stop()
			})
		})
	}
}

// A courier whose player waits for what nobody at home has does not first wait for the rest from the home.
func TestACourierOpensTheLineForAPlayerAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, a, _ := inHome(t, "box-a", 200)
		d.campaign("f", catalog.Campaign{Windows: []catalog.Window{hm("22:00", "23:00", -1)}}, a)
		d.swarm.near = 100
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		d.kept(a).play(150, 154)
		for i := 0; !d.kept(a).Have(150); i++ {
			if i > 5 {
				t.Fatalf("after 5 s the player waits: %s", d.asset(a).Why)
			}
			d.wait(time.Second)
			d.bring(a, i)
		}
		d.stop()
	})
}

// A courier on which somebody watches something that is here gives a player elsewhere in the home the whole line.
func TestACouriersOwnViewerDoesNotSlowAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, a, h := inHome(t, "box-a", 4000)
		d.campaign("c", catalog.Campaign{}, a)
		d.start(fetch.Limits{})
		d.SetLimits(fetch.Limits{WANDown: limit(1 << 20)})
		d.wait(time.Minute)
		d.SetPlayback(true)
		d.wait(2 * time.Second)
		if rate := d.swarm.down.Rate(); rate >= 1<<20 {
			t.Errorf("beside a viewer it fetches at %d", rate)
		}
		h.demand(lan.Demand{ID: a, First: 3000, Last: 3990, Soon: true})
		d.wait(12 * time.Second)
		if rate := d.swarm.down.Rate(); rate < 1<<20 {
			t.Errorf("for a player elsewhere it fetches at %d", rate)
		}
		d.stop()
	})
}

// Between the bursts in which a player reads the access line stays open, and nothing else comes over it.
func TestTheLineStaysOpenBetweenAPlayersBursts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, "2026-06-05 12:00")
		a := d.shut("film", 400)
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		for i := range 12 {
			d.kept(a).play(i*5, i*5+5)
			d.wait(10 * time.Second)
		}
		if n := len(d.here(a)); n != 60 {
			t.Errorf("%d pieces came for 60", n)
		}
		d.swarm.mu.Lock()
		opened, open := d.swarm.opened, d.swarm.wan
		d.swarm.mu.Unlock()
		if opened != 1 || !open {
			t.Errorf("the line was opened %d times; open now: %v", opened, open)
		}
		d.wait(time.Minute)
		d.swarm.mu.Lock()
		defer d.swarm.mu.Unlock()
		if d.swarm.wan {
			t.Error("the line is open a minute after the player has ended")
		}
		d.stop()
	})
}
