package fetch

import (
	"slices"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/engine"
	"boxd/internal/lan"
	"boxd/internal/schedule"
)

const (
	ownPatience = 3 * time.Second // for a piece that a player needs soon and that the courier should bring
	ownFor      = time.Minute     // a follower that had to help itself goes on doing so
	playShare   = 8               // this part of the line is left to what nobody waits for

	// afterFirst is how long nothing follows the first piece of a place: a player that has read there where the film's index
	// is asks for that next, and would wait longer if its request had to end another and connect anew.
	afterFirst = 75 * time.Millisecond
)

// player is what is known of the players of an asset on this box.
type player struct {
	piece  int       // that is needed next
	since  time.Time // when it came to be; zero: nothing is needed soon
	lacks  time.Time // since when something that is needed soon has been lacking, whatever it was
	last   time.Time // when something was needed
	helped time.Time // when the courier was found too slow
	denied time.Time // and when a box that has what is needed was found not to give it

	opening Span      // the first piece of a place to which the player has just come, or an index; End 0: none
	place   int       // the piece after the last such one; 0: none
	wait    time.Time // before it is asked for

	index     Span // of the film whose beginning has come; End 0: none
	indexEnds time.Time
	indexed   bool // where it is was found, so that a player that goes elsewhere does not look for it there
}

// opens says that a request from a piece on is the one that was decided on to bring the beginning of a place.
func (p *player) opens(first int) bool { return p.opening.End > 0 && p.opening.First == first }

// look takes what is needed now; slow says that much less comes than the access line would bring, near that another box of the
// home has what is needed first.
func (p *player) look(demand []Span, slow, near bool, mono time.Time) {
	if len(demand) > 0 {
		p.last = mono
	}
	if len(demand) == 0 || !demand[0].Soon {
		p.since, p.lacks = time.Time{}, time.Time{}
		return
	}
	if p.lacks.IsZero() {
		p.lacks = mono
	}
	if first := demand[0].First; p.since.IsZero() || p.piece != first {
		p.piece, p.since = first, mono
	}
	if mono.Sub(p.since) >= ownPatience || slow && mono.Sub(p.lacks) >= 2*ownPatience {
		if p.helped = mono; near {
			p.denied = mono
		}
	}
}

// starved says that what a player here needs has not come from the home in time, so that this box should help itself.
func (p *player) starved(mono time.Time) bool {
	return !p.helped.IsZero() && mono.Sub(p.helped) < ownFor
}

// isAtHome says that a connected box of the home has the first of what is needed.
func (f *Fetcher) isAtHome(it *item, demand []Span) bool {
	if len(demand) == 0 {
		return false
	}
	near, i := f.swarm.Availability(it.id, engine.LAN), demand[0].First
	return i < len(near) && near[i] > 0
}

// neighbourDemand is what players elsewhere in the home need, of an asset that this box carries.
func (f *Fetcher) neighbourDemand(it *item) []Span {
	if f.o.LAN == nil || !it.carries {
		return nil
	}
	var list []Span
	for _, n := range f.o.LAN.Neighbours() {
		stands := false
		for _, d := range n.Demand {
			if d.ID == it.id {
				list = append(list, Span{d.First, d.Last + 1, d.Soon, d.Soon && !stands})
				stands = stands || d.Soon
			}
		}
	}
	return list
}

// neighbourCannot says that a player elsewhere in the home needs an asset whose box may not fetch it over the access line:
// another must then offer to carry it, outside of the windows, too.
func (f *Fetcher) neighbourCannot(id asset.ID) bool {
	if f.o.LAN == nil {
		return false
	}
	for _, n := range f.o.LAN.Neighbours() {
		if !slices.ContainsFunc(n.Demand, func(d lan.Demand) bool { return d.ID == id }) {
			continue
		}
		if !n.WAN || slices.ContainsFunc(n.Wants, func(w lan.Want) bool { return w.ID == id && w.NoWAN }) {
			return true
		}
	}
	return false
}

// needs is what players here and elsewhere in the home need: first what they need soon, those here before others.
func (f *Fetcher) needs(it *item) []Span {
	index := it.indexNeeds()
	list := slices.Concat(index, it.demand, f.neighbourDemand(it))
	for i := len(index); i < len(list) && len(index) > 0; i++ {
		list[i].Now = false // it comes first
	}
	slices.SortStableFunc(list, func(a, b Span) int {
		switch {
		case a.Soon == b.Soon:
			return 0
		case a.Soon:
			return -1
		}
		return 1
	})
	return list
}

// missingOfSpans lists the pieces of spans, in their order, for which ok holds.
func (it *item) missingOfSpans(spans []Span, soon bool, ok func(int) bool) (list []int) {
	for _, s := range spans {
		if soon && !s.Soon {
			continue
		}
		for i := max(s.First, 0); i < min(s.End, it.reservedPieces()); i++ {
			if ok(i) {
				list = append(list, i)
			}
		}
	}
	return list
}

// waiting is what of an asset players need soon and the access line has to bring: what the home does not have, or does not
// give in time.
func (f *Fetcher) waiting(it *item, needs []Span) []int {
	near := f.swarm.Availability(it.id, engine.LAN)
	denied := !it.player.denied.IsZero() && time.Since(it.player.denied) < ownFor
	return it.missingOfSpans(needs, true, func(i int) bool {
		return !it.store.Have(i) && (denied || i >= len(near) || near[i] == 0)
	})
}

