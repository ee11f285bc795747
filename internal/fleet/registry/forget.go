package registry

import (
	"context"
	"database/sql"
	"fmt"

	"boxd/internal/fleet/ca"
)

// isMember is the condition on rows of boxes that were not revoked: the others are in no count and raise no alert.
const isMember = "id NOT IN (SELECT k FROM kv WHERE tbl = '" + ca.TableOut + "')"

// ForgetBox deletes what is known of a box but its proofs, which publishers pay by, and the audit log.
func (g *Registry) ForgetBox(ctx context.Context, id string) error {
	return g.update(ctx, false, func(tx *sql.Tx) error {
		for _, table := range []string{"holdings", "progress", "history", "alerts", "command_boxes"} {
			if _, err := tx.ExecContext(ctx, g.q("DELETE FROM "+table+" WHERE box = ?"), id); err != nil {
				return fmt.Errorf("forget box %s: %w", id, err)
			}
		}
		res, err := tx.ExecContext(ctx, g.q("DELETE FROM boxes WHERE id = ?"), id)
		if err != nil {
			return fmt.Errorf("forget box %s: %w", id, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return fmt.Errorf("box %q: %w", id, ErrNotFound)
		}
		return nil
	})
}
