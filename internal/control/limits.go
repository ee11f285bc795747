package control

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"

	"boxd/internal/config"
)

const (
	bucket    = "control"
	keyPaused = "paused"
	keyLimits = "limits"
	keyRemote = "remote"
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

// Remote is remote configuration; nil leaves the firmware's value alone. Quota, Reserve and Peers hold from the next start
// on, the rest at once.
type Remote struct {
	WANDown *int64 `json:"-"`
	WANUp   *int64 `json:"-"`
	Paused  *bool  `json:"-"`
	Quota   *int64 `json:"quota,omitempty"`
	Reserve *int64 `json:"reserve,omitempty"`
	Peers   *int   `json:"peers,omitempty"`
}

// RemoteAtStart is what the last Narrow left for the next start.
func RemoteAtStart(s Store, log *slog.Logger) (r Remote) {
	b, ok, err := s.Get(bucket, []byte(keyRemote))
	if err == nil && ok {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		log.Warn("reading remote configuration", "error", err)
		return Remote{}
	}
	return r
}

// NarrowQuota is the smaller of the firmware's quota and the remote one.
func (r Remote) NarrowQuota(own config.Size) int64 {
	if r.Quota != nil {
		return min(int64(own), max(*r.Quota, int64(config.MinQuota)))
	}
	return int64(own)
}

// NarrowReserve is the larger of the firmware's reserve and the remote one.
func (r Remote) NarrowReserve(own config.Size) int64 {
	if r.Reserve != nil {
		return max(int64(own), *r.Reserve)
	}
	return int64(own)
}

// NarrowPeers is the smaller of the firmware's bound and the remote one.
func (r Remote) NarrowPeers(own int) int {
	if r.Peers != nil {
		return min(own, max(*r.Peers, 1))
	}
	return own
}

// refusals takes out of r what would widen what the firmware allows, and what would leave a cache on a file system of size
// bytes (0: unknown) next to no room, and names it: a slip of the pen would erase a whole group's caches.
func (r *Remote) refusals(own *config.Config, size int64) (refused []string) {
	no := func(key string) { refused = append(refused, key) }
	rate := func(key string, have config.RateLimit, want **int64) {
		if *want != nil && (**want < 0 || have.Set && **want > int64(have.Value)) {
			no(key)
			*want = nil
		}
	}
	rate("wan_down", own.Limits.WANDown, &r.WANDown)
	rate("wan_up", own.Limits.WANUp, &r.WANUp)
	if r.Quota != nil && (*r.Quota < int64(config.MinQuota) || *r.Quota > int64(own.Cache.Quota)) {
		no("quota")
		r.Quota = nil
	}
	if r.Reserve != nil && (*r.Reserve < int64(own.Cache.Reserve) || size > 0 && *r.Reserve > max(size/2, int64(own.Cache.Reserve))) {
		no("reserve")
		r.Reserve = nil
	}
	if r.Peers != nil && (*r.Peers < 1 || *r.Peers > own.Swarm.MaxPeers) {
		no("peers")
		r.Peers = nil
	}
	slices.Sort(refused)
	return refused
}

// Narrow applies remote configuration as far as it narrows what the firmware allows, and returns the keys that would
// have widened it. It replaces what an earlier call narrowed.
func (b *Box) Narrow(r Remote) (refused []string, err error) {
	size := b.o.Cache.Usage().Total
	b.mu.Lock()
	refused = r.refusals(b.cfg, size)
	b.limits.remote = Limits{WANDown: r.WANDown, WANUp: r.WANUp}
	b.limits.remotePaused = r.Paused != nil && *r.Paused
	b.mu.Unlock()
	b.applyLimits()
	if b.o.Store == nil {
		return refused, nil
	}
	val, err := json.Marshal(r)
	if err != nil {
		return refused, fmt.Errorf("keep remote configuration: %w", err)
	}
	if old, ok, err := b.o.Store.Get(bucket, []byte(keyRemote)); err == nil && ok && string(old) == string(val) {
		return refused, nil // nothing new: no write
	}
	if err := b.o.Store.Put(bucket, []byte(keyRemote), val); err != nil {
		return refused, fmt.Errorf("keep remote configuration: %w", err)
	}
	return refused, nil
}
