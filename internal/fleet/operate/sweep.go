package operate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/registry"
)

// tableUnneeded has the copies at the origin that nothing names any more, and since when: those of a publisher that was removed,
// or what a backup did not know that was restored.
const tableUnneeded = "unneeded"

// keepUnneeded is how long such copies stay: time to publish them again after a backup was restored.
const keepUnneeded = 30 * 24 * time.Hour

type unneeded struct {
	ID    asset.ID  `json:"id"`
	Since time.Time `json:"since"`
}

// sweepOrigin deletes the copies at the origin that neither the catalog nor a draft has named for a month.
func (f *Fleet) sweepOrigin(ctx context.Context) error {
	if doubtful, err := f.clockDoubtful(ctx); doubtful || err != nil {
		return err
	}
	entries, err := os.ReadDir(f.o.OriginDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look through the origin: %w", err)
	}
	known, err := registry.ListDocs[unneeded](ctx, f.o.Registry, tableUnneeded)
	if err != nil {
		return err
	}
	since := map[asset.ID]time.Time{}
	for _, u := range known {
		since[u.ID] = u.Since
	}
	var faults []error
	for _, e := range entries {
		if id, err := asset.ParseID(e.Name()); err == nil && e.IsDir() {
			faults = append(faults, f.sweepCopy(ctx, id, since[id]))
		}
	}
	return errors.Join(faults...)
}

func (f *Fleet) sweepCopy(ctx context.Context, id asset.ID, since time.Time) error {
	f.editing.Lock()
	defer f.editing.Unlock()
	needed, err := f.copyNeeded(ctx, id)
	switch {
	case err != nil:
		return err
	case needed && since.IsZero():
		return nil
	case needed:
		return f.o.Registry.DeleteDoc(ctx, tableUnneeded, id.String())
	case since.IsZero():
		return f.o.Registry.PutDoc(ctx, tableUnneeded, id.String(), unneeded{id, f.now().UTC()})
	case f.now().Sub(since) < keepUnneeded:
		return nil
	}
	if err := publish.Remove(f.o.OriginDir, id); err != nil {
		return err
	}
	why := "named by nothing since " + since.Format(time.DateOnly)
	if err := f.o.Registry.Audit(ctx, "fleetd", "sweep-origin", id.String(), why); err != nil {
		return err
	}
	return f.o.Registry.DeleteDoc(ctx, tableUnneeded, id.String())
}
