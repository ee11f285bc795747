package fetch

import (
	"context"
	"sync/atomic"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/engine"
	"boxd/internal/fetch/origin"
	"boxd/internal/fetch/pace"
	"boxd/internal/fetch/tracker"
	"boxd/internal/schedule"
)

// State of an asset, as MQTT and status say it.
type State string

// The states of an asset.
const (
	Accepted State = "accepted" // wanted; nothing has moved yet
	Fetching State = "fetching"
	Verified State = "verified" // every byte is here and verified, and being made durable
	Ready    State = "ready"
	Rejected State = "rejected" // cannot be taken; Code says why
	Failed   State = "failed"
)

// item is all that is known about one asset. Run's goroutine owns it.
type item struct {
	id    asset.ID
	info  *asset.Info
	meta  *listed // what the catalog says; nil when only the cache has it
	store Asset   // nil until space is reserved

	want  schedule.Want // as decided
	rank  int           // place in the plan; 0 is the most urgent
	alone schedule.Want // as it would be if this box had to carry it

	made      time.Time // when this box heard of it in this run
	state     State
	code      string
	codeText  string
	retryAt   time.Time     // of a rejected or failed asset
	failures  int           // of its store, one after the other without a piece between
	failedAt  time.Time     // the last of them
	failedHad int           // pieces then
	eraseAt   time.Time     // of a withdrawn asset: when the cache is asked again to remove it
	eraseWait time.Duration // and how long after the last try
	growErr   error         // why the cache refused space for the rest of an asset of which it has the beginning
	growAt    time.Time     // when it is asked again
	rec       record        // counters that survive a restart, without those of the engine since loading
	live      engine.Stats
	rates     rates
	loaded    bool
	stopWatch context.CancelFunc
	lastUse   time.Time // of a complete torrent that is loaded

	courier     string
	carries     bool // this box is the courier
	seen        courierSeen
	lastCourier string // the last one that was not ""
	heir        bool   // this box carries it because the courier before it is gone
	wanOn       bool
	wanSince    time.Time
	lanProgress time.Time // when LAN last brought something
	bucket      *pace.Bucket
	originRate  *pace.Bucket // of requests to the origin only
	policy      engine.Policy
	demand      []Span
	player      player
	prio        []engine.Priority
	have        []bool // verified pieces at the last look, to tell the engine of those that it does not know of
	attr        Attr   // as the cache knows it

	fromOrigin atomic.Int64 // bytes since the item was made; the requests count them as they come

	src      *origin.Source
	runs     map[*originRun]bool
	mesh     mesh
	inflight []bool // pieces that the origin is bringing
	follow   int    // the first piece that the request which ended last did not bring
	srcErr   error
	srcRetry time.Time

	ann announcer
}

// listed is what the catalog says about the asset.
type listed struct {
	torrent                  []byte
	name, version, publisher string
}

type originRun struct {
	first, end int
	cancel     context.CancelFunc
	demanded   bool // it is for players
	opens      bool // it brings the first piece of a place to which a player came
	index      bool // which is a film's index
	gaveWay    bool // it was ended for what a player needs or others bring, and has not noticed yet
}

// announcer is the state of an asset towards the tracker.
type announcer struct {
	busy      bool
	next      time.Time
	last      time.Time // announce sent
	peersThen int       // connections when the tracker answered last
	fails     int
	few       int // times that the tracker knew of few others
	started   bool
	completed bool
	known     bool // the tracker has answered
	answer    tracker.Answer
	err       error
}

func (it *item) complete() bool { return it.store != nil && it.store.Complete() }

func (it *item) missing() int64 {
	if it.store == nil {
		return it.info.Length
	}
	return it.info.Length - it.store.Bytes()
}

// missingOf is how many bytes of the first n are not verified.
func (it *item) missingOf(n int64) int64 {
	if it.store == nil {
		return min(n, it.info.Length)
	}
	var sum int64
	_, end := it.info.PiecesOf(0, min(n, it.info.Length))
	for i := range end {
		if !it.store.Have(i) {
			_, l := it.info.PieceSpan(i)
			sum += l
		}
	}
	return sum
}

func (it *item) playing() bool { return len(it.demand) > 0 }

// bytes is what came from each source since the counters began.
func (it *item) bytes() Sources {
	return Sources{
		LAN:    it.rec.Bytes.LAN + it.live.Received[engine.LAN],
		Peer:   it.rec.Bytes.Peer + it.live.Received[engine.WAN],
		Origin: it.rec.Bytes.Origin + it.fromOrigin.Load(),
	}
}

func (it *item) sent() Sources {
	return Sources{
		LAN: it.rec.Sent.LAN + it.live.Sent[engine.LAN], Peer: it.rec.Sent.Peer + it.live.Sent[engine.WAN],
	}
}

func (it *item) wasted() int64 {
	w := it.rec.Wasted + it.live.Spoilt
	for c := range it.live.Received {
		w += it.live.Received[c] - it.live.Useful[c]
	}
	return w
}

// fold takes the engine's counters over into the record, when the torrent is dropped.
func (it *item) fold() {
	in, out, wasted := it.bytes(), it.sent(), it.wasted()
	in.Origin = it.rec.Bytes.Origin
	it.rec.Bytes, it.rec.Sent, it.rec.Wasted = in, out, wasted
	it.live = engine.Stats{}
}
