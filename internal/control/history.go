package control

import (
	"sync"
	"time"
)

// The two rings of a History.
const (
	fineStep    = 2 * time.Second
	fineCount   = 300 // ten minutes
	coarseStep  = 5 * time.Minute
	coarseCount = 288 // a day
)

// Sample is what moved in one step that ended at Time: bytes, not rates.
type Sample struct {
	Time   time.Time `json:"t"`
	LAN    int64     `json:"lan"`
	Peer   int64     `json:"peer"`
	Origin int64     `json:"origin"`
	Sent   int64     `json:"sent"`
}

// Series is samples of one step, oldest first.
type Series struct {
	Step    float64  `json:"step_seconds"`
	Samples []Sample `json:"samples"`
}

// History is what moved lately: ten minutes finely, a day coarsely.
type History struct {
	Fine   Series `json:"fine"`
	Coarse Series `json:"coarse"`
}

// recorder turns cumulative counters into samples.
type recorder struct {
	mu        sync.Mutex // guards all below
	last      Sample     // cumulative, at the last fine step
	lastLong  Sample     // cumulative, at the last coarse step
	primed    bool
	fine, day []Sample
}

// add takes the cumulative counters at now.
func (r *recorder) add(now time.Time, in, sent Sources) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cum := Sample{Time: now, LAN: in.LAN, Peer: in.Peer, Origin: in.Origin, Sent: sent.Total()}
	if !r.primed || now.Before(r.last.Time) { // the first, or the clock was set back
		r.last, r.lastLong, r.primed = cum, cum, true
		return
	}
	r.fine = push(r.fine, minus(cum, r.last), fineCount)
	r.last = cum
	if now.Sub(r.lastLong.Time) >= coarseStep {
		r.day = push(r.day, minus(cum, r.lastLong), coarseCount)
		r.lastLong = cum
	}
}

func (r *recorder) history() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return History{
		Fine:   Series{Step: fineStep.Seconds(), Samples: append([]Sample{}, r.fine...)},
		Coarse: Series{Step: coarseStep.Seconds(), Samples: append([]Sample{}, r.day...)},
	}
}

func push(list []Sample, s Sample, limit int) []Sample {
	if len(list) >= limit {
		copy(list, list[1:])
		list = list[:limit-1]
	}
	return append(list, s)
}

func minus(a, b Sample) Sample {
	return Sample{
		Time: a.Time, LAN: max(a.LAN-b.LAN, 0), Peer: max(a.Peer-b.Peer, 0), Origin: max(a.Origin-b.Origin, 0),
		Sent: max(a.Sent-b.Sent, 0),
	}
}
