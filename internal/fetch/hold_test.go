package fetch

import (
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/courtesy"
	"boxd/internal/fetch/pace"
	"boxd/internal/schedule"
)

// What a player gets over the home's network comes though a box is hot, or plays something itself.
func TestAPlayerInTheHomeIsNotStarved(t *testing.T) {
	t.Parallel()
	f := &Fetcher{begun: time.Now().Add(-time.Hour)}
	all := pacing{pace.Unlimited, pace.Unlimited, pace.Unlimited}
	for _, c := range []struct {
		heat     courtesy.Heat
		playback bool
		usual    int64
	}{{courtesy.Hot, false, hotHome}, {courtesy.Warm, false, warmHome}, {courtesy.Cool, true, playbackHome}} {
		f.heat.Store(int32(c.heat)) //nolint:gosec // one of three
		f.afar.Store(0)
		usual := f.hold(all, c.playback)
		f.afar.Store(int64(time.Since(f.begun)))
		got := f.hold(all, c.playback)
		if usual.home != c.usual || got.home != watchingHome {
			t.Errorf("%s, playing %v: %d, and %d while somebody watches", c.heat, c.playback, usual.home, got.home)
		}
		if got.down != usual.down || got.up != usual.up {
			t.Errorf("%s: the access line is used more: %+v, usually %+v", c.heat, got, usual)
		}
		f.afar.Store(int64(time.Since(f.begun) - time.Minute))
		if got := f.hold(all, c.playback); got != usual {
			t.Errorf("%s: a minute later %+v, usually %+v", c.heat, got, usual)
		}
	}
}

// Whoever asks why nothing comes is told that the box is hot.
func TestAHotBoxSaysSo(t *testing.T) {
	t.Parallel()
	f := &Fetcher{}
	it := &item{info: &asset.Info{}, wanOn: true, want: schedule.Want{Fetch: true, WAN: true}}
	code := func(h courtesy.Heat, watching bool) string {
		f.heat.Store(int32(h)) //nolint:gosec // one of three
		f.watching.Store(watching)
		a := AssetStatus{Code: "now"}
		f.explain(it, &a)
		return a.Code
	}
	if got := code(courtesy.Hot, false); got != "hot" {
		t.Errorf("hot: %q", got)
	}
	if a, b := code(courtesy.Warm, false), code(courtesy.Hot, true); a != "now" || b != "now" {
		t.Errorf("warm: %q, hot and watched: %q", a, b)
	}
}
