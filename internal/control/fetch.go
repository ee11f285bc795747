package control

import (
	"context"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch"
	"boxd/internal/schedule"
)

// FromFetch lets a Box show and steer a *fetch.Fetcher. base is what the configuration says now beside the
// two rates.
func FromFetch(f *fetch.Fetcher, base func() fetch.Limits, now func() (time.Time, bool)) Fetcher {
	return &fetchAdapter{Fetcher: f, base: base, now: now}
}

type fetchAdapter struct {
	*fetch.Fetcher
	base func() fetch.Limits
	now  func() (time.Time, bool)
}

func (a *fetchAdapter) SetLimits(l Limits) {
	lim := a.base()
	lim.WANDown, lim.WANUp = toLimit(l.WANDown), toLimit(l.WANUp)
	a.Fetcher.SetLimits(lim)
}

func toLimit(n *int64) schedule.Limit {
	if n == nil {
		return schedule.Limit{}
	}
	return schedule.LimitTo(*n)
}

func (a *fetchAdapter) Day(length time.Duration) []Slot {
	now, _ := a.now()
	var list []Slot
	for _, s := range a.Schedule(now, length) {
		list = append(list, Slot{
			From: s.From, To: s.To, Active: append([]string{}, s.Active...), Done: append([]string{}, s.Done...),
			Reason: s.Reason,
		})
	}
	return list
}

func (a *fetchAdapter) State() FetchState {
	st := a.Status()
	out := FetchState{
		Fetch: Fetch{
			Rates: Sources(st.Rates), SentRate: Sources(st.SentRates), Bytes: Sources(st.Bytes), Sent: Sources(st.Sent),
			Wasted: st.Wasted, Courier: st.CourierOf, MonthWAN: st.MonthWAN, LineRate: int64(st.LineRate),
		},
		Assets: make(map[asset.ID]AssetFetch, len(st.Assets)),
	}
	for i := range st.Assets {
		s := &st.Assets[i]
		af := AssetFetch{
			State: AssetState(s.State), Why: s.Why, Role: s.Role, Courier: s.Courier, Campaign: s.Campaign, Peers: s.Peers,
			Rates: Sources(s.Rates), Bytes: Sources(s.Bytes), Priority: s.Priority, Deadline: s.Deadline,
			KeepUntil: s.KeepUntil, ETA: s.ETA, Danger: s.Danger, Late: s.Late, Started: s.Started, Done: s.Completed,
			Accepted: s.Accepted,
			Outlook:  s.Outlook,
		}
		if s.State == fetch.Rejected || s.State == fetch.Failed {
			af.Code = s.Code
		} else {
			af.Reason = s.Code
		}
		out.Assets[s.ID] = af
	}
	for _, p := range st.Peers {
		out.Peers = append(out.Peers, Peer{
			ID: p.Box, Address: p.Addr.String(), Link: link(p.LAN), Asset: p.Asset.String(), Received: p.In, Sent: p.Out,
		})
	}
	for _, g := range st.Boxes {
		out.Given = append(out.Given, Given{ID: g.Box, Link: link(g.LAN), Received: g.In, Sent: g.Out})
	}
	return out
}

// The links of a Peer and a Given.
const (
	linkLAN = "lan"
	linkWAN = "wan"
)

func link(lan bool) string {
	if lan {
		return linkLAN
	}
	return linkWAN
}

// Alive reports whether the fetch loop answers.
func (a *fetchAdapter) Alive(ctx context.Context) bool { return a.Fetcher.Alive(ctx) }
