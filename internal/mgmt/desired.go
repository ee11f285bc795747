package mgmt

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/health"
	"boxd/internal/mqttwire"
)

// maxTargets bounds how many wishes (the box's own and its groups') are kept.
const maxTargets = 17

// desired holds the newest verified wish for the box and for each of its groups.
type desired struct {
	m *Manager

	mu       sync.Mutex                   // guards the fields below
	wishes   map[string]*mqttwire.Desired // by "box" or "group:name"
	applied  map[string]int64             // version by target that Configure has seen
	refused  []string
	waiting  map[string][]byte // by target: a wish whose signature could not be checked yet
	interval time.Duration     // from report_seconds; 0 for the default
	again    time.Time         // when to apply what could not be applied; zero when all is
	pause    time.Duration     // until the time after
}

// How often a wish that is stored but could not be applied, such as on a full disk, is applied again.
const (
	firstAgain = 2 * time.Second
	lastAgain  = 5 * time.Minute
)

// A version counts up from 1, or from the second in which a manager's backup was restored. A higher one than these is no
// manager's, and would keep out every wish that one gives: fleetd lifts its own as far, and no further.
const (
	versionAhead = 365 * 24 * time.Hour // beyond now, in seconds since 1970
	versionMost  = 1 << 40              // while the time is not known
)

// absurd reports that no manager can have given a wish this version.
func (d *desired) absurd(version int64) bool {
	now, trusted := d.m.o.Now()
	return version > versionMost || trusted && version > now.Add(versionAhead).Unix()
}

func openDesired(m *Manager) (*desired, error) {
	d := &desired{m: m, wishes: map[string]*mqttwire.Desired{}, applied: map[string]int64{}, waiting: map[string][]byte{}}
	err := m.o.DB.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketDesired))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if w, err := mqttwire.DecodeDesired(v); err == nil {
				d.wishes[string(k)] = w
			}
			return nil
		})
	})
	return d, dbErr("load desired state", err)
}

// restore applies what was stored: it was verified when it came, and state.db is the box's own.
func (d *desired) restore(ctx context.Context) {
	if len(d.wishes) > 0 {
		d.apply(ctx)
	}
}

// arrived takes a retained or live wish from the broker. topic is "box" or "group:name", as the topic had it; whom the
// wish is for is what was signed: the fleet manager repeats a group's wish to one box on the box's own topic.
func (d *desired) arrived(ctx context.Context, topic string, raw []byte) error {
	msg, err := d.m.o.Verify(raw)
	if err != nil {
		d.wait(topic, raw)
		d.m.o.Log.Warn("desired state refused", "topic", topic, "err", err)
		d.m.o.Health.Raise(health.Warning{
			Code: CodeUnsigned, Severity: health.Warn,
			Text:   "a wish for this box could not be verified: " + err.Error(),
			Action: "if it stays, compare fleetd's operations key with the catalog's",
		})
		return nil
	}
	if msg.Kind != "desired" || topic != "box" && topic != msg.To {
		d.m.o.Log.Warn("desired state on a wrong topic", "topic", topic, "to", msg.To, "kind", msg.Kind)
		return nil
	}
	target := targetOf(msg.To)
	w, err := mqttwire.DecodeDesired(msg.Payload)
	if err != nil {
		d.m.o.Log.Warn("desired state not understood", "target", target, "err", err)
		d.m.o.Health.Raise(health.Warning{
			Code: CodeProtocol, Severity: health.Warn, Text: "a wish for this box could not be read: " + err.Error(),
			Action: "update boxd, or publish the wish in a form that this version knows",
		})
		return nil
	}
	if d.absurd(w.Version) {
		d.m.o.Log.Warn("desired state refused: no manager can have given its version", "target", target, "version", w.Version)
		d.m.o.Health.Raise(health.Warning{
			Code: CodeVersion, Severity: health.Critical,
			Text:   fmt.Sprintf("a wish was refused: no manager can have given it version %d", w.Version),
			Action: "replace the operations key if it may be stolen, and look at the clocks of fleetd and of this box",
		})
		return nil
	}
	d.m.o.Health.Clear(CodeUnsigned)
	d.m.o.Health.Clear(CodeProtocol)
	d.m.o.Health.Clear(CodeVersion)
	fresh, err := d.store(target, w, msg.Payload)
	if err != nil || !fresh {
		return err
	}
	d.apply(ctx)
	return nil
}

// targetOf is "group:name" for a group's message and "box" for the box's own.
func targetOf(to string) string {
	if strings.HasPrefix(to, "group:") {
		return to
	}
	return "box"
}

func (d *desired) wait(target string, raw []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) < maxTargets {
		d.waiting[target] = raw
	}
}

