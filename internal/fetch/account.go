package fetch

import (
	"encoding/json"
	"time"

	"boxd/internal/schedule"
)

// Sources is bytes, or bytes per second, by where they came from or went.
type Sources struct {
	LAN    int64 `json:"lan"`
	Peer   int64 `json:"peer"` // WAN peers
	Origin int64 `json:"origin"`
}

// Total is the sum of all sources.
func (s Sources) Total() int64 { return s.LAN + s.Peer + s.Origin }

// WAN is what crossed the access line.
func (s Sources) WAN() int64 { return s.Peer + s.Origin }

func (s Sources) plus(o Sources) Sources {
	return Sources{s.LAN + o.LAN, s.Peer + o.Peer, s.Origin + o.Origin}
}

func (s Sources) minus(o Sources) Sources {
	return Sources{s.LAN - o.LAN, s.Peer - o.Peer, s.Origin - o.Origin}
}

// record is what is remembered of an asset across restarts.
type record struct {
	V         int       `json:"v"`
	Bytes     Sources   `json:"bytes"`
	Sent      Sources   `json:"sent"`
	Wasted    int64     `json:"wasted"`
	Accepted  time.Time `json:"accepted,omitzero"`
	Started   time.Time `json:"started,omitzero"`
	Completed time.Time `json:"completed,omitzero"`
}

// totals is what is remembered of the box.
type totals struct {
	V        int     `json:"v"`
	Bytes    Sources `json:"bytes"`
	Sent     Sources `json:"sent"`
	Wasted   int64   `json:"wasted"`
	Month    string  `json:"month"`    // "2026-01", local
	MonthWAN int64   `json:"monthWAN"` // bytes over the access line in that month, both ways
	LineRate float64 `json:"lineRate"` // bytes per second that the line gave when it was asked for all
	// Home is what torrents that have left the swarm exchanged with boxes of the household.
	Home map[string]given `json:"home,omitempty"`

	seenIn, seenOut Sources // sums over the assets at the last look
	seenWasted      int64
	dirty           bool
}

// Buckets of the state file.
const (
	bucketAssets = "fetch.assets"
	bucketTotals = "fetch.totals"
)

const saveEvery = 10 * time.Second

func (f *Fetcher) loadTotals() {
	if f.o.State == nil {
		return
	}
	b, ok, err := f.o.State.Get(bucketTotals, []byte("v1"))
	if err != nil {
		f.log.Warn("reading the traffic counters failed", "err", err)
		return
	}
	if ok {
		if err := json.Unmarshal(b, &f.totals); err != nil {
			f.log.Warn("the traffic counters are damaged and begin again", "err", err)
			f.totals = totals{}
		}
	}
}

func (f *Fetcher) loadRecord(it *item) {
	if f.o.State == nil {
		return
	}
	b, ok, err := f.o.State.Get(bucketAssets, it.id[:])
	if err != nil || !ok {
		return
	}
	if err := json.Unmarshal(b, &it.rec); err != nil {
		it.rec = record{}
	}
}

func (f *Fetcher) saveRecord(it *item) {
	if f.o.State == nil {
		return
	}
	rec := it.rec
	rec.V, rec.Bytes, rec.Sent, rec.Wasted = 1, it.bytes(), it.sent(), it.wasted()
	b, err := json.Marshal(rec)
	if err == nil {
		err = f.o.State.Put(bucketAssets, it.id[:], b)
	}
	if err != nil {
		f.log.Warn("saving an asset's counters failed", "asset", it.id.Short(), "err", err)
	}
}

// count adds what has moved since the last look to the totals and to the month's budget.
func (f *Fetcher) count(now time.Time) {
	var in, out Sources
	var wasted int64
	for _, it := range f.items {
		in, out, wasted = in.plus(it.bytes()), out.plus(it.sent()), wasted+it.wasted()
	}
	t := &f.totals
	dIn, dOut, dWasted := in.minus(t.seenIn), out.minus(t.seenOut), wasted-t.seenWasted
	t.seenIn, t.seenOut, t.seenWasted = in, out, wasted
	if month := now.In(f.o.Location).Format("2006-01"); month != t.Month {
		t.Month, t.MonthWAN = month, 0
	}
	if dIn == (Sources{}) && dOut == (Sources{}) {
		return
	}
	t.Bytes, t.Sent, t.Wasted = t.Bytes.plus(dIn), t.Sent.plus(dOut), t.Wasted+dWasted
	t.MonthWAN += dIn.WAN() + dOut.WAN()
	t.dirty = true
}

