package operate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	leaseName = "lead"
	leaseTTL  = 20 * time.Second
	leaseWait = leaseTTL / 4     // for the database's answer
	leadMost  = 10 * time.Minute // of one piece of the leader's work: a database that hangs must not keep the lead for ever
)

// leases is what several fleetd on one database agree by.
type leases interface {
	Lease(ctx context.Context, name, holder string, ttl time.Duration) (fence int64, ok bool, err error)
}

// lease is what this fleetd knows of the lease. It may believe in it until it ends, by a clock that nobody sets, counted from
// before it was asked for.
type lease struct {
	fence int64 // 0: another has it
	until time.Time
}

// keepLease takes the lease, or keeps it, and returns its fence; 0 while another fleetd has it. When the database does not answer,
// what was known before holds until it ends.
func (f *Fleet) keepLease(ctx context.Context) (int64, error) {
	f.leasing.Lock()
	defer f.leasing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	asked := time.Now()
	fence, ok, err := f.leases.Lease(ctx, leaseName, f.o.Holder, leaseTTL)
	if err != nil {
		f.storeFailed()
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = lease{}
	if ok {
		f.held = lease{fence, asked.Add(leaseTTL)}
	}
	return f.held.fence, nil
}

// lead does what only one fleetd may do at a time, while it holds the lease.
func (f *Fleet) lead(ctx context.Context) error {
	if f.leases != nil {
		if fence, err := f.keepLease(ctx); err != nil || fence == 0 {
			return err
		}
	}
	var errs []error
	for _, work := range []func(context.Context) error{
		f.syncRevocations,
		f.reloadWishes,
		func(ctx context.Context) error { return f.syncing.do(ctx, f.syncCampaigns) },
		func(ctx context.Context) error { return f.judging.do(ctx, f.stepRollouts) },
		f.markSilent,
		func(ctx context.Context) error { return f.alerting.do(ctx, f.updateAlerts) },
	} {
		if err := f.leads(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, f.bounded(ctx, work))
	}
	return errors.Join(errs...)
}

// bounded does a piece of the leader's work. Only where another fleetd waits for the lead is there a bound.
func (f *Fleet) bounded(ctx context.Context, work func(context.Context) error) error {
	if f.leases == nil {
		return work(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, leadMost)
	defer cancel()
	return work(ctx)
}

var errFollows = fmt.Errorf("%w: another fleetd leads; try again there, or in a moment", ErrConflict)

// leads is an error when another fleetd may lead by now.
func (f *Fleet) leads() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leases != nil && !time.Now().Before(f.held.until) {
		return errFollows
	}
	return nil
}

// Fence is asked by the catalog right before it publishes: only the lease holder may. One that was stopped for a while still
// believes in a lease that another may have had meanwhile, so the database is asked whether anybody did.
func (f *Fleet) Fence() error {
	if f.leases == nil {
		return nil
	}
	f.mu.Lock()
	had := f.held.fence
	f.mu.Unlock()
	if had == 0 {
		return errFollows
	}
	fence, err := f.keepLease(context.Background())
	if err != nil {
		return fmt.Errorf("whether this fleetd leads: %w", err)
	}
	if fence != had {
		return errFollows
	}
	return f.leads()
}
