package fetch

import (
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"time"

	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/origin"
	"boxd/internal/fetch/pace"
	"boxd/internal/health"
	"boxd/internal/schedule"
)

const (
	runsPerAsset = 2
	runsInAll    = 4
	meeting      = 2 * time.Second // for the boxes of a swarm to connect, so that each fetches only its share
	settling     = 5 * time.Second // for the tracker's first answer, before pieces that nobody has are taken for ours

	// What one request covers, in bytes, if pieces are not larger: about half a second of the line, so that the next
	// decision comes soon, as the swarm changes.
	minRun = 512 << 10
	maxRun = 8 << 20
	// A request where for long nobody else has brought anything: between two the line is not full. It takes so long at the
	// present rate, if it is one of at least longRun.
	longFor = 10 * time.Second
	longRun = 4 * maxRun
	mostRun = 64 * maxRun
)

// askOrigin starts requests to the origin, as far as the plan allows.
func (f *Fetcher) askOrigin(it *item, mono time.Time) {
	mode := it.want.Origin
	f.shorten(it)
	if !it.wanOn || mode == schedule.OriginOff || mono.Before(it.srcRetry) {
		return
	}
	if f.settles(it, mono) || f.afterPrefixes(it, mono) {
		return
	}
	if !f.openSource(it) {
		return
	}
	needs := f.needs(it)
	if pieces, demanded, most := f.originPieces(it, mode, needs); len(pieces) > 0 {
		f.ask(it, pieces, mode, demanded, most)
	}
}

// ask makes requests of pieces, best first, until an asset has most of them.
func (f *Fetcher) ask(it *item, pieces []int, mode schedule.OriginMode, demanded bool, most int) {
	for len(pieces) > 0 && most > 0 {
		first, end := f.runOf(it, pieces, mode, demanded)
		f.startRun(it, first, end, demanded)
		most--
		var rest []int
		for _, p := range pieces {
			if p < first || p >= end {
				rest = append(rest, p)
			}
		}
		pieces = rest
	}
}

// shorten ends requests that were made long because nobody else was there, once somebody is who may bring the rest or
// waits for a part, or the origin is not to bring it any more.
func (f *Fetcher) shorten(it *item) {
	for r := range it.runs {
		if r.gaveWay || int64(r.left(it))*it.info.PieceLength <= longRun {
			continue
		}
		if f.hasWANPeers(it) || f.isNear(it, r) || len(f.needs(it)) > 0 || it.want.PlayOnly || it.want.Origin == schedule.OriginOff {
			r.gaveWay = true
			r.cancel()
		}
	}
}

// isNear says that another box of the home has some of what a request is still to bring, but for the piece that is on its way.
func (f *Fetcher) isNear(it *item, r *originRun) bool {
	near := f.swarm.Availability(it.id, engine.LAN)
	for i := r.next(it) + 1; i < min(r.end, len(near)); i++ {
		if near[i] > 0 && !it.store.Have(i) {
			return true
		}
	}
	return false
}

// settles says that the swarm has just begun to meet, so that what nobody has is not known yet. The heir of a dead courier
// does not wait to meet: the home has waited for it already.
func (f *Fetcher) settles(it *item, mono time.Time) bool {
	since := mono.Sub(it.wanSince)
	return it.want.Origin == schedule.OriginSpare && len(f.needs(it)) == 0 &&
		(since < meeting && !it.heir && !f.first(it) || !it.ann.known && since < settling)
}

// afterPrefixes says that this asset's beginning is here, another's is on its way, and nothing urgent speaks against
// waiting for that.
func (f *Fetcher) afterPrefixes(it *item, mono time.Time) bool {
	if it.want.Prefix || it.want.Origin == schedule.OriginUrgent || len(f.needs(it)) > 0 {
		return false
	}
	for _, other := range f.items {
		if other.want.Prefix && other.wanOn && (len(other.runs) > 0 || mono.Sub(other.wanSince) < settling) {
			return true
		}
	}
	return false
}

// first says that the tracker knows of nobody outside of this home: there is nobody to wait for, and who comes later takes
// from here what is here by then.
func (f *Fetcher) first(it *item) bool {
	if !it.ann.known || it.ann.err != nil {
		return false
	}
	for _, p := range it.ann.answer.Peers {
		if !f.isHome(p.Box) {
			return false
		}
	}
	return true
}

func (f *Fetcher) allRuns() int {
	n := 0
	for _, it := range f.items {
		n += len(it.runs)
	}
	return n
}

func (f *Fetcher) openSource(it *item) bool {
	if it.src != nil {
		return true
	}
	urls := it.info.WebSeeds
	if len(f.o.OriginURLs) > 0 {
		urls = f.o.OriginURLs
	}
	if len(urls) == 0 {
		return false
	}
	it.inflight = make([]bool, it.info.NumPieces())
	it.src = origin.New(it.store, urls, origin.Options{
		Client: f.o.Origin, Taken: f.o.Taken, Buckets: []*pace.Bucket{it.originRate, it.bucket, f.swarm.Down()}, Log: f.log,
		Sockets: f.yield.sockets, Servers: &f.servers,
		OnPiece: func(int) { f.wake() }, OnBytes: func(n int) { it.fromOrigin.Add(int64(n)) },
	})
	return true
}

