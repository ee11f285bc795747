package pace

import "time"

const probeTimeout = time.Second // answers that take longer count as lost

// requests are the echoes that were asked for lately.
type requests [64]request

type request struct {
	at   time.Time
	seq  uint16
	open bool // not answered yet
}

func (r *requests) add(seq uint16, now time.Time) {
	r[int(seq)%len(r)] = request{at: now, seq: seq, open: true}
}

// answer says how long an answer took; an answer to none of them, or one that comes too late, is none.
func (r *requests) answer(seq uint16, now time.Time) (time.Duration, bool) {
	q := &r[int(seq)%len(r)]
	if !q.open || q.seq != seq || now.Sub(q.at) >= probeTimeout {
		return 0, false
	}
	q.open = false
	return now.Sub(q.at), true
}

// missing says how many have become too late since the last call.
func (r *requests) missing(now time.Time) (n int) {
	for i := range r {
		if q := &r[i]; q.open && now.Sub(q.at) >= probeTimeout {
			q.open = false
			n++
		}
	}
	return n
}

// tempo is how often echoes are asked for: more seldom where most are not answered, since many a router answers but a few a
// second. If that does not help, or for a try now and then, as often as is wanted.
type tempo struct {
	slow   bool
	n      int       // requests since it was changed
	missed float64   // of them, as a share
	turn   time.Time // when to change it at the earliest
	pause  time.Duration
}

const (
	slower     = 4 // times
	tooMany    = 0.5
	tempoTries = 40 // requests before it is judged
	tempoPause = time.Minute
	lastTempo  = time.Hour
)

func (t *tempo) interval(every time.Duration) time.Duration {
	if t.slow {
		return slower * every
	}
	return every
}

// took takes what became of one request.
func (t *tempo) took(now time.Time, answered bool) {
	t.n++
	x := 1.0
	if answered {
		x = 0
	}
	t.missed += (x - t.missed) / float64(min(t.n, tempoTries))
	bad := t.missed > tooMany
	switch {
	case t.n < tempoTries:
	case !t.slow && bad && !now.Before(t.turn):
		t.pause = min(max(2*t.pause, tempoPause), lastTempo)
		*t = tempo{slow: true, turn: now.Add(t.pause), pause: t.pause}
	case t.slow && bad:
		*t = tempo{turn: now.Add(t.pause), pause: t.pause}
	case t.slow && !now.Before(t.turn):
		*t = tempo{pause: t.pause}
	}
}
