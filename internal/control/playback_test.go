package control

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch"
)

func TestPlaybackFollowsPlayersAndLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards told
		var told []bool
		p := NewPlayback(func(active bool) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, active)
		}, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		expect := func(step string, players int, want ...bool) {
			t.Helper()
			synctest.Wait()
			n, active := p.State()
			mu.Lock()
			defer mu.Unlock()
			if n != players || active != want[len(want)-1] {
				t.Errorf("%s: %d players, active %v; want %d, %v", step, n, active, players, want)
			}
			if len(told) != len(want) {
				t.Fatalf("%s: told %v, want %v", step, told, want)
			}
			for i := range want {
				if told[i] != want[i] {
					t.Fatalf("%s: told %v, want %v", step, told, want)
				}
			}
		}
		closed := p.Open()
		waited := p.Wait()
		expect("a player waits", 1, true)
		time.Sleep(time.Hour)
		expect("it still waits", 1, true)
		waited()
		p.Touch()
		time.Sleep(playbackLinger - time.Second)
		expect("it took bytes a while ago", 1, true)
		time.Sleep(2 * time.Second)
		expect("its buffer is full", 1, true)
		closed()
		closed()
		expect("closed once", 0, true, false)
		if end := p.Lease("", 90*time.Second); !end.Equal(time.Now().Add(90 * time.Second)) {
			t.Errorf("lease ends %v", end)
		}
		expect("leased", 0, true, false, true)
		time.Sleep(91 * time.Second)
		expect("lease ran out", 0, true, false, true, false)
		p.Lease("", 100*time.Hour)
		expect("leased again", 0, true, false, true, false, true)
		p.Lease("", 0)
		expect("given back", 0, true, false, true, false, true, false)
	})
}

// An open connection is playback as long as its server lets it live, however little it takes; but a television that was
// left on pause does not hold the night up, however often its player comes back to fill its buffer.
func TestAnOpenConnectionIsPlaybackButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPlayback(func(bool) {}, time.Now)
		watched := func(want bool, step string) {
			t.Helper()
			if _, active := p.State(); active != want {
				t.Errorf("%s: somebody watches: %v", step, active)
			}
		}
		watched(false, "before anything")
		closed := p.Open()
		p.Touch()
		for range 200 { // hours of sound, a buffer at a time
			time.Sleep(PlayerStall - time.Second)
			watched(true, "its buffer lasts for minutes")
			p.Touch()
		}
		time.Sleep(PlayerStall - time.Second)
		watched(true, "paused just now")
		time.Sleep(2 * time.Second)
		watched(false, "paused for long")
		closed()
		var held time.Duration
		for range 120 { // ten hours in which it comes back whenever it is let go
			closed = p.Open()
			p.Touch()
			for range PlayerStall / time.Second {
				time.Sleep(time.Second)
				if _, active := p.State(); active {
					held += time.Second
				}
			}
			closed()
		}
		if least, most := pausedFor/2, pausedFor+120*playbackLinger; held < least || held > most {
			t.Errorf("a paused television counted for %s of 10 hours, want %s to %s", held, least, most)
		}
		closed = p.Open()
		p.Touch()
		time.Sleep(playbackLinger + time.Second)
		p.Touch()
		time.Sleep(PlayerStall - time.Second)
		watched(true, "it was played again")
		closed()
		time.Sleep(pausedFor + time.Second)
		closed = p.Open()
		p.Touch()
		time.Sleep(PlayerStall - time.Second)
		watched(true, "after a while without any")
		closed()
		watched(false, "closed")
	})
}

// What ends while the loop looks at the clock is told of at once, not an hour later.
func TestTheEndOfPlaybackIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Bool
		var looks, slow atomic.Int64
		now := func() time.Time {
			n := time.Now()
			if looks.Add(1) == slow.Load() { // this goroutine loses the processor after its look
				time.Sleep(5 * time.Millisecond)
			}
			return n
		}
		p := NewPlayback(told.Store, now)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		for after := int64(1); after <= 3; after++ { // whichever look it is
			p.Lease("", time.Minute)
			synctest.Wait()
			time.Sleep(time.Minute - 2*time.Millisecond)
			slow.Store(looks.Load() + after)
			p.Wait()() // anything that wakes it, shortly before the end
			synctest.Wait()
			time.Sleep(time.Minute)
			synctest.Wait()
			if _, active := p.State(); active || told.Load() {
				t.Errorf("a minute after the lease's end State says %v, told %v", active, told.Load())
			}
		}
	})
}

func TestOnePlayersLeaseEndsNoOthers(t *testing.T) {
	now := time.Unix(1e9, 0)
	p := NewPlayback(func(bool) {}, func() time.Time { return now })
	active := func() bool { _, active := p.State(); return active }
	p.Lease("tv", time.Hour)
	p.Lease("radio", time.Minute)
	p.Lease("radio", 0)
	p.Lease("", 0)
	if now = now.Add(59 * time.Minute); !active() {
		t.Error("another's end ended it")
	}
	if p.Lease("tv", 0); active() {
		t.Error("its own end did not end it")
	}
	for i := range 3 * maxLeases {
		p.Lease(time.Duration(i).String(), time.Hour+time.Duration(i))
	}
	if len(p.leases) != maxLeases || !p.leases[time.Duration(3*maxLeases-1).String()].Equal(now.Add(time.Hour+3*maxLeases-1)) {
		t.Errorf("%d leases", len(p.leases))
	}
}

