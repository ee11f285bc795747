package registry

import (
	"context"
	"fmt"
)

// LimitPages makes an SQLite store full after so many pages.
func (g *Registry) LimitPages(ctx context.Context, n int) error {
	_, err := g.w.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", n))
	return err
}

// RefuseHistory makes PostgreSQL refuse lines of a kind.
func (g *Registry) RefuseHistory(ctx context.Context, kind string) error {
	_, err := g.w.ExecContext(ctx, fmt.Sprintf("ALTER TABLE history ADD CHECK (kind <> '%s')", kind))
	return err
}

// ForceSchema pretends that a newer fleetd made the store.
func (g *Registry) ForceSchema(ctx context.Context, v int) error {
	_, err := g.w.ExecContext(ctx, g.q("INSERT INTO schema_version (v) VALUES (?)"), v)
	return err
}

// Inflate makes proofs and counts as large as lies can make them.
func (g *Registry) Inflate(ctx context.Context) error {
	for _, q := range []string{"UPDATE proofs SET length = 4611686018427387904", "UPDATE arrivals SET length = 4611686018427387904"} {
		if _, err := g.w.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// RefuseTouch makes an SQLite store refuse that a box was heard of, until it is called with none.
func (g *Registry) RefuseTouch(ctx context.Context, box string) error {
	query := "DROP TRIGGER refuse"
	if box != "" {
		query = fmt.Sprintf("CREATE TRIGGER refuse BEFORE UPDATE ON boxes WHEN NEW.id = '%s' BEGIN SELECT RAISE(ABORT, 'refused'); END", box)
	}
	_, err := g.w.ExecContext(ctx, query)
	return err
}
