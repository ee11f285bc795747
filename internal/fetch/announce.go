package fetch

import (
	"context"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"sync"
	"time"

	"boxd/internal/fetch/tracker"
)

// Announces that fail are tried again after between nothing and this, which doubles.
const (
	firstAnnounceWait = 2 * time.Second
	lastAnnounceWait  = 10 * time.Minute
)

// A box that knows of few others asks the tracker again soon, and then less and less often: who begins a second later
// cannot always reach it, and is found only so.
const (
	fewPeers   = 8
	soonAgain  = 4 * time.Second
	aloneAgain = 30 * time.Second // at the latest, as long as nobody else is there
)

// newPeerID makes the name by which one run of the program announces; it says nothing about the box.
func newPeerID() (id [20]byte) {
	copy(id[:], "-BX0001-")
	_, _ = rand.Read(id[8:]) // never fails
	return id
}

// announce tells the tracker about an asset when it is time.
func (f *Fetcher) announce(it *item, mono time.Time) {
	a := &it.ann
	if f.o.TrackerURL == "" {
		a.known = true // there is nobody to ask
		return
	}
	seeding := it.complete() && it.bytes().WAN() > 0 && f.policyOf(it).WANUp
	leaving := a.started && !it.wanOn && !seeding // the swarm must not wait for this box's share
	if a.busy || !(it.wanOn || seeding || leaving) {
		return
	}
	event := tracker.Regular
	switch {
	case leaving:
		event = tracker.Stopped
	case !a.started:
		event = tracker.Started
	case seeding && !a.completed:
		event = tracker.Completed
	case mono.Before(a.next) && !(f.swarmChanged(it) && mono.Sub(a.last) > 5*time.Second):
		return
	}
	if event != tracker.Regular && a.fails > 0 && mono.Before(a.next) {
		return
	}
	a.busy, a.last = true, mono
	req := tracker.Request{
		Asset: it.id, PeerID: f.peerID, Uploaded: it.sent().Peer, Downloaded: it.bytes().WAN(), Left: it.missing(), Event: event,
	}
	f.running.Go(func() {
		first := true
		f.askTracker(f.jobs, req, func(ans tracker.Answer, err error, last bool) {
			f.do(f.jobs, func(mono time.Time) {
				if first {
					f.announced(it, event, ans, err, mono)
				} else {
					a.answer.Peers = ans.Peers
				}
				first, a.busy = false, !last
			})
		})
	})
}

// swarmChanged says that the swarm is much larger or smaller than when the tracker told this box its share.
func (f *Fetcher) swarmChanged(it *item) bool {
	then, now := it.ann.peersThen, len(it.live.Peers)
	return it.wanOn && (now > 2*then+1 || then > 2*now+1)
}

func (f *Fetcher) announced(it *item, event tracker.Event, ans tracker.Answer, err error, mono time.Time) {
	a := &it.ann
	a.err = err
	if err != nil {
		a.fails++
		a.next = mono.Add(mrand.N(min(firstAnnounceWait<<min(a.fails, 12), lastAnnounceWait))) //nolint:gosec // jitter
		if a.fails >= 2 {
			a.known = true // the swarm cannot be asked; the plan must not wait for it
		}
		f.log.Debug("an announce failed", "asset", it.id.Short(), "err", err)
		return
	}
	f.reach.success(mono)
	if event == tracker.Stopped {
		*a = announcer{}
		return
	}
	a.fails, a.known, a.answer, a.started = 0, true, ans, true
	a.peersThen = len(it.live.Peers)
	a.completed = a.completed || event == tracker.Completed
	wait := a.wait(ans, it.complete())
	a.next = mono.Add(wait + mrand.N(wait/10+1)) //nolint:gosec // jitter
}

// wait is how long the tracker is not asked again.
func (a *announcer) wait(ans tracker.Answer, complete bool) time.Duration {
	if complete || len(ans.Peers) >= fewPeers {
		return ans.Interval
	}
	soon := soonAgain << min(a.few, 8)
	a.few++
	if len(ans.Peers) == 0 {
		soon = min(soon, aloneAgain)
	}
	return min(ans.Interval, soon)
}

// farewell tells the tracker that the box leaves; it is not waited for long.
func (f *Fetcher) farewell() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	n := 0
	for _, it := range f.items {
		if !it.ann.started || n >= 8 {
			continue
		}
		n++
		req := tracker.Request{Asset: it.id, PeerID: f.peerID, Left: it.missing(), Event: tracker.Stopped}
		wg.Go(func() {
			f.askTracker(ctx, req, func(_ tracker.Answer, err error, _ bool) {
				if err != nil {
					f.log.Debug("saying goodbye to the tracker failed", "err", fmt.Sprint(err))
				}
			})
		})
	}
	wg.Wait()
}
