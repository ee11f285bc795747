package fetch

import (
	"time"

	"boxd/internal/courtesy"
)

// What fetching keeps, in bytes per second, while somebody watches on this box or the box is warm.
const (
	playbackFloor = 128 << 10 // over the access line, while a player plays what is here
	playbackHome  = 4 << 20   // within the home, both ways: enough for what another box plays from this one
	watchingHome  = 16 << 20  // within the home, while what is played comes from there
	hurryUp       = 64 << 10  // to the WAN, while a deadline needs all of the line
	warmLine      = 512 << 10
	warmHome      = 1 << 20
	hotHome       = 128 << 10
)

// SetHeat says how warm the box is: boxd then holds back.
func (f *Fetcher) SetHeat(h courtesy.Heat) {
	f.heat.Store(int32(h)) //nolint:gosec // one of three
	f.applyRates()
	f.wake()
}

// pacing is what may pass, in bytes per second: from and to the WAN, and within the home.
type pacing struct{ down, up, home int64 }

func (r *pacing) most(down, up, home int64) {
	r.down, r.up, r.home = min(r.down, down), min(r.up, up), min(r.home, home)
}

// afarFor is how long a player that another box plays to, or that plays from another box, counts after its last bytes.
const afarFor = 10 * time.Second

// watchAfar notes that bytes for a player cross the home.
func (f *Fetcher) watchAfar() {
	was := f.watchedAfar()
	f.afar.Store(int64(time.Since(f.begun)) + 1)
	if !was {
		f.applyRates()
	}
}

func (f *Fetcher) watchedAfar() bool {
	at := f.afar.Load()
	return at > 0 && time.Since(f.begun)-time.Duration(at) < afarFor
}

// hold lowers the rates while somebody watches on this box, or it is warm. What is watched and not here yet must arrive,
// and so must what another box plays from this one, or this one from another.
func (f *Fetcher) hold(r pacing, playback bool) pacing {
	line := f.lineRate.Load()
	watching := f.watching.Load()
	home := func(usual int64) int64 {
		if f.watchedAfar() {
			return watchingHome
		}
		return usual
	}
	switch {
	case playback && watching:
		r.most(r.down, max(line/20, playbackFloor), watchingHome)
	case playback:
		r.most(max(line/4, playbackFloor), max(line/20, playbackFloor), home(playbackHome))
	}
	if f.hurry.Load() { // requests and acknowledgements must not wait behind what we send to others
		r.most(r.down, max(line/50, hurryUp), r.home)
	}
	switch heat := courtesy.Heat(f.heat.Load()); {
	case heat == courtesy.Cool:
	case watching:
		r.most(r.down, playbackFloor, watchingHome)
	case heat == courtesy.Warm:
		r.most(warmLine, playbackFloor, home(warmHome))
	default:
		r.most(0, 0, home(hotHome))
	}
	return r
}
