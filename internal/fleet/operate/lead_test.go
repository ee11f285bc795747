package operate

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
)

// rivals are a desk that must have the lease to lead, and another fleetd on the same database, which goes by its own clock.
type rivals struct {
	*desk
	clock time.Time
}

func newRivals(t *testing.T) *rivals {
	t.Helper()
	r := &rivals{desk: newDesk(t), clock: now}
	g, err := registry.Open(ctx, registry.Options{
		Path: filepath.Join(r.dir, "fleet.db"), Now: func() time.Time { return r.clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	r.leases = g
	return r
}

// other tries to lead.
func (r *rivals) other() bool {
	r.t.Helper()
	_, ok, err := r.leases.Lease(ctx, leaseName, "other", leaseTTL)
	if err != nil {
		r.t.Fatal(err)
	}
	return ok
}

func (r *rivals) leadNow() {
	r.t.Helper()
	if err := r.lead(ctx); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rivals) mayPublish(want bool) {
	r.t.Helper()
	switch err := r.Fence(); {
	case want && err != nil:
		r.t.Errorf("the leader may not publish: %v", err)
	case !want && !errors.Is(err, ErrConflict):
		r.t.Errorf("who may not lead publishes: %v", err)
	}
}

func TestOnlyTheLeaderPublishes(t *testing.T) {
	r := newRivals(t)
	r.mayPublish(false) // and asking does not make it the leader
	if !r.other() {
		t.Fatal("nobody led, and another could not")
	}
	r.leadNow()
	r.mayPublish(false)

	r.clock = r.clock.Add(leaseTTL + time.Second)
	r.leadNow()
	r.mayPublish(true)
	if r.other() {
		t.Error("two lead")
	}
}

// A fleetd that was stopped does not know what happened meanwhile, nor that it was stopped.
func TestALeaderThatWasStoppedAsksWhetherItLeads(t *testing.T) {
	r := newRivals(t)
	r.leadNow()
	r.clock = r.clock.Add(time.Hour)
	r.mayPublish(true) // nobody else has led
	if r.other() {
		t.Error("what was asked for anew is free")
	}

	r.clock = r.clock.Add(leaseTTL + time.Second)
	if !r.other() {
		t.Fatal("the lease does not end")
	}
	if err := r.leads(); err != nil {
		t.Fatalf("it knows, so this test shows nothing: %v", err)
	}
	r.mayPublish(false)
	r.clock = r.clock.Add(leaseTTL + time.Second)
	r.leadNow()
	r.mayPublish(true)

	r.clock = r.clock.Add(leaseTTL + time.Second)
	if !r.other() {
		t.Fatal("the lease does not end")
	}
	r.clock = r.clock.Add(leaseTTL + time.Second)
	r.mayPublish(false) // the other led, and is gone again
	r.mayPublish(true)  // what begins now knows of what the other did
}

// Without the database a leader may believe that it leads until its lease ends, and publishes nothing.
func TestALeaderWithoutItsDatabase(t *testing.T) {
	r := newRivals(t)
	r.leadNow()
	had := r.leases
	r.leases = refuses{}
	if err := r.Fence(); !errors.Is(err, errAway) {
		t.Errorf("published without asking: %v", err)
	}
	if err := r.lead(ctx); !errors.Is(err, errAway) {
		t.Error(err)
	}
	if err := r.leads(); err != nil {
		t.Errorf("one question without an answer ends it: %v", err)
	}
	r.held.until = time.Now()
	if err := r.leads(); !errors.Is(err, ErrConflict) {
		t.Errorf("it leads after its lease has ended: %v", err)
	}
	r.leases = had
	r.mayPublish(true)
}

var errAway = errors.New("away")

type refuses struct{}

func (refuses) Lease(context.Context, string, string, time.Duration) (int64, bool, error) {
	return 0, false, errAway
}

// hangs is a database that took the question and never answers.
type hangs struct{}

func (hangs) Lease(ctx context.Context, _, _ string, _ time.Duration) (int64, bool, error) {
	<-ctx.Done()
	return 0, false, ctx.Err()
}

func TestADatabaseThatHangsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &Fleet{leases: hangs{}, now: time.Now}
		for what, ask := range map[string]func() error{
			"lead":  func() error { return f.lead(t.Context()) },
			"fence": f.Fence,
			"work": func() error {
				return f.bounded(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			},
		} {
			f.held = lease{fence: 1, until: time.Now().Add(leaseTTL)}
			began := time.Now()
			if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
			most := leaseWait
			if what == "work" {
				most = leadMost
			}
			if took := time.Since(began); took != most {
				t.Errorf("%s took %s", what, took)
			}
		}
	})
}

// The one fleetd of an SQLite database asks nobody: whatever its clock says, however long it slept and however busy the disk is.
func TestASingleManagerNeedsNoLease(t *testing.T) {
	d := newDesk(t)
	if _, ok, err := d.o.Registry.Lease(ctx, leaseName, "one that was killed", time.Hour); err != nil || !ok {
		t.Fatal(ok, err)
	}
	d.begin("one", d.film("film", asset.ID{}))
	d.fault = errors.New("the disk is full")
	if _, err := d.SetCampaignState(ctx, "test", "one", CampaignPaused, ""); err == nil {
		t.Fatal("it was published")
	}
	d.fault = nil
	if err := d.lead(ctx); err != nil {
		t.Fatal(err)
	}
	if !d.published("one").Paused {
		t.Error("it does not lead")
	}
	if err := d.bounded(ctx, func(ctx context.Context) error {
		if end, bound := ctx.Deadline(); bound {
			t.Errorf("its work must end at %s", end)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	_ = d.o.Registry.Close()
	if err := d.Fence(); err != nil {
		t.Error(err)
	}
}
