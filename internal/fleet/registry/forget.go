package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"boxd/internal/fleet/ca"
)

// isMember is the condition on rows of boxes that were not revoked: the others are in no count and no list, and raise no alert.
const (
	isMember  = "id NOT IN " + outBoxes
	isRevoked = "id IN " + outBoxes
	outBoxes  = "(SELECT k FROM kv WHERE tbl = '" + ca.TableOut + "')"
)

// members is the condition on boxes that were revoked, or on the others.
func members(revoked bool) string {
	if revoked {
		return isRevoked
	}
	return isMember
}

// fillRevoked says of those of a list that were revoked when that was.
func (g *Registry) fillRevoked(ctx context.Context, list []Box) error {
	for rest := list; len(rest) > 0; rest = rest[min(len(rest), 500):] {
		part := rest[:min(len(rest), 500)]
		at, args := make(map[string]int, len(part)), []any{ca.TableOut}
		for i := range part {
			at[part[i].ID] = i
			args = append(args, part[i].ID)
		}
		err := g.each(ctx, "SELECT k, v FROM kv WHERE tbl = ? AND k IN ("+marks(len(part))+")", args, func(rows *sql.Rows) error {
			var box string
			var when []byte
			if err := rows.Scan(&box, &when); err != nil {
				return err
			}
			return json.Unmarshal(when, &part[at[box]].Revoked)
		})
		if err != nil {
			return fmt.Errorf("revoked boxes: %w", err)
		}
	}
	return nil
}

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
