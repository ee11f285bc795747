package operate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
)

// tableDrafts has the assets whose bytes are at the origin while their signature is made elsewhere, by path.
const tableDrafts = "drafts"

// drafted is such an asset. It goes when the catalog has it, or when its time is over.
type drafted struct {
	Path      string    `json:"path"`
	ID        asset.ID  `json:"id"`
	Publisher string    `json:"publisher"`
	Length    int64     `json:"length"`
	Until     time.Time `json:"until"`
}

// room is how many bytes a publisher may still bring: its quota without what it has in the catalog and in drafts.
func (f *Fleet) room(ctx context.Context, publisher string) (int64, error) {
	drafts, err := registry.ListDocs[drafted](ctx, f.o.Registry, tableDrafts)
	if err != nil {
		return 0, err
	}
	room := int64(math.MaxInt64)
	err = f.o.Repo.View(func(tx *repo.Tx) error {
		list, err := tx.Publishers()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(p repo.Publisher) bool { return p.Name == publisher })
		if i < 0 {
			return repo.ErrNotFound
		}
		if list[i].Quota == 0 {
			return nil
		}
		room = list[i].Quota
		have, err := tx.Assets(publisher)
		if err != nil {
			return err
		}
		there := map[string]bool{}
		for _, e := range have {
			there[e.Path] = true
			room -= e.Length
		}
		for _, d := range drafts {
			if d.Publisher == publisher && !there[d.Path] {
				room -= d.Length
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("room of publisher %.60q: %w", publisher, err)
	}
	return room, nil
}

// takeRoom counts bytes of an import as its publisher's until done is called, if there is room for them.
func (f *Fleet) takeRoom(ctx context.Context, publisher string, bytes int64) (done func(), err error) {
	f.quotas.Lock()
	defer f.quotas.Unlock()
	room, err := f.room(ctx, publisher)
	if err != nil {
		return nil, err
	}
	if room -= f.copying[publisher]; bytes > room {
		return nil, fmt.Errorf("%w: %d bytes, and %d are left to publisher %s", repo.ErrQuota, bytes, max(0, room), publisher)
	}
	f.copying[publisher] += bytes
	return func() {
		f.quotas.Lock()
		defer f.quotas.Unlock()
		if f.copying[publisher] -= bytes; f.copying[publisher] == 0 {
			delete(f.copying, publisher)
		}
	}, nil
}

// Receive sets bytes of a publisher's quota aside for an upload; a length below zero is one that is not known. It returns how
// many may come at most, and what gives them back when the upload was published or refused.
func (f *Fleet) Receive(ctx context.Context, publisher string, length int64) (most int64, done func(), err error) {
	if publisher == "" {
		publisher = DefaultPublisher
	}
	room, err := f.room(ctx, publisher)
	if err != nil {
		return 0, nil, err
	}
	if room == math.MaxInt64 {
		return room, func() {}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	room -= f.receiving[publisher]
	if length < 0 {
		length = room
	}
	if room <= 0 || length > room {
		return 0, nil, fmt.Errorf("%w: %d bytes are left to publisher %s", repo.ErrQuota, max(0, room), publisher)
	}
	f.receiving[publisher] += length
	return length, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.receiving[publisher] -= length
	}, nil
}

// copyNeeded reports whether the catalog or a draft names the bytes that lie at the origin under an id.
func (f *Fleet) copyNeeded(ctx context.Context, id asset.ID) (bool, error) {
	assets, err := f.Assets(ctx, "")
	if err != nil {
		return false, err
	}
	drafts, err := registry.ListDocs[drafted](ctx, f.o.Registry, tableDrafts)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(assets, func(a Asset) bool { return a.ID == id }) ||
		slices.ContainsFunc(drafts, func(d drafted) bool { return d.ID == id }), nil
}

// dropCopy deletes the copy at the origin that was made for an asset which then was refused.
func (f *Fleet) dropCopy(ctx context.Context, res *publish.Result) error {
	if !res.New {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	f.editing.Lock()
	defer f.editing.Unlock()
	if needed, err := f.copyNeeded(ctx, res.Info.ID); err != nil || needed {
		return err
	}
	return publish.Remove(f.o.OriginDir, res.Info.ID)
}

// settleDrafts forgets drafts that were signed, and those that nobody has signed in time, with their bytes.
func (f *Fleet) settleDrafts(ctx context.Context) error {
	drafts, err := registry.ListDocs[drafted](ctx, f.o.Registry, tableDrafts)
	if err != nil || len(drafts) == 0 {
		return err
	}
	f.editing.Lock()
	defer f.editing.Unlock()
	assets, err := f.Assets(ctx, "")
	if err != nil {
		return err
	}
	var faults []error
	for _, d := range drafts {
		signed := slices.ContainsFunc(assets, func(a Asset) bool { return a.Path == d.Path })
		if !signed && f.now().Before(d.Until) {
			continue
		}
		faults = append(faults, f.forgetDraft(ctx, d, signed))
	}
	return errors.Join(faults...)
}

// forgetDraft is called with f.editing held.
func (f *Fleet) forgetDraft(ctx context.Context, d drafted, signed bool) error {
	if err := f.o.Registry.DeleteDoc(ctx, tableDrafts, d.Path); err != nil || signed {
		return err
	}
	if needed, err := f.copyNeeded(ctx, d.ID); err != nil || needed {
		return err
	}
	if err := publish.Remove(f.o.OriginDir, d.ID); err != nil {
		return errors.Join(err, f.o.Registry.PutDoc(ctx, tableDrafts, d.Path, d)) // tried again
	}
	return f.o.Registry.Audit(ctx, "catalog", "draft-expired", d.Path, "nobody signed it in time")
}
