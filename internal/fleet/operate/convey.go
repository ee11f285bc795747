package operate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
	"boxd/internal/mqttwire"
	"boxd/internal/ops"
)

const (
	resendAfter = 30 * time.Second
	silentAfter = 150 * time.Second // two and a half telemetry periods
	resendMost  = 2000              // boxes of one wish in a row
)

// Handle commits a batch of boxes' messages and then acknowledges to the boxes. It is the bus's handler.
func (f *Fleet) Handle(ctx context.Context, batch []mqttwire.Message) error {
	if err := f.admitBoxes(ctx); err != nil {
		return err
	}
	res, err := f.o.Registry.Ingest(ctx, batch)
	if err != nil {
		f.storeFailed()
		return err
	}
	f.messages.Add(int64(len(batch)))
	f.refused.Add(int64(res.Bad))
	for _, d := range res.Dropped {
		f.log.Warn("message dropped: the database refuses it", "box", d.Topic.Box, "kind", d.Topic.Kind, "err", d.Err)
	}
	for _, box := range res.Over {
		f.tellOver(ctx, box)
	}
	for _, a := range res.Acks {
		data, err := mqttwire.Encode(mqttwire.MaxPayload, &mqttwire.EventAck{V: mqttwire.Version, Epoch: a.Epoch, Evt: a.Evt})
		if err != nil {
			f.log.Warn("event not acknowledged", "box", a.Box, "err", err)
			continue
		}
		if err := f.o.Bus.Send(mqttwire.BoxTopic(f.o.ID, a.Box, mqttwire.EventAckTail(a.Evt)), data); err != nil {
			f.log.Info("event not acknowledged; the box will send it again", "box", a.Box, "err", err)
		}
	}
	var turned []string
	for _, s := range res.Seen {
		if s.TurnedOnline {
			turned = append(turned, s.Box)
		}
		if err := f.convey(s); err != nil {
			f.log.Info("wishes not conveyed; they will be sent again", "box", s.Box, "err", err)
		}
	}
	due, err := f.o.Registry.HaveCommands(ctx, turned)
	for _, box := range due {
		err = errors.Join(err, f.sendCommands(ctx, box))
	}
	if err != nil {
		f.log.Info("commands not sent; they will be sent again", "boxes", len(turned), "err", err)
	}
	return nil
}

// convey compares what a box has applied with what is wished, and sends what it lacks.
func (f *Fleet) convey(s registry.Seen) error {
	f.mu.Lock()
	f.noteAhead(s)
	own, hasOwn := f.wants[s.Box]
	group, hasGroup := f.wants[ops.GroupPrefix+s.Group]
	recent := f.now().Sub(f.sentTo[s.Box]) < 5*time.Second && !s.TurnedOnline
	behind := s.Reported && (hasOwn && s.Desired < own.Version || hasGroup && s.GroupDesired < group.Version)
	if behind && !recent {
		f.sentTo[s.Box] = f.now()
	}
	f.mu.Unlock()
	if behind && !recent {
		if hasGroup && s.GroupDesired < group.Version {
			if err := f.o.Bus.Send(mqttwire.BoxTopic(f.o.ID, s.Box, "desired"), group.Signed); err != nil {
				return err
			}
		}
		if hasOwn && s.Desired < own.Version {
			if err := f.o.Bus.Send(mqttwire.BoxTopic(f.o.ID, s.Box, "desired"), own.Signed); err != nil {
				return err
			}
		}
	}
	return nil
}

// Start loads what was wished before and puts the catalog in step with the records. Call it before Run.
func (f *Fleet) Start(ctx context.Context) error {
	wishes, err := registry.ListDocs[wish](ctx, f.o.Registry, tableWishes)
	if err != nil {
		return err
	}
	groups, err := f.o.Registry.GroupsOfBoxes(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.groupOf = groups
	for _, w := range wishes {
		f.wants[w.Target] = w
	}
	f.mu.Unlock()
	return errors.Join(f.renewWishes(ctx, math.MaxInt), f.syncCampaigns(ctx), f.finishRemovals(ctx))
}

// Run works until ctx ends: the bell, resending, presence, rollouts, revocations and the catalog's freshness. What fails
// is tried again; it returns an error only when the store is broken.
func (f *Fleet) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.bellLoop(ctx) })
	g.Go(func() error {
		return f.every(ctx, 2*time.Second, "last seen", f.flushSeen)
	})
	g.Go(func() error { return f.every(ctx, 2*time.Second, "lift wishes", f.liftWishes) })
	g.Go(func() error { return f.every(ctx, resendAfter/2, "resend", f.resend) })
	if f.leases != nil { // what the leader does may take longer than the lease lasts
		g.Go(func() error {
			return f.every(ctx, leaseTTL/4, "lease", func(ctx context.Context) error { _, err := f.keepLease(ctx); return err })
		})
	}
	g.Go(func() error { return f.every(ctx, leaseTTL/4, "lead", f.lead) })
	g.Go(func() error { return f.every(ctx, 24*time.Hour, "collect", f.collect) })
	g.Go(func() error { return f.every(ctx, time.Hour, "prune", f.prune) })
	g.Go(func() error { return f.revocationLoop(ctx) })
	return g.Wait()
}

