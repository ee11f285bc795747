package registry

import (
	"context"
	"database/sql"
	"fmt"

	"boxd/internal/asset"
)

// Proven is what proofs say of an asset.
type Proven struct {
	Asset     asset.ID
	Publisher string
	Name      string
	Length    int64
}

// Proven lists what proofs that are somebody's say of assets; what most boxes say comes first.
func (g *Registry) Proven(ctx context.Context) ([]Proven, error) {
	rows, err := g.r.QueryContext(ctx, "SELECT asset, publisher, name, length FROM proofs WHERE publisher <> '' "+
		"GROUP BY asset, publisher, name, length ORDER BY COUNT(DISTINCT box) DESC, asset, publisher, name, length")
	if err != nil {
		return nil, fmt.Errorf("proven assets: %w", err)
	}
	defer rows.Close()
	var list []Proven
	for rows.Next() {
		var p Proven
		var id string
		if err := rows.Scan(&id, &p.Publisher, &p.Name, &p.Length); err != nil {
			return nil, fmt.Errorf("proven assets: %w", err)
		}
		if p.Asset, err = asset.ParseID(id); err != nil {
			return nil, fmt.Errorf("proven assets: %w", err)
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// Nobodys returns the assets of which there are proofs that are in nobody's statement.
func (g *Registry) Nobodys(ctx context.Context) (map[asset.ID]bool, error) {
	ids, err := texts(g.r.QueryContext(ctx, "SELECT DISTINCT asset FROM proofs WHERE publisher = ''"))
	if err != nil {
		return nil, fmt.Errorf("nobody's proofs: %w", err)
	}
	set := make(map[asset.ID]bool, len(ids))
	for _, id := range ids {
		parsed, err := asset.ParseID(id)
		if err != nil {
			return nil, fmt.Errorf("nobody's proofs: %w", err)
		}
		set[parsed] = true
	}
	return set, nil
}

// Attribute puts the proofs of an asset that are nobody's into its publisher's statement. They keep the campaigns that there
// are, and at most so many bytes from each source.
func (g *Registry) Attribute(ctx context.Context, p Proven, campaigns map[string]bool, most int64) error {
	const nobodys = " WHERE asset = ? AND publisher || '' = ''" // by the index of assets: much may be nobody's
	id := p.Asset.String()
	least := "MIN"
	if g.pg {
		least = "LEAST"
	}
	return g.update(ctx, false, func(tx *sql.Tx) error {
		told, err := texts(tx.QueryContext(ctx, g.q("SELECT DISTINCT campaign FROM proofs"+nobodys), id))
		if err != nil {
			return fmt.Errorf("attribute %s: %w", id, err)
		}
		query, args := "UPDATE proofs SET publisher = ?, name = ?, length = ?", []any{p.Publisher, p.Name, p.Length}
		for _, col := range []string{"lan", "peer", "origin"} {
			query += ", " + col + " = " + least + "(" + col + ", CAST(? AS BIGINT))"
			args = append(args, most)
		}
		there := []any{""}
		for _, c := range told {
			if campaigns[c] && len(there) < 1000 {
				there = append(there, c)
			}
		}
		query += ", campaign = CASE WHEN campaign IN (" + marks(len(there)) +
			") THEN campaign ELSE '' END"
		if _, err := tx.ExecContext(ctx, g.q(query+nobodys), append(append(args, there...), id)...); err != nil {
			return fmt.Errorf("attribute %s: %w", id, err)
		}
		return nil
	})
}

// texts reads a column.
func texts(rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
