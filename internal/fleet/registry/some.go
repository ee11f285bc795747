package registry

import (
	"context"
	"fmt"
)

// SomeBoxes returns those of the named boxes that are members, with their last reports and without what they hold.
func (g *Registry) SomeBoxes(ctx context.Context, ids []string) ([]Box, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	rows, err := g.r.QueryContext(ctx, g.q("SELECT "+rowColumns+" FROM boxes WHERE id IN ("+marks(len(ids))+") AND "+isMember+
		" ORDER BY id"), args...)
	if err != nil {
		return nil, fmt.Errorf("some boxes: %w", err)
	}
	defer rows.Close()
	var list []Box
	for rows.Next() {
		var r row
		if err := rows.Scan(r.fields()...); err != nil {
			return nil, fmt.Errorf("some boxes: %w", err)
		}
		list = append(list, r.box())
	}
	return list, rows.Err()
}
