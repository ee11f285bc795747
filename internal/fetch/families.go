package fetch

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"boxd/internal/fetch/tracker"
)

// A family over which the tracker was not reached is left out of announces for a while, so that a box with an address that
// leads nowhere is not slowed down by it.
const (
	firstFamilyWait = time.Minute
	lastFamilyWait  = time.Hour
	otherFamily     = 10 * time.Second // how long the second answer is waited for
)

// families are the two ways of announcing: over IPv4, and over IPv6.
type families struct {
	mu    sync.Mutex // guards the fields below
	fails [2]int
	next  [2]time.Time
	down  bool // the last time nobody was reached: whoever was left out may be the one that is
}

// way is one of them.
type way struct {
	number int
	client *http.Client
	port   func() int
}

// ways lists those that are worth trying now.
func (f *Fetcher) ways(now time.Time) []way {
	list := []way{{0, f.o.Tracker, f.portOf(f.o.ExternalPort)}}
	if f.o.Tracker6 == nil {
		return list
	}
	list = append(list, way{1, f.o.Tracker6, f.portOf(f.o.ExternalPort6)})
	f.families.mu.Lock()
	defer f.families.mu.Unlock()
	good := slices.DeleteFunc(slices.Clone(list), func(w way) bool { return now.Before(f.families.next[w.number]) })
	if len(good) == 0 || f.families.down {
		return list
	}
	return good
}

// heard notes what came of asking over several families. Where none was reached the line is down, or the tracker: that is no
// family's fault, and none is left out for it when the line is back.
func (f *Fetcher) heard(results map[int]error, now time.Time) {
	if len(results) == 0 {
		return // it was ended
	}
	reached := slices.ContainsFunc(slices.Collect(maps.Values(results)), reachedTracker)
	f.families.mu.Lock()
	f.families.down = !reached
	f.families.mu.Unlock()
	if !reached {
		return
	}
	for w, err := range results {
		f.tried(way{number: w}, err, now)
	}
}

// reachedTracker reports whether an announce got to the tracker; a refusal came from it.
func reachedTracker(err error) bool { return err == nil || errors.Is(err, tracker.ErrRefused) }

// portOf is where the box is reached from outside.
func (f *Fetcher) portOf(external func() int) func() int {
	if external != nil {
		return external
	}
	return func() int { return f.o.Port }
}

// tried notes whether the tracker was reached over a family, as it was over one at least. What fails while the family is left out
// says nothing new: all assets' announces may fail at one moment.
func (f *Fetcher) tried(w way, err error, now time.Time) {
	reached := reachedTracker(err)
	f.families.mu.Lock()
	defer f.families.mu.Unlock()
	if !reached && now.Before(f.families.next[w.number]) {
		return
	}
	n := &f.families.fails[w.number]
	if *n++; reached {
		*n = 0
	}
	f.families.next[w.number] = time.Time{}
	if *n > 0 {
		f.families.next[w.number] = now.Add(min(firstFamilyWait<<min(*n-1, 10), lastFamilyWait))
	}
}

// askTracker announces over each family that the box has, at one time, and tells of the first answer at once; if there is another,
// of both together. It tells of a failure only when all have failed, and of a farewell only when all have answered. The
// last time that it tells is marked.
func (f *Fetcher) askTracker(ctx context.Context, req tracker.Request, tell func(ans tracker.Answer, err error, last bool)) {
	type reply struct {
		way int
		ans tracker.Answer
		err error
	}
	ways := f.ways(time.Now())
	whole := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make(chan reply, len(ways))
	for _, w := range ways {
		r := req
		r.Port = w.port()
		f.running.Go(func() {
			ans, err := tracker.Announce(ctx, w.client, f.o.TrackerURL, r)
			replies <- reply{w.number, ans, err}
		})
	}
	var first *tracker.Answer
	results := map[int]error{}
	for left := len(ways) - 1; ; left-- {
		r := <-replies
		if whole.Err() == nil || r.err == nil {
			results[r.way] = r.err
		}
		switch {
		case r.err == nil && first == nil:
			first = &r.ans
		case r.err == nil:
			first.Peers = together(first.Peers, r.ans.Peers)
		}
		if left == 0 {
			f.heard(results, time.Now())
			if first != nil {
				r.ans, r.err = *first, nil
			}
			tell(r.ans, r.err, true)
			return
		}
		if first != nil && req.Event != tracker.Stopped {
			tell(*first, nil, false)
		}
		if first != nil {
			t := time.AfterFunc(otherFamily, cancel)
			defer t.Stop()
		}
	}
}

// together joins two lists of peers.
func together(a, b []tracker.Peer) []tracker.Peer {
	all := slices.Clone(a)
	for _, p := range b {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}
