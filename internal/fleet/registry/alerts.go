package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Alert is something that an operator should look at. Box is empty for the fleet itself.
type Alert struct {
	Box      string    `json:"box,omitempty"`
	Group    string    `json:"group,omitempty"`
	Code     string    `json:"code"`
	Severity string    `json:"severity"`
	Text     string    `json:"text"`
	Since    time.Time `json:"since"`
}

// AlertRules are the thresholds of FindAlerts.
type AlertRules struct {
	OfflineBefore time.Time // offline since before then
	MaxSkew       time.Duration
	MinFree       int64 // bytes
}

// maxAlerts bounds one code's alerts: beyond it the fleet's counts say more than a list.
const maxAlerts = 20_000

// FindAlerts returns what is wrong now.
func (g *Registry) FindAlerts(ctx context.Context, r AlertRules) ([]Alert, error) {
	skew := r.MaxSkew.Milliseconds()
	rules := []struct {
		code, severity, text, cond string
		args                       []any
	}{
		{
			"offline",
			"warning",
			"nothing was heard of it",
			"online = 0 AND last_seen > 0 AND last_seen < ?",
			[]any{ms(r.OfflineBefore)},
		},
		{"never-seen", "info", "it enrolled and never reported", "last_seen = 0 AND first_seen < ?", []any{ms(r.OfflineBefore)}},
		{
			"disk",
			"warning",
			"little room is left on its disk",
			"reported_at > 0 AND disk_quota > 0 AND disk_free < ?",
			[]any{r.MinFree},
		},
		{"deadline-at-risk", "warning", "it may miss a deadline", "at_risk > 0", nil},
		{
			"clock",
			"warning",
			"its clock differs from the manager's",
			"online = 1 AND (clock_skew > ? OR clock_skew < ?)",
			[]any{skew, -skew},
		},
	}
	var list []Alert
	for _, rule := range rules {
		err := g.alertRows(ctx, "SELECT id, grp, '' FROM boxes WHERE "+isMember+" AND "+rule.cond, rule.args, func(box, group, _ string) {
			list = append(list, Alert{Box: box, Group: group, Code: rule.code, Severity: rule.severity, Text: rule.text})
		})
		if err != nil {
			return nil, err
		}
	}
	err := g.alertRows(
		ctx,
		"SELECT id, grp, codes FROM boxes WHERE codes <> '' AND online = 1 AND "+isMember,
		nil,
		func(box, group, codes string) {
			for _, c := range splitCodes(codes) {
				list = append(list, Alert{Box: box, Group: group, Code: c, Severity: "warning", Text: "the box reports it"})
			}
		},
	)
	return list, err
}

func splitCodes(s string) []string {
	var list []string
	for start, i := 0, 0; i <= len(s); i++ {
		if i == len(s) || s[i] == ',' {
			if i > start {
				list = append(list, s[start:i])
			}
			start = i + 1
		}
	}
	return list
}

func (g *Registry) alertRows(ctx context.Context, query string, args []any, fn func(box, group, codes string)) error {
	rows, err := g.r.QueryContext(ctx, g.q(query+" ORDER BY id LIMIT ?"), append(args, maxAlerts)...)
	if err != nil {
		return fmt.Errorf("find alerts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var box, group, codes string
		if err := rows.Scan(&box, &group, &codes); err != nil {
			return fmt.Errorf("find alerts: %w", err)
		}
		fn(box, group, codes)
	}
	return rows.Err()
}

// SkewedOnline counts the online boxes whose clock differs, and all that are online and have reported.
func (g *Registry) SkewedOnline(ctx context.Context, skew time.Duration) (skewed, online int, err error) {
	n := skew.Milliseconds()
	err = g.r.QueryRowContext(ctx, g.q("SELECT COALESCE(SUM(CASE WHEN clock_skew > ? OR clock_skew < ? THEN 1 ELSE 0 END), 0), "+
		"COUNT(*) FROM boxes WHERE online = 1 AND reported_at > 0"), n, -n).Scan(&skewed, &online)
	if err != nil {
		return 0, 0, fmt.Errorf("count clocks: %w", err)
	}
	return skewed, online, nil
}

// NewestEvent is when the newest line of any box's history was written; zero when there is none.
func (g *Registry) NewestEvent(ctx context.Context) (time.Time, error) {
	var at int64
	err := g.r.QueryRowContext(ctx, "SELECT at FROM history ORDER BY seq DESC LIMIT 1").Scan(&at)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, fmt.Errorf("newest event: %w", err)
	}
	return fromMS(at), nil
}