// aloneAfter is how long the other boxes of the swarm are given to be reached, before this one stops counting on their
// shares of the origin's pieces.
const aloneAfter = 5 * time.Second

// originPieces chooses what to ask the origin for now, best first, and in how many requests; demanded says that a player
// needs it.
func (f *Fetcher) originPieces(it *item, mode schedule.OriginMode, needs []Span) (pieces []int, demanded bool, most int) {
	near := f.swarm.Availability(it.id, engine.LAN)
	missing := func(i int) bool {
		return !it.store.Have(i) && !it.inflight[i] && (i >= len(near) || near[i] == 0)
	}
	most = f.moreRuns(it)
	pieces = it.missingOfSpans(needs, false, missing)
	if waiting := f.waiting(it, needs); len(waiting) > 0 || len(pieces) > 0 {
		n, first := it.playRuns(needs, waiting, time.Now())
		if first >= 0 {
			pieces = append([]int{first}, pieces...)
		}
		return pieces, true, n
	}
	if it.want.PlayOnly || len(f.urgent) > 0 {
		return nil, true, 0
	}
	if it.originRate.Rate() != pace.Unlimited {
		most = min(most, 1-len(it.runs)) // what it holds cannot come from peers meanwhile
	}
	if most <= 0 {
		return nil, false, 0
	}
	return f.sharePieces(it, mode, missing), false, most
}

// moreRuns is how many more requests an asset may have.
func (f *Fetcher) moreRuns(it *item) int {
	most := runsPerAsset
	if f.aloneFor(it) > 2*aloneAfter {
		most = f.yield.connections()
	}
	return min(most-len(it.runs), runsInAll-f.allRuns())
}

// aloneFor is for how long nobody in the WAN has brought anything of an asset; zero while there is somebody.
func (f *Fetcher) aloneFor(it *item) time.Duration {
	if f.hasWANPeers(it) {
		return 0
	}
	return time.Since(it.wanSince)
}

// sharePieces is this box's share of what the swarm asks the origin for.
func (f *Fetcher) sharePieces(it *item, mode schedule.OriginMode, missing func(int) bool) (pieces []int) {
	end := it.reservedPieces()
	if it.want.Prefix {
		end = min(end, f.prefixEnd(it))
	}
	have := f.swarm.Availability(it.id, engine.WAN)
	var boxes []string
	for _, p := range it.live.Peers {
		if p.Class == engine.WAN && p.Box != "" {
			boxes = append(boxes, p.Box)
		}
	}
	index, of := it.ann.answer.ShareIndex, it.ann.answer.ShareOf
	switch elapsed := time.Since(it.wanSince); {
	case len(boxes)+1 > of:
		of = 0 // the tracker did not know of all yet: those that know each other divide the pieces by their names
	case len(boxes) == 0 && (elapsed > aloneAfter || it.heir): // the tracker still counts the dead one
		of = 0 // those that the tracker counts cannot be reached: nobody brings the rest
	}
	pieces = schedule.OriginPieces(schedule.ShareInput{
		BoxID: f.o.Identity.BoxID(), Asset: it.id.String(), Mode: mode, Pieces: end, Missing: missing,
		Holders: func(i int) int {
			if i < len(have) {
				return have[i]
			}
			return 0
		},
		Peers: boxes, Index: index, Of: of,
		Elapsed: time.Since(it.wanSince), Pace: it.want.Pace, Before: max(0, it.want.Elapsed-time.Since(it.wanSince)),
	})
	if !it.carries { // the courier begins at the other end
		pieces = slices.Concat(pieces[len(pieces)/2:], pieces[:len(pieces)/2])
	}
	return pieces
}

// runOf makes one request of the best piece and those that follow it, as far as they are in the list too.
func (f *Fetcher) runOf(it *item, pieces []int, mode schedule.OriginMode, demanded bool) (first, end int) {
	most := min(max(int64(f.measured.best/2), minRun), maxRun)
	// Where nobody else will bring any of it: the fewer requests, the steadier the line. But who begins first knows of nobody yet.
	switch alone := f.aloneFor(it); {
	case demanded:
	case alone > 2*aloneAfter && len(f.needs(it)) == 0:
		most = min(max(it.rates.smooth.WAN()*int64(longFor/time.Second), longRun), mostRun)
	case alone > aloneAfter:
		most = min(4*most, maxRun)
	}
	if mode == schedule.OriginUrgent && !demanded {
		most = max(most, min(4*most, maxRun))
	}
	if demanded {
		most = maxRun // one after the other: what is not needed any more is ended
	}
	if rate := it.originRate.Rate(); rate != pace.Unlimited {
		most = min(most, 2*rate)
	}
	in := make(map[int]bool, len(pieces))
	for _, p := range pieces {
		in[p] = true
	}
	first = pieces[0]
	if demanded && it.player.opens(first) {
		return first, it.player.opening.End
	}
	switch {
	case mode != schedule.OriginSpare || demanded:
	case it.follow > 0 && in[it.follow] && !f.hasWANPeers(it): // or short stretches are left between requests
		first = it.follow
	default:
		first = pieces[f.offset(it)%uint64(len(pieces))] // boxes that know nothing of each other begin at different places
	}
	end = first + 1
	for in[end] && int64(end-first+1)*it.info.PieceLength <= most {
		end++
	}
	return first, end
}

