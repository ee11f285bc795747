package operate

import (
	"context"
	"errors"
	"time"

	"boxd/internal/fleet/registry"
)

// How long records are kept. Proofs, which publishers pay by, and the audit log are kept for good.
const (
	keepHistory  = 90 * 24 * time.Hour
	keepCommands = 90 * 24 * time.Hour // after they expired
	keepMinutes  = 14 * 24 * time.Hour // arrivals by the minute; then by the hour
)

// paced does work at each tick while it is cheap, and less often when it is not: it takes at most a twentieth of the time,
// and comes at least twice a minute.
type paced struct{ next time.Time }

const (
	pacedShare = 20
	pacedMost  = 30 * time.Second
)

func (p *paced) do(ctx context.Context, work func(context.Context) error) error {
	began := time.Now()
	if began.Before(p.next) {
		return nil
	}
	err := work(ctx)
	took := time.Since(began)
	p.next = began.Add(took + min((pacedShare-1)*took, pacedMost))
	return err
}

// collect removes catalog files that nothing has named for a week, drafts that nobody signed, and copies at the origin that nothing
// has named for a month.
func (f *Fleet) collect(ctx context.Context) error {
	n, err := f.o.Repo.Collect(7 * 24 * time.Hour)
	if n > 0 {
		f.log.Info("old catalog files removed", "files", n)
	}
	return errors.Join(err, f.settleDrafts(ctx), f.sweepOrigin(ctx))
}

// prune forgets records that are older than is of use, and takes ended campaigns out of the catalog. Any fleetd may do it, at the
// same time as another too.
func (f *Fleet) prune(ctx context.Context) error {
	if doubtful, err := f.clockDoubtful(ctx); doubtful || err != nil {
		return err
	}
	now := f.now()
	n, err := f.o.CA.Prune(ctx)
	if n > 0 {
		f.log.Info("old certificates forgotten", "certificates", n)
	}
	return errors.Join(err, f.retire(ctx), f.o.Registry.Prune(ctx, registry.Keep{
		History: now.Add(-keepHistory), Commands: now.Add(-keepCommands), Minutes: now.Add(-keepMinutes),
	}))
}

// clockDoubtful reports whether this machine's clock may be wrong: nobody is there to ask, most boxes disagree, or the last
// thing that happened was so long ago that either nobody is there any more, and nothing grows, or the clock has leapt.
func (f *Fleet) clockDoubtful(ctx context.Context) (bool, error) {
	skewed, online, err := f.o.Registry.SkewedOnline(ctx, alertSkew)
	if err != nil {
		return false, err
	}
	newest, err := f.o.Registry.NewestEvent(ctx)
	if err != nil {
		return false, err
	}
	return online == 0 || 2*skewed > online || f.now().Sub(newest) > 14*24*time.Hour, nil
}