// forgetCounted takes an asset that goes away out of the sums, so that the totals keep what it brought.
func (f *Fetcher) forgetCounted(it *item) {
	f.totals.seenIn = f.totals.seenIn.minus(it.bytes())
	f.totals.seenOut = f.totals.seenOut.minus(it.sent())
	f.totals.seenWasted -= it.wasted()
}

// adoptCounted puts an asset that came with counters into the sums without counting them again.
func (f *Fetcher) adoptCounted(it *item) {
	f.totals.seenIn = f.totals.seenIn.plus(it.bytes())
	f.totals.seenOut = f.totals.seenOut.plus(it.sent())
	f.totals.seenWasted += it.wasted()
}

func (f *Fetcher) save(now time.Time, force bool) {
	if f.o.State == nil || !f.totals.dirty || (!force && now.Sub(f.lastSave) < saveEvery) {
		return
	}
	f.lastSave, f.totals.dirty, f.totals.V = now, false, 1
	t := f.totals
	t.Home, _ = f.boxes()
	b, err := json.Marshal(&t)
	if err == nil {
		err = f.o.State.Put(bucketTotals, []byte("v1"), b)
	}
	if err != nil {
		f.log.Warn("saving the traffic counters failed", "err", err)
	}
	for _, it := range f.items {
		if it.rates.moved {
			it.rates.moved = false
			f.saveRecord(it)
		}
	}
}

// rates of one asset, smoothed over a few seconds.
type rates struct {
	in, out       Sources
	smooth, sends Sources
	at            time.Time
	moved         bool // since the record was saved
}

const smoothing = 0.35

func (r *rates) update(now time.Time, in, out Sources) {
	if r.at.IsZero() {
		r.in, r.out, r.at = in, out, now
		return
	}
	dt := now.Sub(r.at).Seconds()
	if dt < 0.9 {
		return
	}
	mix := func(old, delta int64) int64 {
		v := int64((1-smoothing)*float64(old) + smoothing*float64(delta)/dt)
		if delta == 0 && v < 1<<10 {
			return 0
		}
		return v
	}
	d, o := in.minus(r.in), out.minus(r.out)
	r.smooth = Sources{mix(r.smooth.LAN, d.LAN), mix(r.smooth.Peer, d.Peer), mix(r.smooth.Origin, d.Origin)}
	r.sends = Sources{mix(r.sends.LAN, o.LAN), mix(r.sends.Peer, o.Peer), 0}
	r.moved = r.moved || d != (Sources{}) || o != (Sources{})
	r.in, r.out, r.at = in, out, now
}

// meter finds what the line gives when nothing of ours holds it back.
type meter struct {
	best     float64
	at       time.Time
	believed time.Time // when the controller said last what it takes for the rate
}

// update takes the present rate over the line; asked says that all of the line was asked for, so that a lower rate means
// a slower line.
func (m *meter) update(now time.Time, wan int64, asked bool) {
	dt := now.Sub(m.at)
	if dt < time.Second || wan <= 0 {
		return
	}
	m.at = now
	if r := float64(wan); r > m.best {
		m.best = r
	} else if asked {
		m.best += (r - m.best) * 0.02 // forgets within a minute or so
	}
}

func limitOf(v *int64) schedule.Limit {
	if v == nil {
		return schedule.Limit{}
	}
	return schedule.LimitTo(*v)
}

// doubt is how long it takes until a line is believed to be slower than remembered while not all of it is asked for: what is
// seen then may be no more than what the others of the swarm have to give.
const doubt = time.Minute

// believe takes what the controller takes for the line's rate.
func (m *meter) believe(line float64, now time.Time, asked bool) {
	took := min(now.Sub(m.believed), 2*tick) // it does not always know
	m.believed = now
	if line >= m.best || asked {
		m.best = line
		return
	}
	m.best += (line - m.best) * max(0, took.Seconds()/doubt.Seconds())
}