// retry looks again at wishes that could not be verified, after the catalog (and with it the keys) changed, and applies what
// could not be applied.
func (d *desired) retry(ctx context.Context) error {
	d.mu.Lock()
	waiting := d.waiting
	d.waiting = map[string][]byte{}
	again := !d.again.IsZero() && time.Now().After(d.again)
	d.mu.Unlock()
	if again {
		d.apply(ctx)
	}
	for target, raw := range waiting {
		if _, err := d.m.o.Verify(raw); err != nil {
			d.wait(target, raw) // its refusal has been told; it is looked at every second, so it is not told again
			continue
		}
		if err := d.arrived(ctx, target, raw); err != nil {
			return err
		}
	}
	return nil
}

// store commits a newer wish; an older or equal version (a replay) is left alone. One that an earlier boxd took under an absurd
// version gives way.
func (d *desired) store(target string, w *mqttwire.Desired, payload []byte) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, had := d.wishes[target]
	if had && w.Version <= old.Version && !d.absurd(old.Version) {
		return false, nil
	}
	var left []string
	if !had && len(d.wishes) >= maxTargets {
		if left = d.leftGroups(); len(left) == 0 {
			return false, nil
		}
	}
	err := d.m.o.DB.Update(func(tx *bbolt.Tx) error {
		b, err := bucket(tx, bucketDesired)
		if err != nil {
			return err
		}
		for _, t := range left {
			if err := b.Delete([]byte(t)); err != nil {
				return err
			}
		}
		return b.Put([]byte(target), payload)
	})
	if err != nil {
		return false, dbErr("store desired state", err)
	}
	for _, t := range left {
		delete(d.wishes, t)
	}
	d.wishes[target] = w
	return true, nil
}

// leftGroups names the targets of groups that the box has left. They are kept until their room is needed: a box that
// comes back must still know an old wish from a new one.
func (d *desired) leftGroups() []string {
	groups := d.m.o.Groups()
	var left []string
	for target := range d.wishes {
		if group, ok := strings.CutPrefix(target, "group:"); ok && !contains(groups, group) {
			left = append(left, target)
		}
	}
	return left
}

// apply hands the merged config to the box and rings the bell. A version counts as applied only after that.
func (d *desired) apply(ctx context.Context) {
	d.mu.Lock()
	groups := d.m.o.Groups()
	merged, versions, bell := mqttwire.Config{}, map[string]int64{}, int64(0)
	for target, w := range d.wishes {
		if group, ok := strings.CutPrefix(target, "group:"); ok && !contains(groups, group) {
			continue // it left the group: the wish no longer holds
		}
		versions[target] = w.Version
		bell = max(bell, w.CatalogVersion)
		if w.Config != nil {
			merged = merge(merged, *w.Config)
		}
	}
	d.mu.Unlock()
	refused, err := d.m.o.Box.Configure(ctx, merged)
	if err != nil {
		d.mu.Lock()
		d.pause = min(max(2*d.pause, firstAgain), lastAgain)
		d.again = time.Now().Add(d.pause)
		d.m.o.Log.Warn("remote config not applied", "err", err, "again", d.pause.String())
		d.mu.Unlock()
		return
	}
	if bell > 0 {
		d.m.o.Box.Bell(bell)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied, d.refused, d.interval, d.again, d.pause = versions, refused, 0, time.Time{}, 0
	if merged.ReportSeconds != nil {
		d.interval = time.Duration(*merged.ReportSeconds) * time.Second
	}
}

func (d *desired) reportIdle() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.interval > 0 {
		return d.interval
	}
	return d.m.o.ReportIdle
}

// fill writes the applied versions into a report.
func (d *desired) fill(r *mqttwire.Reported) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r.Refused = d.refused[:min(len(d.refused), 16)]
	for target, v := range maps.All(d.applied) {
		if group, ok := strings.CutPrefix(target, "group:"); ok {
			if r.GroupVersions == nil {
				r.GroupVersions = map[string]int64{}
			}
			r.GroupVersions[group] = v
		} else {
			r.DesiredVersion = v
		}
	}
}

// merge narrows: of two limits the tighter holds, whoever set it.
func merge(a, b mqttwire.Config) mqttwire.Config {
	return mqttwire.Config{
		WANDown: tighter(a.WANDown, b.WANDown, false), WANUp: tighter(a.WANUp, b.WANUp, false),
		Quota: tighter(a.Quota, b.Quota, false), Reserve: tighter(a.Reserve, b.Reserve, true),
		Peers: tighter(a.Peers, b.Peers, false), ReportSeconds: tighter(a.ReportSeconds, b.ReportSeconds, true),
		Paused: either(a.Paused, b.Paused),
	}
}

func tighter[T int | int64](a, b *T, higher bool) *T {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case (*a > *b) == higher:
		return a
	}
	return b
}

func either(a, b *bool) *bool {
	if a == nil || b != nil && *b {
		return b
	}
	return a
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
