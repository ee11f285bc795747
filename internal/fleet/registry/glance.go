package registry

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"time"

	"boxd/internal/mqttwire"
)

// Arrivals is what arrived in a span of time, and where its bytes came from.
type Arrivals struct {
	Boxes  int64 `json:"n"` // proofs of arrival
	Length int64 `json:"length"`
	LAN    int64 `json:"lan"`
	Peer   int64 `json:"peer"`
	Origin int64 `json:"origin"`
}

// ArrivalPoint is one step of a series. At is where the step begins.
type ArrivalPoint struct {
	At time.Time `json:"at"`
	Arrivals
}

type arrivalKey struct {
	asset, group string
	minute       int64
}

// countArrival counts an arrival by its minute. Of an asset that was never published it adds no bytes: the sums would have what
// any box cares to say, and cannot be mended as proofs are.
func (b *batch) countArrival(r *row, e *mqttwire.Event, known bool, at int64) {
	if e.Kind != mqttwire.EventArrived {
		return
	}
	if b.arrived == nil {
		b.arrived = map[arrivalKey]Arrivals{}
	}
	for _, k := range []arrivalKey{{e.Asset.String(), r.Group, at / 60_000}, {"", "", at / 60_000}} {
		n := b.arrived[k]
		n.Boxes++
		if !known {
			b.arrived[k] = n
			continue
		}
		n.Length += e.Size
		n.LAN += min(e.From.LAN, mqttwire.MaxAsset)
		n.Peer += min(e.From.Peer, mqttwire.MaxAsset)
		n.Origin += min(e.From.Origin, mqttwire.MaxAsset)
		b.arrived[k] = n
	}
}

// storeArrivals adds to the counts of the minute, in one order for all fleetd.
func (b *batch) storeArrivals(ctx context.Context, tx *sql.Tx) error {
	keys := make([]arrivalKey, 0, len(b.arrived))
	for k := range b.arrived {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y arrivalKey) int {
		return cmp.Or(cmp.Compare(x.asset, y.asset), cmp.Compare(x.group, y.group), cmp.Compare(x.minute, y.minute))
	})
	for _, k := range keys {
		n := b.arrived[k]
		_, err := tx.ExecContext(ctx, b.g.q("INSERT INTO arrivals (asset, grp, minute, n, length, lan, peer, origin) VALUES ("+
			marks(8)+") ON CONFLICT (asset, grp, minute) DO UPDATE SET "+
			b.g.addUp("arrivals", "n", "length", "lan", "peer", "origin")), k.asset, k.group, k.minute, n.Boxes, n.Length, n.LAN, n.Peer, n.Origin)
		if err != nil {
			return fmt.Errorf("count arrivals: %w", err)
		}
	}
	return nil
}

// ArrivalSeries sums arrivals of some assets in a group (of everything without assets) by steps of whole minutes. Steps
// in which nothing arrived are left out.
func (g *Registry) ArrivalSeries(
	ctx context.Context,
	assets []string,
	group string,
	from, to time.Time,
	step time.Duration,
) ([]ArrivalPoint, error) {
	width := max(int64(step/time.Minute), 1)
	args := []any{width, width, from.Unix() / 60, to.Unix() / 60}
	cond := "asset = '' AND grp = ''"
	if len(assets) > 0 {
		cond = "asset IN (" + marks(len(assets)) + ") AND grp = ?"
		for _, a := range assets {
			args = append(args, a)
		}
		args = append(args, group)
	}
	rows, err := g.r.QueryContext(
		ctx,
		g.q("SELECT step, "+g.sums("n", "length", "lan", "peer", "origin")+
			" FROM (SELECT minute / CAST(? AS BIGINT) * CAST(? AS BIGINT) AS step, "+
			"n, length, lan, peer, origin FROM arrivals WHERE minute >= ? AND minute <= ? AND "+cond+") s GROUP BY step ORDER BY step"),
		args...)
	if err != nil {
		return nil, fmt.Errorf("series of arrivals: %w", err)
	}
	defer rows.Close()
	list := []ArrivalPoint{}
	for rows.Next() {
		var p ArrivalPoint
		var minute int64
		if err := rows.Scan(&minute, &p.Boxes, &p.Length, &p.LAN, &p.Peer, &p.Origin); err != nil {
			return nil, fmt.Errorf("series of arrivals: %w", err)
		}
		p.At = time.Unix(minute*60, 0).UTC()
		list = append(list, p)
	}
	return list, rows.Err()
}

