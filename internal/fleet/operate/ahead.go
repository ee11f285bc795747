package operate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"boxd/internal/fleet/registry"
	"boxd/internal/ops"
)

// A box takes a wish only with a higher version than the one it has. A manager whose database is older than that, since it was
// restored, would wish in vain: so versions are lifted above what boxes report, and the operator is told.

const (
	tableAhead  = "ahead"
	aheadShown  = 24 * time.Hour       // how long the alert stays
	aheadMost   = 365 * 24 * time.Hour // in seconds beyond now: no manager gave a version above that, and boxes take none
	aheadPause  = time.Hour            // between two lifts of one group: its wish goes to all of its boxes, and any box may lie
	aheadBounds = 1 << 16              // targets
)

// ahead is a version that a box reports and this manager has not given.
type ahead struct {
	Target  string    `json:"target"`
	Box     string    `json:"box"` // that reports it
	Version int64     `json:"version"`
	Ours    int64     `json:"ours"`
	At      time.Time `json:"at"`
}

// noteAhead remembers what a box reports above what was wished. The caller holds f.mu.
func (f *Fleet) noteAhead(s registry.Seen) {
	if !s.Reported {
		return
	}
	note := func(target string, version int64) {
		ours := f.wants[target].Version
		if version > ours && version > f.aheads[target].Version && len(f.aheads) < aheadBounds {
			f.aheads[target] = ahead{Target: target, Box: s.Box, Version: version, Ours: ours}
		}
	}
	note(s.Box, s.Desired)
	if s.Group != "" {
		note(ops.GroupPrefix+s.Group, s.GroupDesired)
	}
}

// liftWishes gives the wishes of which boxes know higher versions a version above those.
func (f *Fleet) liftWishes(ctx context.Context) error {
	f.mu.Lock()
	found := f.aheads
	f.aheads = map[string]ahead{}
	f.mu.Unlock()
	if len(found) == 0 {
		return nil
	}
	if err := f.reloadWishes(ctx); err != nil { // another fleetd on this database may have wished it
		return err
	}
	var faults []error
	for target, a := range found {
		faults = append(faults, f.liftWish(ctx, target, a))
	}
	return errors.Join(faults...)
}

func (f *Fleet) liftWish(ctx context.Context, target string, a ahead) error {
	now := f.now()
	f.mu.Lock()
	ours, paused := f.wants[target].Version, now.Sub(f.lifted[target]) < aheadPause
	f.mu.Unlock()
	if _, isGroup := groupTarget(target); a.Version <= ours || isGroup && paused {
		return nil
	}
	a.Ours, a.At = ours, now.UTC()
	if err := f.o.Registry.PutDoc(ctx, tableAhead, target, a); err != nil {
		return err
	}
	if a.Version > now.Add(aheadMost).Unix() {
		return nil
	}
	f.mu.Lock()
	f.lifted[target] = now
	f.mu.Unlock()
	w, err := f.editWish(ctx, target, func(w *wish) { w.Version = max(w.Version, a.Version) })
	if err != nil {
		return err
	}
	f.log.Warn("a box knows a newer wish than this manager: lifted", "target", target, "box", a.Box, "knows", a.Version, "had", ours)
	return f.o.Registry.Audit(ctx, "fleetd", "lift-wish", target,
		fmt.Sprintf("%s reports version %d, ours was %d, now %d", a.Box, a.Version, ours, w.Version))
}

// liftAlerts tells of the lifts of the last day.
func (f *Fleet) liftAlerts(ctx context.Context) ([]registry.Alert, error) {
	list, err := registry.ListDocs[ahead](ctx, f.o.Registry, tableAhead)
	if err != nil {
		return nil, err
	}
	var alerts []registry.Alert
	for _, a := range list {
		if f.now().Sub(a.At) > aheadShown {
			if err := f.o.Registry.DeleteDoc(ctx, tableAhead, a.Target); err != nil {
				return nil, err
			}
			continue
		}
		text := fmt.Sprintf("it has version %d of the wish for %s, and this manager had only given %d: was a backup restored? "+
			"The wish was sent again under a higher version; look whether it is still what you want", a.Version, a.Target, a.Ours)
		if a.Version > f.now().Add(aheadMost).Unix() {
			text = fmt.Sprintf("it reports version %d of the wish for %s, which no manager has given: replace the operations key if "+
				"it may be stolen, and look at the box's clock. An old boxd takes no other wish any more: update it", a.Version, a.Target)
		}
		alerts = append(alerts, registry.Alert{Box: a.Box, Code: AlertAhead, Severity: "critical", Text: text})
	}
	return alerts, nil
}

// AlertAhead is about boxes that know newer wishes than their manager.
const AlertAhead = "wishes-ahead"

// stale are the targets of the wishes that came from a backup, as boxes may have been given newer ones since, of those that
// another operations key has signed, which boxes no longer believe, and of those that end soon: a box that comes without its
// state, or for the first time in long, takes no wish that has ended.
func (f *Fleet) stale() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var old []string
	for target, w := range f.wants {
		if w.Version <= f.o.Floor || !signedWith(f.o.OpsKey, w.Signed) || w.Expires.Sub(f.now()) <= wishRenew {
			old = append(old, target)
		}
	}
	return old
}

// renewMost bounds how many wishes are signed again in a row while boxes wait for the bell.
const renewMost = 500

// renewWishes signs stale wishes again, above the floor. One that fails keeps no other from it.
func (f *Fleet) renewWishes(ctx context.Context, most int) error {
	if len(f.stale()) == 0 {
		return nil
	}
	if err := f.reloadWishes(ctx); err != nil { // another fleetd on this database may have done it, or have forgotten the box
		return err
	}
	old := f.stale()
	var faults []error
	for _, target := range old[:min(len(old), most)] {
		_, err := f.editWish(ctx, target, func(*wish) {})
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// signedWith reports whether a message names the key as the one that signed it.
func signedWith(key ed25519.PrivateKey, raw []byte) bool {
	if len(key) != ed25519.PrivateKeySize {
		return false
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	return ok && bytes.Contains(raw, []byte(`"`+ops.KeyID(pub)+`"`))
}
