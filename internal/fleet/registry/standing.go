package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Standing is how one box stands with a set of assets.
type Standing struct {
	Box    string
	Online bool
	Since  time.Time // of being online or offline
	Held   int       // of the assets
	Failed int       // failed or rejected
	AtRisk int
}

// EachStanding calls fn for every box of a group. Three walks along indexes, put together here, take less than half the time
// of one query that joins and counts.
func (g *Registry) EachStanding(ctx context.Context, group string, assets []string, fn func(Standing)) error {
	if len(assets) == 0 {
		return nil
	}
	in, args := "("+marks(len(assets))+")", make([]any, len(assets))
	for i, a := range assets {
		args[i] = a
	}
	held, troubled := map[string]int{}, map[string]Standing{}
	err := g.each(ctx, "SELECT box FROM holdings WHERE asset IN "+in, args, func(rows *sql.Rows) error {
		var box string
		err := rows.Scan(&box)
		held[box]++
		return err
	})
	if err != nil {
		return fmt.Errorf("standing of %s: %w", group, err)
	}
	err = g.each(ctx, "SELECT box, state, at_risk FROM progress WHERE asset IN "+in+
		" AND (state IN ('failed', 'rejected') OR at_risk > 0)", args, func(rows *sql.Rows) error {
		var box, state string
		var risk int
		err := rows.Scan(&box, &state, &risk)
		s := troubled[box]
		if state == "failed" || state == "rejected" {
			s.Failed++
		}
		s.AtRisk += risk
		troubled[box] = s
		return err
	})
	if err != nil {
		return fmt.Errorf("standing of %s: %w", group, err)
	}
	// The index boxes_glance begins with these two and has the rest: no wide row is read.
	const known = "SELECT id, online, online_since FROM boxes WHERE online IN (0, 1) AND grp = ? AND " + isMember
	err = g.each(ctx, known, []any{group}, func(rows *sql.Rows) error {
		var id string
		var online int
		var since int64
		if err := rows.Scan(&id, &online, &since); err != nil {
			return err
		}
		s := troubled[id]
		s.Box, s.Online, s.Since, s.Held = id, online == 1, fromMS(since), held[id]
		fn(s)
		return nil
	})
	if err != nil {
		return fmt.Errorf("standing of %s: %w", group, err)
	}
	return nil
}

// each calls fn for every row of a query.
func (g *Registry) each(ctx context.Context, query string, args []any, fn func(*sql.Rows) error) error {
	rows, err := g.r.QueryContext(ctx, g.q(query), args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := fn(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}
