package lan

import (
	"strings"
	"time"
)

// judge looks at the couriers: votes against one that does not move, and yields when another box is twice as fast.
// It runs every tick; the caller holds the mutex and refreshes.
func (l *LAN) judge(now time.Time) {
	for v, end := range l.vetoes {
		if !now.Before(end) {
			delete(l.vetoes, v)
		}
	}
	for _, w := range l.self.Wants {
		if boxes := l.holders(w.ID); len(boxes) > 0 {
			delete(l.slow, w.ID)
			l.judgeHolders(now, w, boxes)
			continue
		}
		box := l.courier(w.ID)
		if box != l.id || box == "" {
			delete(l.slow, w.ID)
			l.judgeCourier(now, w, box)
			continue
		}
		delete(l.watch, w.ID)
		if !l.anotherIsFaster(w) {
			delete(l.slow, w.ID)
			continue
		}
		if since, ok := l.slow[w.ID]; !ok {
			l.slow[w.ID] = now
		} else if now.Sub(since) >= slowAfter {
			l.yielded[w.ID] = true
			l.stats.yields.Add(1)
			l.log.Info("hand over the courier's role: another box is faster", "asset", w.ID.Short())
		}
	}
}

// judgeCourier votes against a courier that does not move, or of which nothing arrives here, if this box could do better.
func (l *LAN) judgeCourier(now time.Time, w Want, box string) {
	k, ok := l.links[box]
	if !ok || !l.self.WAN || w.NoWAN || l.yielded[w.ID] {
		delete(l.watch, w.ID)
		return
	}
	theirs := k.wants[w.ID]
	mark := theirs.WANBytes + int64(theirs.Have)
	if theirs.Have > w.Have {
		mark = int64(w.Have) // it has what this box lacks: what counts is whether that comes
	}
	if p := l.watch[w.ID]; p.box != box || p.mark != mark {
		l.watch[w.ID] = progress{box, mark, now}
	} else if now.Sub(p.since) >= stallAfter && len(l.vetoes) < maxVetoes {
		delete(l.watch, w.ID)
		l.vetoes[veto{w.ID, box}] = now.Add(vetoFor)
		l.stats.vetoes.Add(1)
		l.log.Info("the courier does not move", "asset", w.ID.Short(), "courier", box)
	}
}

// judgeHolders votes against the neighbours that say they hold an asset and give nothing of it, if this box could fetch
// it: else one box that cannot serve would keep the whole home from it.
func (l *LAN) judgeHolders(now time.Time, w Want, boxes []string) {
	if !l.self.WAN || w.NoWAN || l.yielded[w.ID] {
		delete(l.watch, w.ID)
		return
	}
	who, mark := strings.Join(boxes, " "), int64(w.Have)
	if p := l.watch[w.ID]; p.box != who || p.mark != mark {
		l.watch[w.ID] = progress{who, mark, now}
		return
	} else if now.Sub(p.since) < stallAfter {
		return
	}
	delete(l.watch, w.ID)
	for _, box := range boxes {
		if len(l.vetoes) >= maxVetoes {
			return
		}
		l.vetoes[veto{w.ID, box}] = now.Add(holderVetoFor)
		l.stats.vetoes.Add(1)
		l.log.Info("a neighbour that holds the asset gives nothing of it", "asset", w.ID.Short(), "holder", box)
	}
}

// anotherIsFaster reports whether a neighbour that could be courier has a better way to the WAN. All share one access line:
// while others use it, too, what they get now counts, else what they have shown that they can get.
func (l *LAN) anotherIsFaster(w Want) bool {
	if w.WANRate == 0 || w.Paced || l.yielded[w.ID] {
		return false
	}
	var own int64
	for _, o := range l.self.Wants {
		own += o.WANRate
	}
	busy := false
	for _, k := range l.links {
		busy = busy || k.wanRate() > 0
	}
	for box, k := range l.links {
		theirs, ok := k.wants[w.ID]
		if !ok || !k.state.WAN || theirs.NoWAN || theirs.Yields || l.vetoed(w.ID, box) {
			continue
		}
		if !busy && k.state.WANRate > 2*own || k.wanRate() > fasterNow*own {
			return true
		}
	}
	return false
}

// wanRate is what the neighbour gets over the WAN now.
func (k *link) wanRate() (sum int64) {
	for _, w := range k.wants {
		if w.Acting {
			sum += w.WANRate
		}
	}
	return sum
}