// Standings counts boxes that have something in common.
type Standings struct {
	Name   string `json:"name"`
	Boxes  int    `json:"boxes"`
	Online int    `json:"online"`
	AtRisk int    `json:"at_risk"`
}

// AlertCount counts the alerts of one code.
type AlertCount struct {
	Code     string    `json:"code"`
	Severity string    `json:"severity"`
	Boxes    int       `json:"boxes"`
	Since    time.Time `json:"since"` // the oldest
}

// Glance is the fleet in numbers; its size does not follow the fleet's.
type Glance struct {
	Standings
	Groups       []Standings  `json:"groups"` // the largest
	MoreGroups   int          `json:"more_groups,omitempty"`
	Versions     []Standings  `json:"versions"` // of the software, the most used first
	MoreVersions int          `json:"more_versions,omitempty"`
	Alerts       []AlertCount `json:"alerts"`
}

const (
	maxGroups   = 200
	maxVersions = 12
)

// Glance counts boxes by state, group and version, and alerts by code, from indexes alone.
func (g *Registry) Glance(ctx context.Context) (Glance, error) {
	out := Glance{Alerts: []AlertCount{}}
	groups, versions := map[string]Standings{}, map[string]Standings{}
	rows, err := g.r.QueryContext(ctx, "SELECT online, grp, software, COUNT(*), SUM(CASE WHEN at_risk > 0 THEN 1 ELSE 0 END) "+
		"FROM boxes WHERE "+isMember+" GROUP BY online, grp, software")
	if err != nil {
		return out, fmt.Errorf("count boxes: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var group, software string
		var online, n, risk int
		if err := rows.Scan(&online, &group, &software, &n, &risk); err != nil {
			return out, fmt.Errorf("count boxes: %w", err)
		}
		out.Standings = out.plus(n, online, risk)
		groups[group] = groups[group].plus(n, online, risk)
		versions[software] = versions[software].plus(n, online, risk)
	}
	if err := rows.Err(); err != nil {
		return out, fmt.Errorf("count boxes: %w", err)
	}
	out.Groups, out.MoreGroups = largest(groups, maxGroups)
	out.Versions, out.MoreVersions = largest(versions, maxVersions)
	return out, g.alertCounts(ctx, &out)
}

func (s Standings) plus(n, online, risk int) Standings {
	s.Boxes += n
	s.Online += n * online
	s.AtRisk += risk
	return s
}

func largest(by map[string]Standings, most int) ([]Standings, int) {
	list := make([]Standings, 0, len(by))
	for name, s := range by {
		s.Name = name
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Standings) int { return cmp.Or(cmp.Compare(b.Boxes, a.Boxes), cmp.Compare(a.Name, b.Name)) })
	n := min(len(list), most)
	return list[:n], len(list) - n
}

