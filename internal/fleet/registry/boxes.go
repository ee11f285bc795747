package registry

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"boxd/internal/asset"
	"boxd/internal/mqttwire"
)

// Box is what the fleet manager knows of one box.
type Box struct {
	ID             string          `json:"id"`
	Group          string          `json:"group"`
	FirstSeen      time.Time       `json:"first_seen,omitzero"`
	LastSeen       time.Time       `json:"last_seen,omitzero"`
	Online         bool            `json:"online"`
	OnlineSince    time.Time       `json:"since,omitzero"` // of being online or offline
	Epoch          string          `json:"epoch,omitempty"`
	Software       string          `json:"software,omitempty"`
	Desired        int64           `json:"desired_version"`
	GroupDesired   int64           `json:"group_desired_version"`
	CatalogVersion int64           `json:"catalog_version"`
	ClockSkewMS    int64           `json:"clock_skew_ms"`
	DiskUsed       int64           `json:"disk_used"`
	DiskQuota      int64           `json:"disk_quota"`
	DiskFree       int64           `json:"disk_free"`
	LAN            int64           `json:"lan"` // bytes received, by source, since the box's state file was made
	Peer           int64           `json:"peer"`
	Origin         int64           `json:"origin"`
	Holdings       int             `json:"holdings"`
	Digest         string          `json:"digest,omitempty"`
	Unfinished     int             `json:"unfinished"`
	AtRisk         int             `json:"at_risk"`
	Codes          string          `json:"codes,omitempty"` // health codes, comma separated
	ReportedAt     time.Time       `json:"reported_at,omitzero"`
	Reported       json.RawMessage `json:"reported,omitempty"`
	Ready          []Held          `json:"ready,omitempty"`
	Revoked        time.Time       `json:"revoked,omitzero"` // when it was put out of the fleet
}

// Held is an asset that a box proved to hold.
type Held struct {
	ID    asset.ID  `json:"id"`
	Since time.Time `json:"since"`
}

func (r *row) box() Box {
	return Box{
		ID: r.ID, Group: r.Group, FirstSeen: fromMS(r.FirstSeen), LastSeen: fromMS(r.LastSeen), Online: r.Online == 1,
		OnlineSince: fromMS(r.OnlineSince), Epoch: r.Epoch, Software: r.Software, Desired: r.Desired,
		GroupDesired: r.GroupDesired, CatalogVersion: r.Catalog, ClockSkewMS: r.Skew, DiskUsed: r.DiskUsed,
		DiskQuota: r.DiskQuota, DiskFree: r.DiskFree, LAN: r.LAN, Peer: r.Peer, Origin: r.Origin, Holdings: r.Holdings,
		Digest: r.Digest, Unfinished: r.Unfinished, AtRisk: r.AtRisk, Codes: r.Codes, ReportedAt: fromMS(r.ReportedAt),
		Reported: r.Reported,
	}
}

// BoxFilter selects boxes. After is the last id of the page before.
type BoxFilter struct {
	Group, Code, After string
	Online             *bool
	Asset              string // boxes that hold it
	Lacking            string // boxes that do not hold it
	Limit              int    // 0 means 1000
	Brief              bool   // without Reported and Ready
	Revoked            bool   // boxes that were revoked, and not the members
}

