package fetch

import (
	"fmt"
	"net/netip"
	"sort"
	"time"

	"boxd/internal/asset"
	"boxd/internal/courtesy"
	"boxd/internal/fetch/engine"
	"boxd/internal/schedule"
)

// Status is what fetch does at one moment. It is never changed once it was handed out.
type Status struct {
	Paused, Playback bool
	Assets           []AssetStatus // most urgent first
	Peers            []PeerStatus  // at most maxPeers
	Boxes            []BoxStatus   // those of the home first; their In adds up to Bytes.LAN and, of this run, Bytes.Peer
	Banned           []string      // boxes that sent wrong bytes
	Rates, SentRates Sources       // bytes per second
	Bytes, Sent      Sources       // since the state file was made
	Wasted           int64         // bytes received and thrown away
	Month            string        // "2026-01"
	MonthWAN         int64         // bytes over the access line in that month, both ways
	LineRate         float64       // bytes per second the line gave lately when asked for all
	CourierOf        int           // assets that this box brings over the access line now
	Next             time.Time     // of the plan; zero: when something changes
	Limits           Limits
}

// maxPeers bounds the peers in a Status.
const maxPeers = 100

// Roles of a box for an asset.
const (
	RoleCourier  = "courier"
	RoleFollower = "follower"
	RoleAlone    = "alone" // there is no other box in the home
)

// AssetStatus is one asset.
type AssetStatus struct {
	ID         asset.ID
	Name       string
	State      State
	Code       string // of rejected and failed, stable; otherwise the reason's code
	Why        string // one sentence
	Campaign   string
	Length     int64
	Verified   int64
	Role       string // empty when nothing is to be carried
	Courier    string // box id, when another box carries it
	Peers      int    // connections
	Rates      Sources
	SentRates  Sources
	Bytes      Sources // received
	Sent       Sources
	Wasted     int64
	Priority   int
	Deadline   time.Time
	KeepUntil  time.Time
	ETA        time.Time
	Danger     bool // the deadline needs more than peers can be trusted to give
	Late       bool // the deadline will be missed
	WAN        bool // the access line is open for it
	Origin     string
	OriginErr  string
	TrackerErr string
	Accepted   time.Time
	Started    time.Time
	Completed  time.Time
	Loaded     bool
	Outlook    Outlook // for a player; unless it Comes, Code says why
}

// PeerStatus is one connection.
type PeerStatus struct {
	Box   string
	Addr  netip.AddrPort
	LAN   bool
	Asset asset.ID
	In    int64 // bytes of blocks on this connection
	Out   int64
}

// Status returns the latest status; it never waits.
func (f *Fetcher) Status() *Status { return f.status.Load() }

// Changed returns a channel that is closed when the status has changed.
func (f *Fetcher) Changed() <-chan struct{} { return *f.changed.Load() }

// Why says in a sentence how things stand with an asset.
func (f *Fetcher) Why(id asset.ID) (string, bool) {
	for _, a := range f.Status().Assets {
		if a.ID == id {
			return a.Why, true
		}
	}
	return "", false
}

// Schedule plays the coming time forward.
func (f *Fetcher) Schedule(now time.Time, length time.Duration) []schedule.Slot {
	in := f.plan.Load()
	if in == nil {
		return nil
	}
	return schedule.Day(now, *in, length)
}

// publish makes the present state the status.
func (f *Fetcher) publish(now time.Time) {
	limits, paused, playback := f.wishes()
	s := &Status{
		Paused: paused, Playback: playback, Limits: limits, Next: f.next, Bytes: f.totals.Bytes, Sent: f.totals.Sent,
		Wasted: f.totals.Wasted, Month: f.totals.Month, MonthWAN: f.totals.MonthWAN, LineRate: f.measured.best,
		Banned: f.swarm.Banned(), Boxes: f.boxStatus(),
	}
	for _, it := range f.ordered() {
		a := f.describeStatus(it)
		s.Assets = append(s.Assets, a)
		s.Rates, s.SentRates = s.Rates.plus(a.Rates), s.SentRates.plus(a.SentRates)
		if a.Role == RoleCourier && a.WAN {
			s.CourierOf++
		}
		for _, p := range it.live.Peers {
			if len(s.Peers) < maxPeers {
				s.Peers = append(s.Peers, PeerStatus{
					Box: p.Box, Addr: p.Addr, LAN: p.Class == engine.LAN, Asset: it.id, In: p.Received, Out: p.Sent,
				})
			}
		}
	}
	sort.SliceStable(s.Assets, func(i, j int) bool {
		return s.Assets[i].State != Ready && s.Assets[j].State == Ready
	})
	in := f.forDay()
	f.plan.Store(&in)
	f.status.Store(s)
	fresh := make(chan struct{})
	close(*f.changed.Swap(&fresh))
}