func (f *Fetcher) hasWANPeers(it *item) bool {
	for _, p := range it.live.Peers {
		if p.Class == engine.WAN {
			return true
		}
	}
	return false
}

// offset is a number that differs from box to box and from request to request.
func (f *Fetcher) offset(it *item) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(f.o.Identity.BoxID()))
	_, _ = h.Write(it.id[:])
	return h.Sum64() + uint64(it.store.HaveCount()) //nolint:gosec // a count is not negative
}

func (f *Fetcher) startRun(it *item, first, end int, demanded bool) {
	ctx, cancel := context.WithCancel(f.jobs)
	r := &originRun{first: first, end: end, cancel: cancel, demanded: demanded, opens: demanded && it.player.opens(first)}
	if r.opens {
		index := it.player.index
		r.index = index.First <= first && first < index.End
		it.player.opening = Span{}
	}
	it.runs[r] = true
	for i := first; i < end; i++ {
		it.inflight[i] = true
	}
	src := it.src
	f.running.Go(func() {
		defer cancel()
		res := src.Fetch(ctx, first, end)
		f.do(f.jobs, func(mono time.Time) { f.ranOrigin(it, r, res, mono) })
	})
}

// ranOrigin takes the result of a request.
func (f *Fetcher) ranOrigin(it *item, r *originRun, res origin.Result, mono time.Time) {
	delete(it.runs, r)
	if it.store != nil {
		it.follow = r.next(it)
	}
	for i := r.first; i < r.end && i < len(it.inflight); i++ {
		it.inflight[i] = false
	}
	it.rec.Wasted += res.Wasted
	it.rates.moved = true
	switch {
	case res.Err == nil:
		if r.opens && it.store != nil { // not evicted meanwhile
			f.opened(it, r, mono)
		}
		it.srcErr = nil
		f.reach.success(mono)
		f.o.Health.Clear("origin-unusable")
	case errors.Is(res.Err, context.Canceled):
	case errors.Is(res.Err, origin.ErrStore) && it.store == nil: // evicted meanwhile
	case errors.Is(res.Err, origin.ErrStore) && f.o.Taken(res.Err): // it is being judged, or no space is reserved for it
	case errors.Is(res.Err, origin.ErrStore):
		f.fail(it.id, res.Err, mono)
	default:
		it.srcErr = res.Err
		if it.srcRetry = res.RetryAt; it.src != nil { // another server may be free sooner
			it.srcRetry = it.src.RetryAt(time.Now())
		}
		if res.Verified == 0 && !errors.Is(res.Err, origin.ErrNotNow) {
			f.reach.failure(mono)
		}
		f.blameOrigin(it, res.Err)
	}
	f.wake()
}

func (f *Fetcher) blameOrigin(it *item, err error) {
	f.log.Info("the origin did not deliver", "asset", it.id.Short(), "err", err)
	var text string
	switch {
	case errors.Is(err, origin.ErrWrongBytes):
		text = "The origin sends other bytes than were published; they are thrown away."
	case errors.Is(err, origin.ErrRangeIgnored), errors.Is(err, origin.ErrWrongRange):
		text = "The origin does not answer range requests as it should."
	case errors.Is(err, origin.ErrEncoded):
		text = "The origin compresses what it sends, so that it is not what was published."
	case errors.Is(err, origin.ErrRedirect):
		text = "The origin redirects in a circle, or away from HTTPS."
	case errors.Is(err, origin.ErrStatus):
		text = "The origin refuses to send an asset."
	default:
		return // the network; it mends itself, and status says it
	}
	f.o.Health.Raise(health.Warning{
		Code: "origin-unusable", Severity: health.Warn, Text: text,
		Action: "The operator should look at the origin server.",
	})
}

// reach guesses whether this box can reach the WAN at all, for the household's election.
type reach struct {
	failures int
	last     time.Time // failure
}

func (r *reach) success(time.Time) { r.failures = 0 }

func (r *reach) failure(now time.Time) {
	r.failures++
	r.last = now
}

// ok is true until several attempts in a row have failed; after a while it is worth another try.
func (r *reach) ok(now time.Time) bool { return r.failures < 3 || now.Sub(r.last) > 2*time.Minute }
