package main

import (
	"context"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/control"
	"boxd/internal/mgmt"
	"boxd/internal/mqttwire"
	"boxd/internal/ops"
)

// verify checks what came over MQTT against the operations keys of the catalog.
func (d *daemon) verify(raw []byte) (mgmt.Message, error) {
	now, _ := d.id.Now()
	m, err := ops.Verify(d.catalog.Snapshot().OperationsKeys, raw,
		ops.Box{Fleet: d.id.Fleet(), ID: d.id.BoxID(), Groups: d.groups()}, now)
	if err != nil {
		return mgmt.Message{}, err
	}
	return mgmt.Message{Kind: m.Kind, ID: m.ID, To: m.To, Expires: m.Expires, Payload: m.Payload}, nil
}

// broker is the MQTT session for the other faces.
func (d *daemon) broker() control.Broker {
	if d.mgmt == nil {
		return control.Broker{}
	}
	s := d.mgmt.Status()
	return control.Broker{Connected: s.Connected, Address: s.Broker, Since: s.Since, Error: s.LastError, Pending: s.Outbox}
}

// fleetFace is the box as the fleet manager sees it.
type fleetFace struct {
	d       *daemon
	recheck *recheck

	mu      sync.Mutex // guards the fields below
	lastCPU float64
	lastAt  time.Time
}

func (f *fleetFace) Changed() <-chan struct{} { return f.d.box.Changed() }

func (f *fleetFace) Bell(version int64) {
	select {
	case f.d.bell <- version:
	default: // one is waiting already, and a refresh gets the newest
	}
}

func (f *fleetFace) Do(ctx context.Context, c mgmt.Command) mgmt.Result {
	res := f.d.box.Do(ctx, control.Command{ID: c.ID, Name: c.Name, Args: c.Args})
	out := mgmt.Result{Text: res.Text, Data: res.Data}
	if res.Status != control.Done {
		out.Code = res.Code
	}
	return out
}

func (f *fleetFace) Configure(_ context.Context, c mqttwire.Config) ([]string, error) {
	return f.d.box.Narrow(control.Remote{
		WANDown: c.WANDown, WANUp: c.WANUp, Quota: c.Quota, Reserve: c.Reserve, Peers: c.Peers, Paused: c.Paused,
	})
}

func traffic(in control.Sources) mqttwire.Traffic {
	return mqttwire.Traffic{LAN: in.LAN, Peer: in.Peer, Origin: in.Origin}
}

func (f *fleetFace) Report() mgmt.Report {
	s := f.d.box.Snapshot()
	r := mgmt.Report{
		Software: s.Version, ClockTrusted: s.Clock.Trusted, CatalogVersion: s.Catalog.Version,
		CatalogExpires: s.Catalog.Expires,
		Paused:         s.Fetch.Paused, HoldingsKnown: f.recheck.done(s, f.d.cache.Assets), Gone: f.gone(),
		Traffic: traffic(s.Fetch.Bytes),
		Disk:    mqttwire.Disk{Used: s.Cache.Reserved, Quota: s.Cache.Quota, Free: s.Cache.Free, Reserve: s.Cache.Reserve},
		Health:  s.Health, Household: len(s.Home), CertExpires: s.Box.CertificateExpires,
	}
	for _, n := range s.Home {
		r.Home = append(r.Home, mqttwire.Shared{Box: n.ID, Got: n.Received, Gave: n.Sent})
	}
	r.Traffic.SentL, r.Traffic.SentW = s.Fetch.Sent.LAN, s.Fetch.Sent.WAN()
	for i := range s.Assets {
		a := &s.Assets[i]
		if a.State == control.Ready {
			r.Holdings = append(r.Holdings, mgmt.Holding{
				ID: a.ID, Name: a.Name, Publisher: a.Publisher, Campaign: a.Campaign, Size: a.Length, From: traffic(a.Bytes),
				At: a.Completed, Counting: a.Counting, Trusted: s.Clock.Trusted,
			})
			continue
		}
		r.Assets = append(r.Assets, progress(a, s.Time))
	}
	return r
}

func progress(a *control.Asset, now time.Time) mqttwire.AssetProgress {
	p := mqttwire.AssetProgress{
		ID: a.ID, State: string(a.State), Code: a.Code, Have: a.Verified, Size: a.Length, Bytes: traffic(a.Bytes),
		Role: a.Role,
		Late: a.Danger || a.Late, Why: a.Why,
	}
	if a.ETA.After(now) {
		p.ETA = int64(a.ETA.Sub(now) / time.Second)
	}
	return p
}

// gone says why assets are no longer held, as far as the cache remembers.
func (f *fleetFace) gone() map[asset.ID]string {
	m := map[asset.ID]string{}
	for _, e := range f.d.cache.Events() {
		switch e.What {
		case cache.EventEvicted, cache.EventTrimmed:
			m[e.ID] = "evicted"
		case cache.EventRemoved:
			m[e.ID] = e.Reason
		}
	}
	return m
}

func (f *fleetFace) Tele() mqttwire.Tele {
	s := f.d.box.Snapshot()
	f.mu.Lock()
	defer f.mu.Unlock()
	t := mqttwire.Tele{
		DownBPS: s.Fetch.Rates.WAN(), LANBPS: s.Fetch.Rates.LAN, UpBPS: s.Fetch.SentRate.WAN(), RSS: s.Process.RSS,
		Goroutines: s.Process.Goroutines, Readers: s.Fetch.Players,
	}
	now := time.Now()
	if secs := now.Sub(f.lastAt).Seconds(); !f.lastAt.IsZero() && secs > 0 {
		t.CPU = max(0, s.Process.CPUSeconds-f.lastCPU) / secs
	}
	f.lastAt, f.lastCPU = now, s.Process.CPUSeconds
	return t
}

var _ mgmt.Box = (*fleetFace)(nil)
