package fetch_test

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/fetch"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/pace"
)

// storm makes the servers fail by turns, each in ways of its own, until it is over.
type storm struct {
	over    chan struct{}
	mu      sync.Mutex // guards the fields below
	rnd     *rand.Rand
	origin  string
	tracker string
}

func newStorm(seed uint64) *storm {
	return &storm{over: make(chan struct{}), rnd: rand.New(rand.NewPCG(seed, 1))}
}

// turn picks the next weather.
func (s *storm) turn() (origin, tracker string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.origin = []string{"", "", "503", "stall", "cut", "dead", "garbage"}[s.rnd.IntN(7)]
	s.tracker = []string{"", "500", "stall", "garbage"}[s.rnd.IntN(4)]
	return s.origin, s.tracker
}

func (s *storm) blows() (origin, tracker string) {
	select {
	case <-s.over:
		return "", ""
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.origin, s.tracker
}

// fail answers a request as the weather is; false when it is fair.
func (s *storm) fail(kind string, rw http.ResponseWriter, r *http.Request) bool {
	switch kind {
	case "":
		return false
	case "stall":
		select {
		case <-s.over:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case "dead":
		panic(http.ErrAbortHandler)
	case "503":
		rw.Header().Set("Retry-After", "1")
		rw.WriteHeader(http.StatusServiceUnavailable)
	case "cut": // a page of an error, half of it, where a range of a film should be
		rw.Header().Set("Content-Length", "100000")
		_, _ = rw.Write(make([]byte, 1000))
		panic(http.ErrAbortHandler)
	case "garbage":
		rw.WriteHeader(http.StatusOK)
		_, _ = rw.Write([]byte("<html>It works!</html>"))
	default:
		rw.WriteHeader(http.StatusInternalServerError)
	}
	return true
}

// lyingSwarm serves other bytes to peers than the stores hold.
type lyingSwarm struct{ fetch.Swarm }

type lyingStore struct{ engine.Store }

func (a lyingStore) ReadVerifiedAt(p []byte, off int64) (int, error) {
	n, err := a.Store.ReadVerifiedAt(p, off)
	for i := range p[:n] {
		p[i] ^= 0x55
	}
	return n, err
}

func (s lyingSwarm) Load(st engine.Store, p engine.Policy, down *pace.Bucket) error {
	return s.Swarm.Load(lyingStore{st}, p, down)
}

// TestEverythingFailsTogether: the origin and the tracker fail in every way, a peer lies, boxes of the home are killed and
// come back, the line stalls: while it lasts every box says why nothing moves or moves, no wrong byte is taken, and when
// it is over all complete.
func TestEverythingFailsTogether(t *testing.T) {
	t.Parallel()
	seeds := []uint64{1, 2, 3}
	if testing.Short() {
		seeds = seeds[:1]
	}
	for _, seed := range seeds {
		t.Run(string(rune('0'+seed)), func(t *testing.T) {
			t.Parallel()
			throughStorm(t, seed)
		})
	}
}

func throughStorm(t *testing.T, seed uint64) {
	w := newWorld(t)
	info := w.publish("film", 12<<20, 256<<10)
	s := newStorm(seed)
	w.origin.misbehave(func(rw http.ResponseWriter, r *http.Request) bool {
		kind, _ := s.blows()
		return s.fail(kind, rw, r)
	})
	inner := w.tracker.Config.Handler
	w.tracker.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, kind := s.blows(); !s.fail(kind, rw, r) {
			inner.ServeHTTP(rw, r)
		}
	})
	slow := func(o *fetch.Options, _ *cacheOptions) { o.Limits.WANDown, o.Limits.WANUp = limit(4<<20), limit(4<<20) }
	home, other, third := newHousehold(1), newHousehold(2), newHousehold(3)
	a, b := w.box(home, "box-a", 1, "", slow), w.box(home, "box-b", 2, "", slow)
	c := w.box(other, "box-c", 1, "", slow)
	liar := w.box(third, "box-liar", 1, "", func(o *fetch.Options, co *cacheOptions) {
		slow(o, co)
		honest := o.NewSwarm
		o.NewSwarm = func(h fetch.Hooks) fetch.Swarm { return lyingSwarm{honest(h)} }
	})

	ticks := time.NewTicker(250 * time.Millisecond)
	defer ticks.Stop()
	for i := range 24 { // 6 s
		<-ticks.C
		s.turn()
		switch i {
		case 6:
			a.kill() // the courier
		case 10: // the gateway: nothing passes
			for _, x := range []*box{b, c} {
				x.SetLimits(fetch.Limits{WANDown: limit(0), WANUp: limit(0)})
			}
		case 14:
			for _, x := range []*box{b, c} {
				x.SetLimits(fetch.Limits{WANDown: limit(4 << 20), WANUp: limit(4 << 20)})
			}
			a = w.box(home, "box-a", 1, a.dir, slow)
		case 18:
			c.kill()
		case 20:
			c = w.box(other, "box-c", 1, c.dir, slow)
		}
		for _, x := range []*box{b, liar} {
			if st, ok := x.asset(info.ID); ok && (st.Why == "" || !strings.HasSuffix(st.Why, ".")) {
				t.Errorf("%s does not say what is up: %+v", x.name, st)
			}
		}
	}
	close(s.over)
	for _, x := range []*box{a, b, c} {
		st := x.ready(info.ID)  // compares the bytes
		again := int64(1 << 20) // pieces that were here in part when their source failed
		if x != b {
			again = 3 << 20 // a box that was killed fetches again what it had not verified
		}
		if kept := st.Bytes.Total() - st.Wasted; kept < info.Length || kept > info.Length+again {
			t.Errorf("%s counted %+v, wasted %d", x.name, st.Bytes, st.Wasted)
		}
	}
}
