package fetch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	fleet "boxd/internal/fleet/tracker"

	"boxd/internal/fetch/tracker"
)

// families6 is a tracker that a box reaches over two families; either may be broken.
type families6 struct {
	t      *testing.T
	tr     *fleet.Tracker
	mu     sync.Mutex // guards the fields below
	broken map[string]error
	silent map[string]bool
	asked  map[string]int
}

type overFamily struct {
	w    *families6
	from string
}

func (o overFamily) RoundTrip(r *http.Request) (*http.Response, error) {
	o.w.mu.Lock()
	o.w.asked[o.from]++
	err, silent := o.w.broken[o.from], o.w.silent[o.from]
	o.w.mu.Unlock()
	if silent {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(o.from), 50_000).String()
	rec := httptest.NewRecorder()
	o.w.tr.ServeHTTP(rec, r)
	return rec.Result(), nil
}

const at4, at6 = "203.0.113.1", "2001:db8:1::1"

// dualBox is a box with both families, as far as announcing goes.
func dualBox(t *testing.T) (*Fetcher, *families6) {
	w := &families6{
		t: t, broken: map[string]error{}, silent: map[string]bool{}, asked: map[string]int{},
		tr: fleet.New(fleet.Options{Anonymous: true}),
	}
	return &Fetcher{peerID: newPeerID(), o: Options{
		Tracker: &http.Client{Transport: overFamily{w, at4}}, Tracker6: &http.Client{Transport: overFamily{w, at6}},
		TrackerURL: "http://tracker.test/announce", Port: 6880, ExternalPort: func() int { return 40_000 },
	}}, w
}

// whereOthersFind is what the tracker tells another box with both families.
func (w *families6) whereOthersFind() (list []string) {
	f := &Fetcher{peerID: [20]byte{9}, o: Options{
		Tracker:    &http.Client{Transport: overFamily{w, "203.0.113.9"}},
		Tracker6:   &http.Client{Transport: overFamily{w, "2001:db8:9::9"}},
		TrackerURL: "http://tracker.test/announce", Port: 1,
	}}
	f.askTracker(w.t.Context(), tracker.Request{Asset: [20]byte{1}, PeerID: f.peerID, Left: 1}, func(a tracker.Answer, err error, _ bool) {
		if err != nil {
			w.t.Error(err)
		}
		list = nil
		for _, p := range a.Peers {
			list = append(list, p.Addr.String())
		}
	})
	slices.Sort(list)
	return list
}

func ask(f *Fetcher, ctx context.Context, event tracker.Event) (told []string) {
	req := tracker.Request{Asset: [20]byte{1}, PeerID: f.peerID, Left: 1, Event: event}
	f.askTracker(ctx, req, func(_ tracker.Answer, err error, last bool) { told = append(told, fmt.Sprint(err == nil, last)) })
	return told
}

func TestABoxAnnouncesOverBothFamilies(t *testing.T) {
	f, w := dualBox(t)
	if told := ask(f, t.Context(), tracker.Started); !slices.Equal(told, []string{"true false", "true true"}) {
		t.Errorf("told %v", told)
	}
	if got := w.whereOthersFind(); !slices.Equal(got, []string{"203.0.113.1:40000", "[2001:db8:1::1]:6880"}) {
		t.Errorf("others find it at %v", got)
	}
	if told := ask(f, t.Context(), tracker.Stopped); !slices.Equal(told, []string{"true true"}) {
		t.Errorf("a farewell is told of %v", told)
	}
	if got := w.whereOthersFind(); len(got) != 0 {
		t.Errorf("it has left, and is found at %v", got)
	}
}