// every calls do at once and then at each tick. Faults of do are logged: all of them mend themselves or are in /readyz.
func (f *Fleet) every(ctx context.Context, d time.Duration, what string, do func(context.Context) error) error {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("background work failed", "what", what, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (f *Fleet) bellLoop(ctx context.Context) error {
	retain := time.NewTicker(5 * time.Minute)
	defer retain.Stop()
	for {
		changed := f.o.Repo.Changed()
		var retry <-chan time.Time
		if err := f.ringBell(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("bell not rung", "err", err)
			retry = time.After(2 * time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-f.newGroup:
		case <-retry:
		case <-retain.C: // retained messages are hints that brokers lose
			f.retainAll()
			if f.Fence() != nil {
				continue
			}
			if err := f.renewWishes(ctx, renewMost); err != nil && ctx.Err() == nil {
				f.log.Warn("wishes not signed again", "err", err)
			}
		}
	}
}

func (f *Fleet) retainAll() {
	f.mu.Lock()
	var list []wish
	for _, w := range f.wants {
		list = append(list, w)
	}
	f.mu.Unlock()
	for _, w := range list {
		if err := f.o.Bus.Retain(wishTopic(f.o.ID, w.Target), w.Signed); err != nil {
			f.log.Info("desired state not retained", "target", w.Target, "err", err)
			return
		}
	}
}

// resend sends wishes to boxes that are behind and commands that were not answered.
func (f *Fleet) resend(ctx context.Context) error {
	f.mu.Lock()
	var list []wish
	for _, w := range f.wants {
		list = append(list, w)
	}
	f.mu.Unlock()
	for _, w := range list {
		behind, err := f.nextBehind(ctx, w, resendMost)
		if err != nil {
			return err
		}
		for _, id := range behind {
			if err := f.o.Bus.Send(mqttwire.BoxTopic(f.o.ID, id, "desired"), w.Signed); err != nil {
				return err
			}
		}
	}
	return f.sendCommands(ctx, "")
}

// nextBehind lists boxes that lack a wish, at most so many, and goes on where it ended the last time: those that never take
// it must not keep it from the others.
func (f *Fleet) nextBehind(ctx context.Context, w wish, most int) ([]string, error) {
	box, group := w.Target, ""
	if g, ok := groupTarget(w.Target); ok {
		box, group = "", g
	}
	after := f.resent[w.Target]
	list, err := f.o.Registry.Behind(ctx, box, group, w.Version, after, most)
	if err == nil && len(list) == 0 && after != "" {
		list, err = f.o.Registry.Behind(ctx, box, group, w.Version, "", most)
	}
	if err != nil {
		return nil, err
	}
	delete(f.resent, w.Target)
	if len(list) == most {
		f.resent[w.Target] = list[most-1]
	}
	return list, nil
}

// revocationLoop acts on a revocation at once, whichever fleetd or command made it: the catalog says so, and the box's
// connections are closed.
func (f *Fleet) revocationLoop(ctx context.Context) error {
	known := map[string]bool{}
	for first := true; ; first = false {
		changed := f.o.CA.Changed()
		list, err := f.o.CA.Revocations(ctx)
		if err != nil && ctx.Err() == nil {
			f.log.Warn("revocations not read", "err", err)
		}
		for _, r := range list {
			if known[r.Serial] {
				continue
			}
			known[r.Serial] = true
			if first || r.BoxID == "" {
				continue
			}
			if n, err := f.o.Bus.Kick(r.BoxID); err != nil {
				f.log.Warn("connections of a revoked box not closed", "box", r.BoxID, "err", err)
			} else if n > 0 {
				f.log.Info("connections of a revoked box closed", "box", r.BoxID, "connections", n)
			}
		}
		if !first {
			if err := f.syncRevocations(ctx); err != nil && ctx.Err() == nil {
				f.log.Warn("revocations not published yet", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// reloadWishes takes over what other fleetd on the same database wished, and forgets what they forgot.
func (f *Fleet) reloadWishes(ctx context.Context) error {
	f.mu.Lock()
	had := maps.Clone(f.wants)
	f.mu.Unlock()
	wishes, err := registry.ListDocs[wish](ctx, f.o.Registry, tableWishes)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range wishes {
		if w.Version > f.wants[w.Target].Version {
			f.wants[w.Target] = w
		}
		delete(had, w.Target)
	}
	for target := range had { // a wish is stored before it is in memory: these are gone
		delete(f.wants, target)
	}
	return nil
}

// syncRevocations puts the CA's revocations into the catalog, where boxes believe them.
func (f *Fleet) syncRevocations(ctx context.Context) error {
	list, err := f.o.CA.Revocations(ctx)
	if err != nil {
		return err
	}
	serials := make([]string, 0, len(list))
	for _, r := range list {
		serials = append(serials, r.Serial)
	}
	slices.Sort(serials)
	last, err := registry.GetDoc[[]string](ctx, f.o.Registry, "state", "revocations")
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return err
	}
	if slices.Equal(last, serials) {
		return nil
	}
	if err := f.o.Repo.Update(func(tx *repo.Tx) error { return tx.SetRevocations(serials) }); err != nil {
		return fmt.Errorf("publish revocations: %w", keyless(err))
	}
	return f.o.Registry.PutDoc(ctx, "state", "revocations", serials)
}