// SetAlerts makes found the alerts that are raised: new ones begin now, those that are gone go, and the others get the text
// that is true now.
func (g *Registry) SetAlerts(ctx context.Context, found []Alert) error {
	return g.update(ctx, false, func(tx *sql.Tx) error {
		type key struct{ box, code string }
		old := map[key]string{}
		rows, err := tx.QueryContext(ctx, "SELECT box, code, text FROM alerts")
		if err != nil {
			return fmt.Errorf("alerts: %w", err)
		}
		for rows.Next() {
			var k key
			var text string
			if err := rows.Scan(&k.box, &k.code, &text); err != nil {
				_ = rows.Close()
				return fmt.Errorf("alerts: %w", err)
			}
			old[k] = text
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return fmt.Errorf("alerts: %w", err)
		}
		for _, a := range found {
			k := key{a.Box, a.Code}
			text, there := old[k]
			delete(old, k)
			if there && text == a.Text {
				continue
			}
			_, err := tx.ExecContext(ctx, g.q("INSERT INTO alerts (box, code, severity, text, since) VALUES (?, ?, ?, ?, ?) "+
				"ON CONFLICT (box, code) DO UPDATE SET text = excluded.text"), a.Box, a.Code, a.Severity, a.Text, ms(g.now()))
			if err != nil {
				return fmt.Errorf("alerts: %w", err)
			}
		}
		for k := range old {
			if _, err := tx.ExecContext(ctx, g.q("DELETE FROM alerts WHERE box = ? AND code = ?"), k.box, k.code); err != nil {
				return fmt.Errorf("alerts: %w", err)
			}
		}
		return nil
	})
}

// Alerts lists what is raised, of one code or all, oldest first.
func (g *Registry) Alerts(ctx context.Context, code string, limit int) ([]Alert, error) {
	query, args := "SELECT a.box, COALESCE(b.grp, ''), a.code, a.severity, a.text, a.since FROM alerts a "+
		"LEFT JOIN boxes b ON b.id = a.box", []any{}
	if code != "" {
		query, args = query+" WHERE a.code = ?", append(args, code)
	}
	rows, err := g.r.QueryContext(ctx, g.q(query+" ORDER BY a.since, a.box, a.code LIMIT ?"), append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list alerts: %w", err)
	}
	defer rows.Close()
	list := []Alert{}
	for rows.Next() {
		var a Alert
		var since int64
		if err := rows.Scan(&a.Box, &a.Group, &a.Code, &a.Severity, &a.Text, &since); err != nil {
			return nil, fmt.Errorf("list alerts: %w", err)
		}
		a.Since = fromMS(since)
		list = append(list, a)
	}
	return list, rows.Err()
}

// AlertKind is what CountAlerts counts by.
type AlertKind struct {
	Fleet    bool // about the fleet itself, and not a box
	Severity string
}

// CountAlerts counts the alerts that are raised.
func (g *Registry) CountAlerts(ctx context.Context) (map[AlertKind]int, error) {
	counts := map[AlertKind]int{}
	err := g.each(ctx, "SELECT CASE WHEN box = '' THEN 1 ELSE 0 END AS fleet, severity, COUNT(*) FROM alerts GROUP BY fleet, severity", nil,
		func(rows *sql.Rows) error {
			var fleet, n int
			var k AlertKind
			err := rows.Scan(&fleet, &k.Severity, &n)
			k.Fleet = fleet == 1
			counts[k] += n
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("count alerts: %w", err)
	}
	return counts, nil
}