// Boxes lists boxes in the order of their ids.
func (g *Registry) Boxes(ctx context.Context, f BoxFilter) ([]Box, error) {
	columns := rowColumns
	if f.Brief {
		columns = loadColumns
	}
	query, args := "SELECT "+columns+" FROM boxes WHERE id > ? AND "+members(f.Revoked), []any{f.After}
	add := func(cond string, v any) { query += " AND " + cond; args = append(args, v) }
	if f.Group != "" {
		add("grp = ?", f.Group)
	}
	if f.Online != nil {
		add("online = ?", b2i(*f.Online))
	}
	if f.Code != "" {
		add("(',' || codes || ',') LIKE ?", "%,"+f.Code+",%")
	}
	if f.Asset != "" {
		add("id IN (SELECT box FROM holdings WHERE asset = ?)", f.Asset)
	}
	if f.Lacking != "" {
		add("id NOT IN (SELECT box FROM holdings WHERE asset = ?)", f.Lacking)
	}
	if f.Limit <= 0 {
		f.Limit = 1000
	}
	query += " ORDER BY id LIMIT ?"
	rows, err := g.r.QueryContext(ctx, g.q(query), append(args, f.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("list boxes: %w", err)
	}
	defer rows.Close()
	list := []Box{}
	for rows.Next() {
		var r row
		if err := rows.Scan(r.fields()...); err != nil {
			return nil, fmt.Errorf("list boxes: %w", err)
		}
		list = append(list, r.box())
	}
	if err := rows.Err(); err != nil {
		return list, err
	}
	if f.Revoked {
		if err := g.fillRevoked(ctx, list); err != nil {
			return list, err
		}
	}
	if f.Brief {
		return list, nil
	}
	return list, g.fillHoldings(ctx, list)
}

func (g *Registry) fillHoldings(ctx context.Context, list []Box) error {
	at := make(map[string]int, len(list))
	for i := range list {
		at[list[i].ID] = i
	}
	for lo := 0; lo < len(list); lo += 500 {
		part := list[lo:min(lo+500, len(list))]
		args := make([]any, len(part))
		for i := range part {
			args[i] = part[i].ID
		}
		rows, err := g.r.QueryContext(ctx, g.q("SELECT box, asset, since FROM holdings WHERE box IN ("+marks(len(part))+
			") ORDER BY box, since"), args...)
		if err != nil {
			return fmt.Errorf("holdings: %w", err)
		}
		for rows.Next() {
			var box, id string
			var since int64
			if err := rows.Scan(&box, &id, &since); err != nil {
				_ = rows.Close()
				return fmt.Errorf("holdings: %w", err)
			}
			if parsed, err := asset.ParseID(id); err == nil {
				b := &list[at[box]]
				b.Ready = append(b.Ready, Held{parsed, fromMS(since)})
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return fmt.Errorf("holdings: %w", err)
		}
	}
	return nil
}

// Box returns one box.
func (g *Registry) Box(ctx context.Context, id string) (Box, error) {
	var r row
	err := g.r.QueryRowContext(ctx, g.q("SELECT "+rowColumns+" FROM boxes WHERE id = ?"), id).Scan(r.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		return Box{}, fmt.Errorf("box %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return Box{}, fmt.Errorf("box %s: %w", id, err)
	}
	list := []Box{r.box()}
	err = errors.Join(g.fillHoldings(ctx, list), g.fillRevoked(ctx, list))
	return list[0], err
}

// PutBox makes a box known, or moves it to another group: at its enrolment.
func (g *Registry) PutBox(ctx context.Context, id, group string) error {
	return g.update(ctx, false, func(tx *sql.Tx) error {
		now := ms(g.now())
		_, err := tx.ExecContext(ctx, g.q("INSERT INTO boxes (id, grp, first_seen, last_seen) VALUES (?, ?, ?, 0) "+
			"ON CONFLICT (id) DO UPDATE SET grp = excluded.grp"), id, group, now)
		if err != nil {
			return fmt.Errorf("put box %s: %w", id, err)
		}
		return nil
	})
}

// PutBoxes does the same for many, by id.
func (g *Registry) PutBoxes(ctx context.Context, groups map[string]string) error {
	ids := slices.Sorted(maps.Keys(groups))
	return g.update(ctx, false, func(tx *sql.Tx) error {
		now := ms(g.now())
		for rest := ids; len(rest) > 0; {
			n := min(len(rest), 200)
			args := make([]any, 0, 4*n)
			for _, id := range rest[:n] {
				args = append(args, id, groups[id], now, 0)
			}
			rest = rest[n:]
			_, err := tx.ExecContext(ctx, g.q("INSERT INTO boxes (id, grp, first_seen, last_seen) VALUES "+
				strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?),", n), ",")+" ON CONFLICT (id) DO UPDATE SET grp = excluded.grp"), args...)
			if err != nil {
				return fmt.Errorf("put boxes: %w", err)
			}
		}
		return nil
	})
}

// GroupsOfBoxes returns the group of every box.
func (g *Registry) GroupsOfBoxes(ctx context.Context) (map[string]string, error) {
	rows, err := g.r.QueryContext(ctx, "SELECT id, grp FROM boxes WHERE grp <> ''")
	if err != nil {
		return nil, fmt.Errorf("groups of boxes: %w", err)
	}
	defer rows.Close()
	groups := map[string]string{}
	for rows.Next() {
		var id, group string
		if err := rows.Scan(&id, &group); err != nil {
			return nil, fmt.Errorf("groups of boxes: %w", err)
		}
		groups[id] = group
	}
	return groups, rows.Err()
}

// touchStep bounds how many boxes one transaction of Touch holds.
const touchStep = 1000

// Touch raises the last-seen times of boxes: telemetry is not stored, but proves that its sender lives. So one that was taken to
// be offline before is online again. What is written is taken out of seen, also when the rest fails.
func (g *Registry) Touch(ctx context.Context, seen map[string]time.Time) error {
	ids := slices.Collect(maps.Keys(seen))
	slices.SortFunc(ids, func(a, b string) int { // who waits for longest comes first, however few get through
		return cmp.Or(seen[a].Compare(seen[b]), strings.Compare(a, b))
	})
	for step := range slices.Chunk(ids, touchStep) {
		slices.Sort(step) // one order for all fleetd: no deadlocks
		if err := g.update(ctx, false, func(tx *sql.Tx) error { return g.touch(ctx, tx, step, seen) }); err != nil {
			return err
		}
		for _, id := range step {
			delete(seen, id)
		}
	}
	return nil
}

func (g *Registry) touch(ctx context.Context, tx *sql.Tx, ids []string, seen map[string]time.Time) error {
	for _, id := range ids {
		at := ms(seen[id])
		var online, since int64
		err := tx.QueryRowContext(ctx, g.q("UPDATE boxes SET last_seen = ? WHERE id = ? AND (last_seen < ? OR last_seen > ?) "+
			"RETURNING online, online_since"), at, id, at, at+farAhead).Scan(&online, &since)
		switch {
		case errors.Is(err, sql.ErrNoRows) || err == nil && (online == 1 || since >= at && since <= at+farAhead):
			continue
		case err != nil:
			return fmt.Errorf("touch %s: %w", id, err)
		}
		if _, err := tx.ExecContext(ctx, g.q("UPDATE boxes SET online = 1, online_since = ? WHERE id = ?"), at, id); err != nil {
			return fmt.Errorf("touch %s: %w", id, err)
		}
		_, err = tx.ExecContext(ctx, g.q("INSERT INTO history (box, at, kind, text) VALUES (?, ?, 'online', 'heard of again')"), id, at)
		if err != nil {
			return fmt.Errorf("touch %s: %w", id, err)
		}
	}
	return nil
}

// MarkSilent marks as offline the boxes that nothing was heard of since before, and returns how many. Wills are hints:
// this is what "offline" rests on. One that was heard of in the future was heard of by a clock that was wrong.
func (g *Registry) MarkSilent(ctx context.Context, before time.Time) (int64, error) {
	var n int64
	err := g.update(ctx, false, func(tx *sql.Tx) error {
		now := ms(g.now())
		_, err := tx.ExecContext(ctx, g.q("INSERT INTO history (box, at, kind, text) SELECT id, ?, 'offline', 'silent' "+
			"FROM boxes WHERE online = 1 AND (last_seen < ? OR last_seen > ?)"), now, ms(before), now+farAhead)
		if err != nil {
			return fmt.Errorf("mark silent: %w", err)
		}
		res, err := tx.ExecContext(ctx, g.q("UPDATE boxes SET online = 0, online_since = ? WHERE online = 1 AND "+
			"(last_seen < ? OR last_seen > ?)"), now, ms(before), now+farAhead)
		if err != nil {
			return fmt.Errorf("mark silent: %w", err)
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}

// Event is a line of a box's history.
type Event struct {
	Seq  int64     `json:"seq"`
	Box  string    `json:"box"`
	At   time.Time `json:"at"`
	Kind string    `json:"kind"`
	Text string    `json:"text,omitempty"`
}

// History returns the newest lines of a box's history before seq (0 for the end), newest first.
func (g *Registry) History(ctx context.Context, box string, before int64, limit int) ([]Event, error) {
	if before <= 0 {
		before = 1 << 62
	}
	rows, err := g.r.QueryContext(ctx, g.q("SELECT seq, box, at, kind, text FROM history WHERE box = ? AND seq < ? "+
		"ORDER BY seq DESC LIMIT ?"), box, before, limit)
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", box, err)
	}
	defer rows.Close()
	list := []Event{}
	for rows.Next() {
		var e Event
		var at int64
		if err := rows.Scan(&e.Seq, &e.Box, &at, &e.Kind, &e.Text); err != nil {
			return nil, fmt.Errorf("history of %s: %w", box, err)
		}
		e.At = fromMS(at)
		list = append(list, e)
	}
	return list, rows.Err()
}

// Behind lists online boxes that have not applied a version: of their own wish, or of their group's when group is set. They are in
// the order of their names, beginning after one.
func (g *Registry) Behind(ctx context.Context, box, group string, version int64, after string, limit int) ([]string, error) {
	which, args := "grp = ? AND group_desired < ?", []any{group, version, after, limit}
	if box != "" {
		which, args[0] = "id = ? AND desired < ?", box
	}
	query := "SELECT id FROM boxes WHERE online = 1 AND " + which + " AND id > ? ORDER BY id LIMIT ?"
	rows, err := g.r.QueryContext(ctx, g.q(query), args...)
	if err != nil {
		return nil, fmt.Errorf("boxes that are behind: %w", err)
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("boxes that are behind: %w", err)
		}
		list = append(list, id)
	}
	return list, rows.Err()
}

// SetHoldings makes an uploaded list of holdings the truth about a box: proofs that were lost with its state file, or
// with this database, are made good.
func (g *Registry) SetHoldings(ctx context.Context, box string, list *mqttwire.HoldingsList) error {
	return g.update(ctx, false, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, g.q("DELETE FROM holdings WHERE box = ?"), box); err != nil {
			return fmt.Errorf("holdings of %s: %w", box, err)
		}
		for _, a := range list.Assets {
			_, err := tx.ExecContext(ctx, g.q("INSERT INTO holdings (box, asset, since) VALUES (?, ?, ?) "+
				"ON CONFLICT (asset, box) DO NOTHING"), box, a.ID.String(), ms(a.At))
			if err != nil {
				return fmt.Errorf("holdings of %s: %w", box, err)
			}
		}
		return nil
	})
}
