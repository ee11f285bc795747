package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// row is a line of the table boxes.
type row struct {
	ID, Group                     string
	FirstSeen, LastSeen           int64
	Online                        int
	OnlineSince                   int64
	Epoch                         string
	SID, Seq                      int64
	Software                      string
	Desired, GroupDesired         int64
	Catalog, Skew                 int64
	DiskUsed, DiskQuota, DiskFree int64
	LAN, Peer, Origin             int64
	Holdings                      int
	Digest                        string
	Unfinished, AtRisk, Warnings  int
	Codes, Sig                    string
	Reported                      []byte
	ReportedAt                    int64

	dirty, turned, reported bool
}

const rowColumns = "id, grp, first_seen, last_seen, online, online_since, epoch, sid, seq, software, desired, " +
	"group_desired, catalog, clock_skew, disk_used, disk_quota, disk_free, lan, peer, origin, holdings, digest, " +
	"unfinished, at_risk, warnings, codes, sig, reported, reported_at"

func (r *row) fields() []any {
	return []any{
		&r.ID, &r.Group, &r.FirstSeen, &r.LastSeen, &r.Online, &r.OnlineSince, &r.Epoch, &r.SID, &r.Seq, &r.Software,
		&r.Desired, &r.GroupDesired, &r.Catalog, &r.Skew, &r.DiskUsed, &r.DiskQuota, &r.DiskFree, &r.LAN, &r.Peer,
		&r.Origin, &r.Holdings, &r.Digest, &r.Unfinished, &r.AtRisk, &r.Warnings, &r.Codes, &r.Sig, &r.Reported,
		&r.ReportedAt,
	}
}

func (r *row) values() []any {
	return []any{
		r.ID, r.Group, r.FirstSeen, r.LastSeen, r.Online, r.OnlineSince, r.Epoch, r.SID, r.Seq, r.Software,
		r.Desired, r.GroupDesired, r.Catalog, r.Skew, r.DiskUsed, r.DiskQuota, r.DiskFree, r.LAN, r.Peer,
		r.Origin, r.Holdings, r.Digest, r.Unfinished, r.AtRisk, r.Warnings, r.Codes, r.Sig, r.Reported,
		r.ReportedAt,
	}
}

func (r *row) sid() uint64 { return uint64(r.SID) } //nolint:gosec // written from a uint64
func (r *row) seq() uint64 { return uint64(r.Seq) } //nolint:gosec // written from a uint64

// farAhead is how far beyond now a time that this manager wrote itself must be to be a mistake of its clock.
const farAhead = int64(time.Hour / time.Millisecond)

func (r *row) see(at int64) {
	if r.LastSeen < at || r.LastSeen > at+farAhead {
		r.LastSeen = at
	}
	r.dirty = true
}

// chunk is how many rows a statement has. SQLite's driver parses every statement anew and binds in time that grows with
// the square of the values; with PostgreSQL a round trip costs more than either.
func (g *Registry) chunk() int {
	if g.pg {
		return 100
	}
	return 8
}

func (b *batch) load(ctx context.Context, tx *sql.Tx, ids []string) error {
	for rest := ids; len(rest) > 0; {
		n := min(len(rest), 500)
		args := make([]any, n)
		for i, id := range rest[:n] {
			args[i] = id
		}
		rest = rest[n:]
		query := "SELECT " + rowColumns + " FROM boxes WHERE id IN (" + marks(n) + ")"
		if b.g.pg {
			query += " ORDER BY id FOR UPDATE" // another fleetd may have the same box in its batch
		}
		rows, err := tx.QueryContext(ctx, b.g.q(query), args...)
		if err != nil {
			return fmt.Errorf("load boxes: %w", err)
		}
		for rows.Next() {
			var r row
			if err := rows.Scan(r.fields()...); err != nil {
				_ = rows.Close()
				return fmt.Errorf("load boxes: %w", err)
			}
			*b.rows[r.ID] = r
		}
		if err := rows.Close(); err != nil {
			return fmt.Errorf("load boxes: %w", err)
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("load boxes: %w", err)
		}
	}
	return nil
}

// upsertSet overwrites all but what only enrolment sets.
var upsertSet = func() string {
	var sets []string
	for _, c := range strings.Split(rowColumns, ", ") {
		if c != "id" && c != "grp" && c != "first_seen" {
			sets = append(sets, c+" = excluded."+c)
		}
	}
	return strings.Join(sets, ", ")
}()

func upsertQuery(rows int) string {
	return "INSERT INTO boxes (" + rowColumns + ") VALUES " + strings.TrimSuffix(strings.Repeat("("+marks(29)+"),", rows), ",") +
		" ON CONFLICT (id) DO UPDATE SET " + upsertSet
}

func (b *batch) store(ctx context.Context, tx *sql.Tx, ids []string) error {
	var dirty []*row
	for _, id := range ids {
		r := b.rows[id]
		if !r.dirty {
			continue
		}
		if r.FirstSeen == 0 {
			r.FirstSeen = max(r.LastSeen, 1)
		}
		dirty = append(dirty, r)
		if r.turned || r.reported {
			b.out.Seen = append(b.out.Seen, Seen{
				Box: r.ID, Group: r.Group, TurnedOnline: r.turned, Reported: r.reported,
				Desired: r.Desired, GroupDesired: r.GroupDesired,
			})
		}
	}
	chunk := b.g.chunk()
	for len(dirty) > 0 {
		n := min(len(dirty), chunk)
		args := make([]any, 0, n*29)
		for _, r := range dirty[:n] {
			args = append(args, r.values()...)
		}
		dirty = dirty[n:]
		query := upsertQuery(n)
		if _, err := tx.ExecContext(ctx, b.g.q(query), args...); err != nil {
			return fmt.Errorf("store boxes: %w", err)
		}
	}
	for rest := b.history; len(rest) > 0; {
		n := min(len(rest), 200)
		args := make([]any, 0, n*4)
		for _, h := range rest[:n] {
			args = append(args, h.box, h.at, h.kind, h.text)
		}
		rest = rest[n:]
		query := "INSERT INTO history (box, at, kind, text) VALUES " + strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?),", n), ",")
		if _, err := tx.ExecContext(ctx, b.g.q(query), args...); err != nil {
			return fmt.Errorf("store history: %w", err)
		}
	}
	return b.storeArrivals(ctx, tx)
}
