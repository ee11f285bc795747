package lan

import (
	"bytes"
	"cmp"
	"slices"

	"boxd/internal/asset"
	"boxd/internal/health"
)

// refresh works out which assets this box is the courier of, tells the neighbours when its state is not what it last
// told, and wakes the watchers. The caller holds the mutex.
func (l *LAN) refresh() {
	l.electAll()
	l.encode()
	l.wake()
}

// electAll elects the courier of whatever is wanted, and reports whether one is another than the watchers know. The caller
// holds the mutex.
func (l *LAN) electAll() (changed bool) {
	wanted := make(map[asset.ID]bool, len(l.self.Wants))
	for _, w := range l.self.Wants {
		wanted[w.ID] = true
		won := l.courier(w.ID)
		if old, known := l.told[w.ID]; !known || old != won {
			l.told[w.ID] = won
			changed = true
		}
		if mine := l.id != "" && won == l.id; mine != l.acting[w.ID] {
			l.log.Info("courier", "asset", w.ID.Short(), "self", mine)
			if mine {
				l.acting[w.ID] = true
			} else {
				delete(l.acting, w.ID)
			}
		}
	}
	for id, old := range l.told {
		if !wanted[id] {
			delete(l.told, id)
			changed = changed || l.courier(id) != old
		}
	}
	return changed
}

// encode writes the own state as a frame. A change of mere progress waits for the next heartbeat.
func (l *LAN) encode() {
	st := l.wire()
	frame, err := encodeFrame(message{Kind: kindState, State: st})
	if err != nil {
		l.log.Error("encode own state", "err", err) // the lists are bounded: cannot be
		return
	}
	if bytes.Equal(frame, l.frame) {
		return
	}
	urgent := l.frame == nil || !sameBut(st, l.last)
	l.frame, l.last = frame, st
	l.seq++
	if !urgent {
		return
	}
	l.urgent = l.seq
	for _, k := range l.links {
		k.poke()
	}
}

func (l *LAN) wire() *wireState {
	st := &wireState{Class: l.ownClass(), WAN: l.self.WAN, WANRate: l.self.WANRate, Holds: l.tellHolds()}
	st.WANGot, st.Health = l.self.WANGot, worst(l.opt.Health.List())
	for _, g := range l.self.Got {
		if g.Box != "" && len(g.Box) <= maxBoxID && g.Bytes > 0 {
			st.Got = append(st.Got, g)
		}
	}
	for _, w := range l.self.Wants {
		st.Wants = append(st.Wants, wireWant{
			ID: w.ID, Class: l.class(w.ID), InFlight: w.InFlight, Have: w.Have, NoWAN: w.NoWAN,
			WANBytes: w.WANBytes, WANRate: w.WANRate, Yields: l.yielded[w.ID], Acting: l.acting[w.ID],
		})
	}
	for _, d := range l.self.Demand {
		if d.First >= 0 && d.Last >= d.First {
			st.Demand = append(st.Demand, wireDemand(d))
		}
	}
	for v := range l.vetoes {
		st.Vetoes = append(st.Vetoes, wireVeto{ID: v.id, Box: v.box})
	}
	slices.SortFunc(st.Vetoes, func(a, b wireVeto) int {
		if c := bytes.Compare(a.ID[:], b.ID[:]); c != 0 {
			return c
		}
		return bytes.Compare([]byte(a.Box), []byte(b.Box))
	})
	return st
}

// worst is the severity of the worst warning; empty without any.
func worst(list []health.Warning) (s health.Severity) {
	rank := func(s health.Severity) int {
		return slices.Index([]health.Severity{"", health.Info, health.Warn, health.Critical}, s)
	}
	for _, w := range list {
		if rank(w.Severity) > rank(s) {
			s = w.Severity
		}
	}
	return s
}

// moved reports whether something of the asset has come.
func (w wireWant) moved() bool { return w.Have > 0 || w.WANBytes > 0 }

// tellHolds bounds the list of whole assets: what a neighbour wants comes first.
func (l *LAN) tellHolds() []asset.ID {
	if len(l.self.Holds) <= MaxHolds {
		return l.self.Holds
	}
	wanted := func(id asset.ID) bool {
		for _, k := range l.links {
			if _, ok := k.wants[id]; ok {
				return true
			}
		}
		return false
	}
	list := make([]asset.ID, 0, MaxHolds)
	for _, first := range []bool{true, false} {
		for _, id := range l.self.Holds {
			if len(list) < MaxHolds && wanted(id) == first {
				list = append(list, id)
			}
		}
	}
	return list
}

// sameBut reports whether two states differ in nothing but progress and rates. The first byte is news: from then on the
// box stays the courier.
func sameBut(a, b *wireState) bool {
	if a.Class != b.Class || a.WAN != b.WAN || !slices.Equal(a.Holds, b.Holds) || !slices.Equal(a.Demand, b.Demand) ||
		!slices.Equal(a.Vetoes, b.Vetoes) {
		return false
	}
	return slices.EqualFunc(a.Wants, b.Wants, func(x, y wireWant) bool {
		if x.moved() != y.moved() {
			return false
		}
		x.Have, x.WANBytes, x.WANRate = y.Have, y.WANBytes, y.WANRate
		return x == y
	})
}

func sortNeighbours(list []Neighbour) {
	slices.SortFunc(list, func(a, b Neighbour) int { return cmp.Compare(a.ID, b.ID) })
}
