package operate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/publish"
	"boxd/internal/fleet/repo"
)

// PublisherKey is a publisher, and whether this machine can sign in its name.
type PublisherKey struct {
	repo.Publisher
	KeyHere bool `json:"key_here"`
}

// PublisherKeys lists who may publish and whose private keys lie on this machine, where a thief of it would find them.
func (f *Fleet) PublisherKeys() ([]PublisherKey, error) {
	list, err := f.Publishers()
	if err != nil {
		return nil, err
	}
	out := make([]PublisherKey, 0, len(list))
	for _, p := range list {
		_, err := os.Stat(filepath.Join(f.o.Keys, repo.PublisherRole(p.Name)+".pem"))
		out = append(out, PublisherKey{p, err == nil})
	}
	return out, nil
}

// DraftedAsset is an asset whose bytes are at the origin and whose publisher has not signed it yet.
type DraftedAsset struct {
	ID    asset.ID    `json:"id"`
	Name  string      `json:"name"`
	Draft *repo.Draft `json:"draft"`
}

// DraftAsset does what Publish does but for the signature: the draft goes to where the publisher's key is and comes back
// to ImportDraft.
func (f *Fleet) DraftAsset(ctx context.Context, who string, r PublishRequest) (DraftedAsset, error) {
	if r.Publisher == "" {
		r.Publisher = DefaultPublisher
	}
	if r.Type != "" {
		r.Types = map[string]string{filepath.Base(r.Source): r.Type}
	}
	if !r.Replaces.IsZero() { // its campaigns are signed by another key, at another time
		return DraftedAsset{}, fmt.Errorf("%w: a draft cannot replace an asset: publish it, and name it in the campaigns then", ErrBad)
	}
	res, done, err := f.copyToOrigin(ctx, r)
	if err != nil {
		return DraftedAsset{}, err
	}
	defer done()
	d, err := f.draftAsset(ctx, who, r, res)
	if err != nil {
		return d, errors.Join(err, f.dropCopy(ctx, res))
	}
	return d, nil
}

func (f *Fleet) draftAsset(ctx context.Context, who string, r PublishRequest, res *publish.Result) (DraftedAsset, error) {
	f.editing.Lock()
	defer f.editing.Unlock()
	if err := stillThere(res); err != nil {
		return DraftedAsset{}, err
	}
	id, name := res.Info.ID, res.Info.Name
	if r.Name != "" {
		name = r.Name
	}
	note := fmt.Sprintf("publish %s %s of %s (%d bytes, %s)", name, r.Version, r.Publisher, res.Info.Length, id)
	draft, err := f.o.Repo.Draft([]string{note}, func(tx *repo.Tx) error {
		_, err := tx.PutAsset(r.Publisher, res.Torrent)
		return err
	})
	if err != nil {
		return DraftedAsset{}, fmt.Errorf("draft asset %s: %w", id, err)
	}
	path := catalog.AssetPath(r.Publisher, id)
	err = f.o.Registry.PutDoc(ctx, tableDrafts, path, drafted{path, id, r.Publisher, res.Info.Length, f.now().Add(repo.DraftLife)})
	if err != nil {
		return DraftedAsset{}, err
	}
	return DraftedAsset{ID: id, Name: name, Draft: draft}, f.o.Registry.Audit(ctx, who, "draft", id.String(), note)
}

// ImportDraft publishes a draft that was signed elsewhere.
func (f *Fleet) ImportDraft(ctx context.Context, who string, data []byte) error {
	d, err := repo.ParseDraft(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBad, err)
	}
	f.editing.Lock()
	defer f.editing.Unlock()
	check, err := f.refuseAborted(ctx)
	if err != nil {
		return err
	}
	if err := f.o.Repo.Import(d, check); err != nil {
		return fmt.Errorf("%w: import draft: %w", ErrConflict, err)
	}
	detail := ""
	if len(d.Notes) > 0 {
		detail = d.Notes[0]
	}
	return f.o.Registry.Audit(ctx, who, "import-draft", d.Roles[0].Role, strings.ToValidUTF8(detail[:min(len(detail), 500)], ""))
}

// CountCampaign counts how far a campaign is, box by box. In a large fleet that takes a while: see internal/fleet/web,
// which asks in the background.
func (f *Fleet) CountCampaign(ctx context.Context, c *Campaign) (Counts, error) {
	return f.count(ctx, c)
}

// CampaignRecord returns a campaign without its counts.
func (f *Fleet) CampaignRecord(ctx context.Context, id string) (Campaign, error) {
	return f.campaign(ctx, id)
}
