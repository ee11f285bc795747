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
	ID                      string
	FirstSeen, LastSeen     int64
	SID, Seq, Skew          int64
	DiskUsed, DiskFree      int64
	LAN, Peer, Origin       int64
	Reported                []byte // nil: as it was; load leaves it out
	ReportedAt              int64
	cold                    // what few reports change
	was                     cold
	known                   bool
	dirty, turned, reported bool
}

type cold struct {
	Group                        string
	Online                       int
	OnlineSince                  int64
	Epoch, Software              string
	Desired, GroupDesired        int64
	Catalog, DiskQuota           int64
	Holdings                     int
	Digest                       string
	Unfinished, AtRisk, Warnings int
	Codes, Sig                   string
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

// warmColumns are those that every report changes. Most reports change nothing else, and a statement costs by its columns.
const warmColumns = "id, first_seen, last_seen, sid, seq, clock_skew, disk_used, disk_free, lan, peer, origin, reported, " +
	"reported_at"

func (r *row) values(args []any) []any {
	return append(args, r.ID, r.Group, r.FirstSeen, r.LastSeen, r.Online, r.OnlineSince, r.Epoch, r.SID, r.Seq, r.Software,
		r.Desired, r.GroupDesired, r.Catalog, r.Skew, r.DiskUsed, r.DiskQuota, r.DiskFree, r.LAN, r.Peer,
		r.Origin, r.Holdings, r.Digest, r.Unfinished, r.AtRisk, r.Warnings, r.Codes, r.Sig, r.blob(), r.ReportedAt)
}

func (r *row) warmValues(args []any) []any {
	return append(args, r.ID, r.FirstSeen, r.LastSeen, r.SID, r.Seq, r.Skew, r.DiskUsed, r.DiskFree, r.LAN, r.Peer, r.Origin,
		r.blob(), r.ReportedAt)
}

// blob is NULL when there is no new report.
func (r *row) blob() any {
	if r.Reported == nil {
		return nil
	}
	return r.Reported
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
		query := "SELECT " + loadColumns + " FROM boxes WHERE id IN (" + marks(n) + ")"
		if b.g.pg {
			query += " ORDER BY id FOR UPDATE" // another fleetd may have the same box in its batch
		}
		rows, err := tx.QueryContext(ctx, b.g.q(query), args...)
		if err != nil {
			return fmt.Errorf("load boxes: %w", err)
		}
		var r row
		for fields := r.fields(); rows.Next(); {
			if err := rows.Scan(fields...); err != nil {
				_ = rows.Close()
				return fmt.Errorf("load boxes: %w", err)
			}
			r.was, r.known = r.cold, true
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

// loadColumns leaves the last report where it is.
var loadColumns = strings.Replace(rowColumns, " reported,", " NULL,", 1)

// upsert writes rows in statements of a few columns' worth.
type upsert struct {
	columns, set string
	values       func(r *row, args []any) []any
}

func newUpsert(columns string, values func(*row, []any) []any) upsert {
	var sets []string
	for _, c := range strings.Split(columns, ", ") {
		switch c {
		case "id", "grp", "first_seen": // what only enrolment sets
		case "reported":
			sets = append(sets, "reported = COALESCE(excluded.reported, boxes.reported)")
		default:
			sets = append(sets, c+" = excluded."+c)
		}
	}
	return upsert{columns, strings.Join(sets, ", "), values}
}

var (
	wholeRows = newUpsert(rowColumns, (*row).values)
	warmRows  = newUpsert(warmColumns, (*row).warmValues)
)

func (u upsert) query(rows int) string {
	one := "(" + marks(strings.Count(u.columns, ",")+1) + "),"
	return "INSERT INTO boxes (" + u.columns + ") VALUES " + strings.TrimSuffix(strings.Repeat(one, rows), ",") +
		" ON CONFLICT (id) DO UPDATE SET " + u.set
}

func (u upsert) store(ctx context.Context, tx *sql.Tx, g *Registry, rows []*row) error {
	var full string // of as many rows as go into one statement
	chunk := g.chunk()
	args := make([]any, 0, min(chunk, len(rows))*(strings.Count(u.columns, ",")+1))
	for len(rows) > 0 {
		n := min(len(rows), chunk)
		args = args[:0]
		for _, r := range rows[:n] {
			args = u.values(r, args)
		}
		rows = rows[n:]
		query := full
		if n < chunk || full == "" {
			query = g.q(u.query(n))
		}
		if n == chunk {
			full = query
		}
		if _, err := tx.ExecContext(ctx, query, args...); err != nil {
			return fmt.Errorf("store boxes: %w", err)
		}
	}
	return nil
}

func (b *batch) store(ctx context.Context, tx *sql.Tx, ids []string) error {
	var whole, warm []*row
	for _, id := range ids {
		r := b.rows[id]
		if !r.dirty {
			continue
		}
		if r.FirstSeen == 0 {
			r.FirstSeen = max(r.LastSeen, 1)
		}
		if r.known && r.cold == r.was {
			warm = append(warm, r)
		} else {
			whole = append(whole, r)
		}
		if r.turned || r.reported {
			b.out.Seen = append(b.out.Seen, Seen{
				Box: r.ID, Group: r.Group, TurnedOnline: r.turned, Reported: r.reported,
				Desired: r.Desired, GroupDesired: r.GroupDesired,
			})
		}
	}
	if err := wholeRows.store(ctx, tx, b.g, whole); err != nil {
		return err
	}
	if err := warmRows.store(ctx, tx, b.g, warm); err != nil {
		return err
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
