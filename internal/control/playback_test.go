package control

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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
		expect("it stopped taking bytes", 1, true, false)
		closed()
		closed()
		expect("closed once", 0, true, false)
		if end := p.Lease(90 * time.Second); !end.Equal(time.Now().Add(90 * time.Second)) {
			t.Errorf("lease ends %v", end)
		}
		expect("leased", 0, true, false, true)
		time.Sleep(91 * time.Second)
		expect("lease ran out", 0, true, false, true, false)
		p.Lease(100 * time.Hour)
		expect("leased again", 0, true, false, true, false, true)
		p.Lease(0)
		expect("given back", 0, true, false, true, false, true, false)
	})
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

func TestLedgerKnowsWhoGaveWhat(t *testing.T) {
	var l ledger
	now := time.Unix(1000, 0)
	l.total(500, 0) // of an earlier run
	l.add([]Peer{{ID: "a", Received: 100, Sent: 10}, {ID: "b", Received: 300}}, now)
	l.add([]Peer{{ID: "a", Received: 200, Sent: 20}, {ID: "b", Received: 300}}, now.Add(2*time.Second))
	peers := []Peer{{ID: "a"}}
	l.fill(peers, nil)
	if peers[0].RateIn != 50 || peers[0].RateOut != 5 {
		t.Errorf("rates %+v", peers[0])
	}
	l.add(nil, now.Add(3*time.Second)) // both went, and came back with new counters
	l.add([]Peer{{ID: "a", Received: 50}}, now.Add(4*time.Second))
	l.total(500+550+55, 20) // 55 more than any connection was seen to bring
	home := []Neighbour{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	l.fill(nil, home)
	if home[0].Received != 275 || home[1].Received != 330 || home[2].Received != 0 || home[0].Sent != 20 {
		t.Errorf("%+v", home)
	}
	if len(l.conns) != 1 {
		t.Errorf("%d connections are remembered", len(l.conns))
	}
}
