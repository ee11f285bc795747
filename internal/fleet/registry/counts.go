package registry

import (
	"context"
	"fmt"
)

// GroupCount is the state of a group in numbers.
type GroupCount struct {
	Group   string `json:"group"`
	Boxes   int    `json:"boxes"`
	Online  int    `json:"online"`
	AtRisk  int    `json:"at_risk"`
	Warning int    `json:"with_warnings"`
	LAN     int64  `json:"lan"`
	Peer    int64  `json:"peer"`
	Origin  int64  `json:"origin"`
}

// Groups counts the boxes by group.
func (g *Registry) Groups(ctx context.Context) ([]GroupCount, error) {
	rows, err := g.r.QueryContext(ctx, "SELECT grp, COUNT(*), SUM(online), SUM(CASE WHEN at_risk > 0 THEN 1 ELSE 0 END), "+
		"SUM(CASE WHEN codes <> '' THEN 1 ELSE 0 END), "+g.sums("lan", "peer", "origin")+" FROM boxes WHERE "+isMember+
		" GROUP BY grp ORDER BY grp")
	if err != nil {
		return nil, fmt.Errorf("count groups: %w", err)
	}
	defer rows.Close()
	list := []GroupCount{}
	for rows.Next() {
		var c GroupCount
		if err := rows.Scan(&c.Group, &c.Boxes, &c.Online, &c.AtRisk, &c.Warning, &c.LAN, &c.Peer, &c.Origin); err != nil {
			return nil, fmt.Errorf("count groups: %w", err)
		}
		list = append(list, c)
	}
	return list, rows.Err()
}

// AssetCount says how an asset stands on the boxes of a group (all groups when group is empty).
type AssetCount struct {
	Boxes  int            `json:"boxes"` // of the group
	Ready  int            `json:"ready"`
	AtRisk int            `json:"at_risk"`
	States map[string]int `json:"states"` // of the others that report it
}

// CountAsset counts the boxes of a group by how far they are with an asset.
func (g *Registry) CountAsset(ctx context.Context, group, id string) (AssetCount, error) {
	c := AssetCount{States: map[string]int{}}
	cond, args := " AND b."+isMember, []any{}
	if group != "" {
		cond, args = cond+" AND b.grp = ?", []any{group}
	}
	row := g.r.QueryRowContext(ctx, g.q("SELECT COUNT(*) FROM boxes b WHERE 1 = 1"+cond), args...)
	if err := row.Scan(&c.Boxes); err != nil {
		return c, fmt.Errorf("count asset %s: %w", id, err)
	}
	args = append([]any{id}, args...)
	row = g.r.QueryRowContext(
		ctx,
		g.q("SELECT COUNT(*) FROM holdings h JOIN boxes b ON b.id = h.box WHERE h.asset = ?"+cond),
		args...)
	if err := row.Scan(&c.Ready); err != nil {
		return c, fmt.Errorf("count asset %s: %w", id, err)
	}
	rows, err := g.r.QueryContext(
		ctx,
		g.q("SELECT p.state, COUNT(*), SUM(p.at_risk) FROM progress p JOIN boxes b ON b.id = p.box "+
			"WHERE p.asset = ?"+cond+" GROUP BY p.state"),
		args...)
	if err != nil {
		return c, fmt.Errorf("count asset %s: %w", id, err)
	}
	defer rows.Close()
	for rows.Next() {
		var state string
		var n, risk int
		if err := rows.Scan(&state, &n, &risk); err != nil {
			return c, fmt.Errorf("count asset %s: %w", id, err)
		}
		c.States[state] += n
		c.AtRisk += risk
	}
	return c, rows.Err()
}