func TestAPlayerIsToldThatNothingComesNow(t *testing.T) {
	r := newRig(t)
	none, some := r.add(t, "none.mp4", 2, 0), r.add(t, "some.mp4", 2, 1)
	open := func(id asset.ID, name string) error {
		c, err := r.box.OpenFile(t.Context(), id, name)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	if err := open(none, "none.mp4"); err != nil {
		t.Errorf("before fetch knows of it: %v", err)
	}
	early := AssetFetch{State: Accepted, Reason: "not-before", Why: "Its campaign has not begun yet.", Outlook: fetch.Stays}
	r.fetch.state.Assets = map[asset.ID]AssetFetch{none: early, some: early}
	var told *NotNowError
	if err := open(none, "none.mp4"); !errors.As(err, &told) || told.Code != "not-before" || told.Error() != early.Why {
		t.Errorf("of what does not come now: %v", err)
	}
	if err := open(some, "some.mp4"); err != nil {
		t.Errorf("of what is here in part: %v", err)
	}
	early.Outlook = fetch.Comes
	r.fetch.state.Assets[none] = early
	if err := open(none, "none.mp4"); err != nil {
		t.Errorf("of what comes: %v", err)
	}
}

func TestHistoryKeepsWhatMovedPerStep(t *testing.T) {
	var r recorder
	now := time.Unix(1_000_000, 0)
	for i := range 400 {
		now = now.Add(fineStep)
		r.add(now, Sources{LAN: int64(i) * 10, Origin: int64(i)}, Sources{LAN: int64(2 * i)})
	}
	h := r.history()
	if len(h.Fine.Samples) != fineCount || len(h.Coarse.Samples) != 2 {
		t.Fatalf("%d fine, %d coarse samples", len(h.Fine.Samples), len(h.Coarse.Samples))
	}
	if s := h.Fine.Samples[fineCount-1]; s.LAN != 10 || s.Origin != 1 || s.Sent != 2 || !s.Time.Equal(now) {
		t.Errorf("last sample %+v", s)
	}
	if s := h.Coarse.Samples[0]; s.LAN != 1500 {
		t.Errorf("coarse sample %+v, want 150 steps of 10", s)
	}
	r.add(now.Add(-time.Hour), Sources{}, Sources{}) // the clock was set back, the counters too
	r.add(now.Add(-time.Hour+fineStep), Sources{LAN: 5}, Sources{})
	h = r.history()
	if s := h.Fine.Samples[fineCount-1]; s.LAN != 5 {
		t.Errorf("after the clock was set back: %+v", s)
	}
}

func TestLogRingKeepsTheLast(t *testing.T) {
	r := NewLogRing(3)
	for _, l := range []string{"a", "b", "c", "d"} {
		r.add(l)
	}
	if got := r.Tail(2); len(got) != 2 || got[0] != "c" || got[1] != "d" {
		t.Errorf("tail %v", got)
	}
	if got := r.Tail(9); len(got) != 3 || got[0] != "b" {
		t.Errorf("tail %v", got)
	}
}

func TestLedgerKnowsTheRateOfEachConnection(t *testing.T) {
	var l ledger
	now := time.Unix(1000, 0)
	look := func(after time.Duration, peers ...Peer) []Peer {
		now = now.Add(after)
		l.look(peers, now)
		l.rate(peers)
		return peers
	}
	look(0, Peer{ID: "a", Received: 100, Sent: 10}, Peer{ID: "b", Received: 300})
	got := look(2*time.Second, Peer{ID: "a", Received: 200, Sent: 20}, Peer{ID: "b", Received: 300})
	if got[0].RateIn != 50 || got[0].RateOut != 5 || got[1].RateIn != 0 {
		t.Errorf("%+v", got)
	}
	if got := look(time.Millisecond, Peer{ID: "a", Received: 900}); got[0].RateIn != 50 {
		t.Errorf("worked out over an instant: %+v", got)
	}
	look(time.Second) // both went, and one came back with new counters
	if got := look(time.Second, Peer{ID: "a", Received: 50}); got[0].RateIn != 0 || len(l.conns) != 1 {
		t.Errorf("%+v, %d connections are remembered", got, len(l.conns))
	}
}

func TestTheHomeKnowsWhoGaveWhat(t *testing.T) {
	home := []Neighbour{{ID: "a"}, {ID: "b"}}
	given := []Given{{ID: "a", Link: "lan", Received: 7, Sent: 9}, {ID: "gone", Link: "lan", Received: 3}, {ID: "b", Link: "wan", Sent: 5}}
	exchange(home, given)
	if home[0].Received != 7 || home[0].Sent != 9 || home[1].Sent != 0 {
		t.Errorf("%+v", home)
	}
}
