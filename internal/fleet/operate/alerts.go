package operate

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
)

// The alerts that the manager judges by itself; boxes' own health codes are alerts under their own names.
const (
	AlertOffline  = "offline"
	AlertDisk     = "disk"
	AlertDeadline = "deadline-at-risk"
	AlertClock    = "clock"
	AlertCatalog  = "catalog-due"     // followed by the role that must be signed elsewhere
	AlertOps      = "operations-key"  // boxes do not obey the operations key of this machine
	AlertManager  = "manager-clock"   // most boxes disagree with the manager's clock: it is the one that is wrong
	AlertOver     = "too-many-proofs" // a box proves more than a box may in a day
	AlertStopped  = "rollout-stopped" // followed by the campaign that stopped itself
	AlertWaits    = "rollout-waits"   // followed by the campaign whose stage has nobody in it
)

const (
	alertOffline = 10 * time.Minute
	alertSkew    = 5 * time.Minute
	alertDisk    = 512 << 20 // bytes
)

// updateAlerts compares what is wrong now with what was, and keeps since when.
func (f *Fleet) updateAlerts(ctx context.Context) error {
	now := f.now()
	found, err := f.o.Registry.FindAlerts(ctx, registry.AlertRules{
		OfflineBefore: now.Add(-alertOffline), MaxSkew: alertSkew, MinFree: alertDisk,
	})
	if err != nil {
		return err
	}
	skewed, online, err := f.o.Registry.SkewedOnline(ctx, alertSkew)
	if err != nil {
		return err
	}
	if skewed >= 3 && 2*skewed > online {
		found = slices.DeleteFunc(found, func(a registry.Alert) bool { return a.Code == AlertClock })
		found = append(found, registry.Alert{
			Code:     AlertManager,
			Severity: "critical",
			Text: fmt.Sprintf(
				"the clocks of %d of %d boxes that are online differ from this machine's by more than %s",
				skewed,
				online,
				alertSkew,
			),
		})
	}
	roles, err := f.o.Repo.Status()
	if err != nil {
		return err
	}
	for _, r := range roles {
		if r.Due && !r.KeyHere {
			found = append(found, registry.Alert{
				Code: AlertCatalog + "-" + r.Role, Severity: "critical",
				Text: fmt.Sprintf("the role %s of the catalog expires on %s, and its key is not on this machine: sign a draft "+
					"(fleetd keys)", r.Role, r.Expires.Format(time.DateOnly)),
			})
		}
	}
	switch believed, err := f.opsKeyBelieved(); {
	case err != nil:
		return err
	case !believed:
		found = append(found, registry.Alert{
			Code: AlertOps, Severity: "critical",
			Text: "the operations key on this machine is not among the catalog's: boxes refuse every wish and command that it signs. " +
				"Restore keys/operations.pem from the backup",
		})
	}
	lifts, err := f.liftAlerts(ctx)
	if err != nil {
		return err
	}
	rollouts, err := f.rolloutAlerts(ctx)
	if err != nil {
		return err
	}
	over, err := f.overAlerts(ctx)
	if err != nil {
		return err
	}
	found = slices.Concat(found, lifts, rollouts, over)
	if f.o.Machine != nil {
		found = append(found, f.o.Machine()...)
	}
	return f.o.Registry.SetAlerts(ctx, found)
}

// rolloutAlerts tells of rollouts that need somebody: those that stopped themselves, and those that nothing will widen.
func (f *Fleet) rolloutAlerts(ctx context.Context) ([]registry.Alert, error) {
	list, err := f.Campaigns(ctx, false)
	if err != nil {
		return nil, err
	}
	var alerts []registry.Alert
	for i := range list {
		c := &list[i]
		switch why := f.waits[c.ID]; {
		case c.Staged == nil:
		case c.State == CampaignPaused && c.Staged.Stopped:
			alerts = append(alerts, registry.Alert{
				Code: AlertStopped + "-" + c.ID, Severity: "critical",
				Text: fmt.Sprintf("the rollout of campaign %s has stopped itself: %s", c.ID, c.Why),
			})
		case c.State == CampaignRunning && why != "":
			alerts = append(alerts, registry.Alert{
				Code: AlertWaits + "-" + c.ID, Severity: "warning",
				Text: fmt.Sprintf("the rollout of campaign %s waits at stage %d: %s", c.ID, c.Staged.Stage+1, why),
			})
		}
	}
	return alerts, nil
}

const (
	tableOver = "over"
	overShown = 24 * time.Hour
	overPause = time.Hour // between two times that the same box is written down
)

// tellOver writes down that a box proves more than it may.
func (f *Fleet) tellOver(ctx context.Context, box string) {
	now := f.now()
	f.mu.Lock()
	recent := now.Sub(f.over[box]) < overPause
	if !recent {
		f.over[box] = now
	}
	for id, at := range f.over {
		if now.Sub(at) > overShown {
			delete(f.over, id)
		}
	}
	f.mu.Unlock()
	if recent {
		return
	}
	f.log.Warn("a box proves more than a box may in a day: what is too much waits", "box", box)
	if err := f.o.Registry.PutDoc(ctx, tableOver, box, tooMuch{box, now.UTC()}); err != nil {
		f.log.Warn("not written down", "box", box, "err", err)
	}
}

// tooMuch is a box that proved more than it may, and when it last did.
type tooMuch struct {
	Box string    `json:"box"`
	At  time.Time `json:"at"`
}

// overAlerts tells of those of the last day.
func (f *Fleet) overAlerts(ctx context.Context) ([]registry.Alert, error) {
	list, err := registry.ListDocs[tooMuch](ctx, f.o.Registry, tableOver)
	if err != nil {
		return nil, err
	}
	var alerts []registry.Alert
	for _, o := range list {
		if f.now().Sub(o.At) > overShown {
			if err := f.o.Registry.DeleteDoc(ctx, tableOver, o.Box); err != nil {
				return nil, err
			}
			continue
		}
		alerts = append(alerts, registry.Alert{
			Box: o.Box, Code: AlertOver, Severity: "critical",
			Text: "it proves more arrivals and erasures than a box may in a day. What is too much waits on the box; if that is not " +
				"what you asked of it, it is broken or not yours any more: revoke it",
		})
	}
	return alerts, nil
}

// opsKeyBelieved reports whether the catalog names the key that signs wishes and commands here.
func (f *Fleet) opsKeyBelieved() (believed bool, err error) {
	if len(f.o.OpsKey) != ed25519.PrivateKeySize {
		return false, nil
	}
	pub := f.o.OpsKey.Public()
	err = f.o.Repo.View(func(tx *repo.Tx) error {
		keys, err := tx.OperationsKeys()
		believed = slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool { return k.Equal(pub) })
		return err
	})
	return believed, err
}