func (f *Fetcher) describeStatus(it *item) AssetStatus {
	w := it.want
	a := AssetStatus{
		ID: it.id, Name: it.info.Name, State: it.state, Code: it.code, Why: w.Reason.Text, Campaign: w.Campaign,
		Length: it.info.Length, Verified: it.info.Length - it.missing(), Peers: len(it.live.Peers),
		Rates: it.rates.smooth, SentRates: it.rates.sends, Bytes: it.bytes(), Sent: it.sent(), Wasted: it.wasted(),
		Priority: w.Priority, Deadline: w.Deadline, KeepUntil: w.KeepUntil, ETA: w.ETA, Danger: w.Danger, Late: w.Late,
		WAN: it.wanOn, Origin: w.Origin.String(), Accepted: it.rec.Accepted, Started: it.rec.Started,
		Completed: it.rec.Completed, Loaded: it.loaded,
		Outlook: f.outlook(it),
	}
	if it.complete() {
		a.Rates = Sources{}
	}
	if it.meta != nil && it.meta.name != "" {
		a.Name = it.meta.name
	}
	if a.Code == "" {
		a.Code = w.Reason.Code
	}
	if it.srcErr != nil {
		a.OriginErr = it.srcErr.Error()
	}
	if it.ann.err != nil {
		a.TrackerErr = it.ann.err.Error()
	}
	f.roleOf(it, &a)
	f.explain(it, &a)
	return a
}

func (f *Fetcher) roleOf(it *item, a *AssetStatus) {
	if it.complete() || !it.want.Fetch {
		return
	}
	switch {
	case f.o.LAN == nil || len(*f.home.Load()) == 0:
		a.Role = RoleAlone
	case it.carries:
		a.Role = RoleCourier
	default:
		a.Role, a.Courier = RoleFollower, it.courier
	}
}

// explain adds to the schedule's reason what only fetch knows.
func (f *Fetcher) explain(it *item, a *AssetStatus) {
	switch w := it.want.Reason; {
	case f.withdrawn[it.id]: // the plan says why
	case it.state == Rejected, it.state == Failed:
		a.Why = fmt.Sprintf("It is not being fetched: %s. It is tried again within minutes.", it.codeText)
	case it.complete():
		a.Why = "It is here, whole and verified."
	case it.growErr != nil && it.store != nil:
		a.Code = "prefix-only"
		a.Why = fmt.Sprintf("Its first %d MiB have space; the cache has none for the rest (%v). It is asked again within minutes.",
			it.store.Reserved()>>20, it.growErr)
	case it.store != nil && it.store.Unknown() > 0:
		a.Why = fmt.Sprintf("Checking what is on the disk: %d pieces to go.", it.store.Unknown())
	case !it.want.Fetch:
	case a.Role == RoleFollower && it.wanOn: // the plan says why
	case w.Code == schedule.CodeFollower && a.Role == RoleAlone:
		a.Why = "Whether another box of the home has it or carries it is being found out."
	case a.Role == RoleFollower && w.Code != schedule.CodeFollower && f.carriedByNobody(it): // the plan says why
	case a.Role == RoleFollower && it.courier == "":
		a.Why = "It comes from the other boxes of the home; who carries it over the access line is being decided."
	case a.Role == RoleFollower:
		a.Why = fmt.Sprintf("It comes from %s, which carries it over the access line for the home.", it.courier)
	case it.want.WAN && !it.wanOn:
		a.Why = "It comes from the other boxes of the home, which have part of it already."
	case it.wanOn && courtesy.Heat(f.heat.Load()) == courtesy.Hot && !f.watching.Load():
		a.Code = "hot"
		a.Why = "The box is hot: nothing comes over the access line but what is being watched, until it has cooled down."
	case it.wanOn && it.srcErr != nil && it.rates.smooth.Total() == 0:
		a.Why = fmt.Sprintf("Nothing arrives: no peer has what is missing, and the origin failed (%v).", it.srcErr)
	}
}