func (g *Registry) alertCounts(ctx context.Context, out *Glance) error {
	rows, err := g.r.QueryContext(
		ctx,
		"SELECT code, severity, COUNT(*), MIN(since) FROM alerts GROUP BY code, severity ORDER BY COUNT(*) DESC LIMIT 50",
	)
	if err != nil {
		return fmt.Errorf("count alerts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var a AlertCount
		var since int64
		if err := rows.Scan(&a.Code, &a.Severity, &a.Boxes, &since); err != nil {
			return fmt.Errorf("count alerts: %w", err)
		}
		a.Since = fromMS(since)
		out.Alerts = append(out.Alerts, a)
	}
	return rows.Err()
}

// BoxQuery selects boxes for a page of a list. After is the last id of the page before.
type BoxQuery struct {
	Group, Software, Code string
	State                 string // "online", "offline", "at-risk"; empty: all members; "revoked": the others
	Prefix                string // of the id
	Lacking               string // boxes that do not hold this asset
	After                 string
	Limit                 int
}

// BoxPage is one page of a list of boxes, without what they report.
type BoxPage struct {
	Boxes []Box  `json:"boxes"`
	Total int    `json:"total"`          // boxes that match, on all pages; at most maxTotal
	More  bool   `json:"more,omitempty"` // that match more than Total
	Next  string `json:"next,omitempty"` // After of the next page
}

// maxTotal is up to where boxes that match are counted, so that a page takes as long in a fleet of any size.
const maxTotal = 1000

// where makes the condition. PostgreSQL may sort as a language does: there what begins with a prefix has no end in the order
// of ids.
func (q BoxQuery) where(pg bool) (string, []any) {
	cond, args := members(q.State == "revoked"), []any{}
	add := func(c string, v ...any) { cond += " AND " + c; args = append(args, v...) }
	switch q.State {
	case "online":
		add("online = 1")
	case "offline":
		add("online = 0")
	case "at-risk":
		add("at_risk > 0")
	}
	if q.Group != "" {
		add("grp = ?", q.Group)
	}
	if q.Software != "" {
		add("software = ?", q.Software)
	}
	if q.Prefix != "" {
		if pg {
			add("id >= ? AND starts_with(id, ?)", q.Prefix, q.Prefix)
		} else {
			add("id >= ? AND id < ?", q.Prefix, q.Prefix+"\x7f")
		}
	}
	if q.Code != "" {
		add("id IN (SELECT box FROM alerts WHERE code = ?)", q.Code)
	}
	if q.Lacking != "" {
		add("NOT EXISTS (SELECT 1 FROM holdings h WHERE h.asset = ? AND h.box = boxes.id)", q.Lacking)
	}
	return cond, args
}

// filters is how many columns of a box it looks at; an index has the boxes in order for one of them.
func (q BoxQuery) filters() int {
	n := 0
	for _, v := range []string{q.Group, q.Software, q.State} {
		if v != "" {
			n++
		}
	}
	return n
}

// BoxPage reads a page. The ids are found in indexes; rows, which are wide, are read only for the page.
func (g *Registry) BoxPage(ctx context.Context, q BoxQuery) (BoxPage, error) {
	cond, args := q.where(g.pg)
	out := BoxPage{Boxes: []Box{}}
	count := "SELECT COUNT(*) FROM (SELECT 1 FROM boxes WHERE " + cond + " LIMIT " + strconv.Itoa(maxTotal+1) + ") AS few"
	if err := g.r.QueryRowContext(ctx, g.q(count), args...).Scan(&out.Total); err != nil {
		return out, fmt.Errorf("count boxes: %w", err)
	}
	if out.Total > maxTotal {
		out.Total, out.More = maxTotal, true
	}
	q.Limit = min(max(q.Limit, 1), 200)
	order := "id"
	if q.filters() > 1 || q.Code != "" {
		order = "id || ''" // keeps the database from walking the wide rows in the order of their ids
	}
	rows, err := g.r.QueryContext(ctx, g.q("SELECT id FROM boxes WHERE "+cond+" AND "+order+" > ? ORDER BY "+order+" LIMIT ?"),
		append(args, q.After, q.Limit+1)...)
	if err != nil {
		return out, fmt.Errorf("page of boxes: %w", err)
	}
	defer rows.Close()
	var ids []any
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return out, fmt.Errorf("page of boxes: %w", err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return out, fmt.Errorf("page of boxes: %w", err)
	}
	if len(ids) > q.Limit {
		ids = ids[:q.Limit]
		out.Next, _ = ids[q.Limit-1].(string)
	}
	return out, g.fillPage(ctx, &out, ids)
}

func (g *Registry) fillPage(ctx context.Context, out *BoxPage, ids []any) error {
	if len(ids) == 0 {
		return nil
	}
	rows, err := g.r.QueryContext(ctx, g.q("SELECT "+loadColumns+" FROM boxes WHERE id IN ("+marks(len(ids))+") ORDER BY id"), ids...)
	if err != nil {
		return fmt.Errorf("page of boxes: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(r.fields()...); err != nil {
			return fmt.Errorf("page of boxes: %w", err)
		}
		out.Boxes = append(out.Boxes, r.box())
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("page of boxes: %w", err)
	}
	return g.fillRevoked(ctx, out.Boxes)
}