// playLinger is how long the access line stays open for a player that needs nothing for a moment, so that connections and
// announces do not begin anew with each burst in which it reads.
const playLinger = 30 * time.Second

// line is what the access line is thought to bring, in bytes per second.
func (f *Fetcher) line() float64 {
	if f.measured.best > 0 {
		return f.measured.best
	}
	return schedule.DefaultLineRate
}

// lingers says that a player needed something a moment ago, for which the line was opened outside of the windows.
func (it *item) lingers(mono time.Time) bool {
	return it.wanOn && !it.want.WAN && it.want.Reason.Code == schedule.CodeWindow && !it.player.last.IsZero() &&
		mono.Sub(it.player.last) < playLinger
}

// urgents are the assets that somebody waits for and that come over the access line: they share it.
func (f *Fetcher) urgents() map[*item]bool {
	urgent := map[*item]bool{}
	for _, it := range f.items {
		if it.loaded && it.wanOn && !it.complete() && len(f.waiting(it, f.needs(it))) > 0 {
			urgent[it] = true
		}
	}
	return urgent
}

// leftOver is what each asset that nobody waits for gets of the line while somebody waits for another, in bytes per second.
func (f *Fetcher) leftOver() int64 {
	limits, _, _ := f.wishes()
	line := int64(f.measured.best)
	if down := limits.WANDown; down.Set && (line == 0 || down.Value < line) {
		line = down.Value
	}
	if line == 0 {
		return playbackFloor
	}
	others := int64(0)
	for _, it := range f.items {
		if it.loaded && it.wanOn && !it.complete() && !f.urgent[it] {
			others++
		}
	}
	return max(line/playShare/max(others, 1), 1)
}

// next is the piece that a request brings now; the end when it has brought all.
func (r *originRun) next(it *item) int {
	for i := r.first; i < r.end; i++ {
		if !it.store.Have(i) {
			return i
		}
	}
	return r.end
}

// begun says that a request which goes on brings only what is needed until the piece, if it reaches so far; else another
// goes on there.
func (it *item) begun(piece int, needed map[int]bool) bool {
	for r := range it.runs {
		if r.gaveWay || piece < r.first {
			continue
		}
		i := r.next(it)
		for i < piece && (needed[i] || it.store.Have(i)) {
			i++
		}
		if i == piece {
			return true
		}
	}
	return false
}

// left is how many pieces a request still has to bring.
func (r *originRun) left(it *item) (n int) {
	for i := r.first; i < r.end; i++ {
		if !it.store.Have(i) {
			n++
		}
	}
	return n
}

// giveWay ends the requests that bring something else now than what players need soon, such as what was ahead of them
// before a seek, but for those that are about to end.
func (it *item) giveWay(soon map[int]bool) {
	for r := range it.runs {
		if !r.gaveWay && !soon[r.next(it)] && r.left(it) > 1 {
			r.gaveWay = true
			r.cancel()
		}
	}
}

// stands lists the pieces that players lack first, of those that they need soon and the access line has to bring.
func (it *item) stands(needs []Span, soon map[int]bool) (list []int) {
	for _, s := range needs {
		if s.Now && soon[s.First] {
			list = append(list, s.First)
		}
	}
	return list
}

// ending says that all requests for players are about to end, so that another may follow them: the line does not rest, and
// two do not share it, which would make both late.
func (it *item) ending() bool {
	for r := range it.runs {
		if r.demanded && !r.gaveWay && (r.opens || r.left(it) > 1) {
			return false
		}
	}
	return true
}

// long says that a piece is of a file of which players read the index first; shorter ones, as of a package, they read whole.
func (it *item) long(piece int) bool {
	off, n := it.info.PieceSpan(piece)
	for _, f := range it.info.Files {
		if f.Length > maxRun && f.Offset < off+n && off < f.Offset+f.Length {
			return true
		}
	}
	return false
}

// begins says that a file begins in a piece.
func (it *item) begins(piece int) bool {
	off, n := it.info.PieceSpan(piece)
	for _, f := range it.info.Files {
		if f.Offset >= off && f.Offset < off+n {
			return true
		}
	}
	return false
}

// playRuns says how many more requests may be made for what players need, and the piece to begin with, if that is not just
// the next one. It comes in order, over one request at a time for each player that stands before something else.
func (it *item) playRuns(needs []Span, waiting []int, mono time.Time) (n, first int) {
	live := 0
	needed, soon := map[int]bool{}, map[int]bool{}
	for _, i := range it.missingOfSpans(needs, false, func(int) bool { return true }) {
		needed[i] = true
	}
	for _, i := range waiting {
		soon[i] = true
	}
	first = -1
	stands := it.stands(needs, soon)
	for _, i := range stands {
		if !it.begun(i, needed) {
			first = i
			break
		}
	}
	if first >= 0 || len(stands) > 0 && !it.ending() {
		it.giveWay(soon)
	}
	for r := range it.runs {
		if !r.gaveWay {
			live++
		}
	}
	switch {
	case first < 0:
		if it.ending() && live < runsPerAsset {
			return 1, -1
		}
	case first == it.player.place && mono.Before(it.player.wait):
	case !it.inflight[first] && live <= runsPerAsset:
		p := &it.player
		switch p.opening = (Span{}); {
		case p.index.First <= first && first < p.index.End:
			p.opening = Span{First: first, End: p.index.End}
		case it.long(first) && (it.begins(first) || first != p.place && !p.indexed):
			p.opening = Span{First: first, End: first + 1}
		}
		return 1, first
	}
	return 0, -1
}
