package control

import (
	"encoding/json"
	"log/slog"
	"slices"

	"boxd/internal/config"
)

const (
	bucket    = "control"
	keyPaused = "paused"
	keyLimits = "limits"
)

// limits is what bounds the access line: the configuration's own, what remote configuration narrows, what a person at the
// box narrows. The tightest wins. Box.mu guards it.
type limits struct {
	own, remote, local Limits
	paused             bool // by a person
	remotePaused       bool
}

func limitsOf(c *config.Config) Limits {
	var l Limits
	if c.Limits.WANDown.Set {
		l.WANDown = ptr(int64(c.Limits.WANDown.Value))
	}
	if c.Limits.WANUp.Set {
		l.WANUp = ptr(int64(c.Limits.WANUp.Value))
	}
	return l
}

func ptr(n int64) *int64 { return &n }

func tighter(a, b *int64) *int64 {
	if a == nil || b != nil && *b < *a {
		return b
	}
	return a
}

func (l *limits) effective() Limits {
	return Limits{
		WANDown: tighter(tighter(l.own.WANDown, l.remote.WANDown), l.local.WANDown),
		WANUp:   tighter(tighter(l.own.WANUp, l.remote.WANUp), l.local.WANUp),
	}
}

func (l *limits) load(s Store, log *slog.Logger) {
	if s == nil {
		return
	}
	if b, ok, err := s.Get(bucket, []byte(keyPaused)); err != nil {
		log.Warn("reading whether fetching is paused", "error", err)
	} else if ok {
		l.paused = string(b) == "1"
	}
	b, ok, err := s.Get(bucket, []byte(keyLimits))
	if err == nil && ok {
		err = json.Unmarshal(b, &l.local)
	}
	if err != nil {
		log.Warn("reading the limits that were set", "error", err)
	}
}

// applyLimits tells the fetcher what holds now.
func (b *Box) applyLimits() {
	b.mu.Lock()
	eff, paused := b.limits.effective(), b.limits.paused || b.limits.remotePaused
	b.mu.Unlock()
	if b.o.Fetch != nil {
		b.o.Fetch.SetLimits(eff)
		b.o.Fetch.SetPaused(paused)
	}
	b.wake()
}

func (b *Box) setPaused(paused bool) error {
	val := []byte("0")
	if paused {
		val = []byte("1")
	}
	if b.o.Store != nil {
		if err := b.o.Store.Put(bucket, []byte(keyPaused), val); err != nil {
			return err
		}
	}
	b.mu.Lock()
	b.limits.paused = paused
	b.mu.Unlock()
	b.applyLimits()
	return nil
}

func (b *Box) setLimits(l Limits) error {
	if b.o.Store != nil {
		val, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if err := b.o.Store.Put(bucket, []byte(keyLimits), val); err != nil {
			return err
		}
	}
	b.mu.Lock()
	b.limits.local = l
	b.mu.Unlock()
	b.applyLimits()
	return nil
}

// Remote is remote configuration; nil leaves the firmware's value alone.
type Remote struct {
	WANDown, WANUp, Quota, Reserve *int64
	Peers                          *int
	Paused                         *bool
}

// Narrow applies remote configuration as far as it narrows what the firmware allows, and returns the keys that would
// have widened it. It replaces what an earlier call narrowed.
func (b *Box) Narrow(r Remote) (refused []string) {
	b.mu.Lock()
	own := b.cfg
	b.limits.remote = Limits{}
	take := func(key string, have config.RateLimit, want *int64, into **int64) {
		switch {
		case want == nil:
		case *want < 0 || have.Set && *want > int64(have.Value):
			refused = append(refused, key)
		default:
			*into = want
		}
	}
	take("wan_down", own.Limits.WANDown, r.WANDown, &b.limits.remote.WANDown)
	take("wan_up", own.Limits.WANUp, r.WANUp, &b.limits.remote.WANUp)
	if r.Quota != nil && (*r.Quota < int64(config.MinQuota) || *r.Quota > int64(own.Cache.Quota)) {
		refused = append(refused, "quota")
		r.Quota = nil
	}
	if r.Reserve != nil && *r.Reserve < int64(own.Cache.Reserve) {
		refused = append(refused, "reserve")
		r.Reserve = nil
	}
	if r.Peers != nil && (*r.Peers < 1 || *r.Peers > own.Swarm.MaxPeers) {
		refused = append(refused, "peers")
		r.Peers = nil
	}
	b.limits.remotePaused = r.Paused != nil && *r.Paused
	b.mu.Unlock()
	b.applyLimits()
	slices.Sort(refused)
	return refused
}