func TestAFamilyThatLeadsNowhereIsLeftOutForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w := dualBox(t)
		w.silent[at6] = true
		began := time.Now()
		if told := ask(f, t.Context(), tracker.Started); !slices.Equal(told, []string{"true false", "true true"}) {
			t.Errorf("told %v", told)
		}
		if took := time.Since(began); took > otherFamily {
			t.Errorf("it took %v", took)
		}
		if told := ask(f, t.Context(), tracker.Regular); !slices.Equal(told, []string{"true true"}) || w.asked[at6] != 1 {
			t.Errorf("told %v, asked %v", told, w.asked)
		}
		w.silent[at6] = false
		time.Sleep(firstFamilyWait)
		ask(f, t.Context(), tracker.Regular)
		if got := w.whereOthersFind(); !slices.Equal(got, []string{"203.0.113.1:40000", "[2001:db8:1::1]:6880"}) {
			t.Errorf("others find it at %v", got)
		}
		w.broken[at4], w.broken[at6] = errors.New("no route"), errors.New("no route")
		if told := ask(f, t.Context(), tracker.Regular); !slices.Equal(told, []string{"false true"}) {
			t.Errorf("told %v", told)
		}
		w.broken[at4] = nil // both are left out: then both are tried
		if told := ask(f, t.Context(), tracker.Regular); len(told) == 0 || told[0] != "true false" && told[0] != "true true" {
			t.Errorf("told %v", told)
		}
	})
}

// However many assets announce in vain at one moment, that is one failure; a refusal is none.
func TestAFamilyIsLeftOutByTimeNotByAnnounces(t *testing.T) {
	f, now := &Fetcher{}, time.Unix(1000, 0)
	left := func() time.Duration { return f.families.next[0].Sub(now) }
	fail := errors.New("no route")
	for i := range 3 {
		for range 12 {
			f.tried(way{}, fail, now)
		}
		if want := firstFamilyWait << i; left() != want {
			t.Errorf("failed %d times, left out for %v", i+1, left())
		}
		now = f.families.next[0]
	}
	f.tried(way{}, fmt.Errorf("announce: %w", tracker.ErrRefused), now)
	if !f.families.next[0].IsZero() {
		t.Errorf("refused, and left out for %v", left())
	}
	f.tried(way{}, fail, now)
	if left() != firstFamilyWait {
		t.Errorf("failed for the first time, left out for %v", left())
	}
}

// While the line is down no family is reached. When it is back both are asked at once, but for one that led nowhere before; and
// one that was left out is asked when the other is not reached any more.
func TestALineThatWasDownIsNoFamilysFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w := dualBox(t)
		down := func(yes bool) {
			w.broken[at4], w.broken[at6] = nil, nil
			if yes {
				w.broken[at4], w.broken[at6] = errors.New("no route"), errors.New("no route")
			}
		}
		ask(f, t.Context(), tracker.Started)
		w.broken[at6] = errors.New("no route") // one went a moment before the other
		ask(f, t.Context(), tracker.Regular)
		time.Sleep(30 * time.Second)
		down(true)
		for i := range 500 { // hours
			if told := ask(f, t.Context(), tracker.Regular); !slices.Equal(told, []string{"false true"}) {
				t.Fatalf("told %v", told)
			}
			time.Sleep(31 * time.Second)
			if i > 300 && len(f.ways(time.Now())) == 1 {
				break // it comes back while one is left out
			}
		}
		down(false)
		before := maps.Clone(w.asked)
		for range 2 {
			ask(f, t.Context(), tracker.Regular)
		}
		if w.asked[at4] != before[at4]+2 || w.asked[at6] != before[at6]+2 {
			t.Errorf("the line is back: asked %v, before %v", w.asked, before)
		}

		w.broken[at6] = errors.New("no route")
		ask(f, t.Context(), tracker.Regular)
		before = maps.Clone(w.asked)
		ask(f, t.Context(), tracker.Regular)
		if w.asked[at6] != before[at6] {
			t.Error("one that leads nowhere was asked again at once")
		}
		w.broken[at4], w.broken[at6] = errors.New("no route"), nil
		ask(f, t.Context(), tracker.Regular)
		if told := ask(f, t.Context(), tracker.Regular); len(told) == 0 || told[len(told)-1] != "true true" {
			t.Errorf("the other way round: told %v", told)
		}
		w.broken[at4] = nil
		time.Sleep(firstFamilyWait)
		ask(f, t.Context(), tracker.Regular)
		if got := w.whereOthersFind(); len(got) != 2 {
			t.Errorf("others find it at %v", got)
		}
	})
}
