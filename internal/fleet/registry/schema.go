package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// migrations are applied in order; each is a list of statements. Times are milliseconds since 1970. BLOBTYPE and
// SERIAL stand for what the two databases call differently.
var migrations = [][]string{{
	`CREATE TABLE kv (tbl TEXT NOT NULL, k TEXT NOT NULL, v BLOBTYPE NOT NULL, PRIMARY KEY (tbl, k))`,
	`CREATE TABLE boxes (
		id TEXT PRIMARY KEY, grp TEXT NOT NULL DEFAULT '', first_seen BIGINT NOT NULL, last_seen BIGINT NOT NULL,
		online INTEGER NOT NULL DEFAULT 0, online_since BIGINT NOT NULL DEFAULT 0,
		epoch TEXT NOT NULL DEFAULT '', sid BIGINT NOT NULL DEFAULT 0, seq BIGINT NOT NULL DEFAULT 0,
		software TEXT NOT NULL DEFAULT '', desired BIGINT NOT NULL DEFAULT 0, group_desired BIGINT NOT NULL DEFAULT 0,
		catalog BIGINT NOT NULL DEFAULT 0, clock_skew BIGINT NOT NULL DEFAULT 0,
		disk_used BIGINT NOT NULL DEFAULT 0, disk_quota BIGINT NOT NULL DEFAULT 0, disk_free BIGINT NOT NULL DEFAULT 0,
		lan BIGINT NOT NULL DEFAULT 0, peer BIGINT NOT NULL DEFAULT 0, origin BIGINT NOT NULL DEFAULT 0,
		holdings INTEGER NOT NULL DEFAULT 0, digest TEXT NOT NULL DEFAULT '', unfinished INTEGER NOT NULL DEFAULT 0,
		at_risk INTEGER NOT NULL DEFAULT 0, warnings INTEGER NOT NULL DEFAULT 0,
		codes TEXT NOT NULL DEFAULT '', sig TEXT NOT NULL DEFAULT '', reported BLOBTYPE, reported_at BIGINT NOT NULL DEFAULT 0)`,
	`CREATE INDEX boxes_grp ON boxes (grp, id)`,
	`CREATE INDEX boxes_online ON boxes (online, last_seen)`,
	`CREATE TABLE proofs (
		box TEXT NOT NULL, epoch TEXT NOT NULL, evt BIGINT NOT NULL, kind TEXT NOT NULL, asset TEXT NOT NULL,
		name TEXT NOT NULL, publisher TEXT NOT NULL, campaign TEXT NOT NULL, length BIGINT NOT NULL,
		lan BIGINT NOT NULL, peer BIGINT NOT NULL, origin BIGINT NOT NULL, at BIGINT NOT NULL, trusted INTEGER NOT NULL,
		reason TEXT NOT NULL, received BIGINT NOT NULL, PRIMARY KEY (box, epoch, evt))`,
	`CREATE UNIQUE INDEX proofs_once ON proofs (box, asset, kind, at)`,
	`CREATE INDEX proofs_asset ON proofs (asset, kind, received)`,
	`CREATE INDEX proofs_publisher ON proofs (publisher, received)`,
	`CREATE TABLE holdings (box TEXT NOT NULL, asset TEXT NOT NULL, since BIGINT NOT NULL, PRIMARY KEY (asset, box))`,
	`CREATE INDEX holdings_box ON holdings (box)`,
	`CREATE TABLE progress (box TEXT NOT NULL, asset TEXT NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL,
		at_risk INTEGER NOT NULL, PRIMARY KEY (asset, box))`,
	`CREATE INDEX progress_box ON progress (box)`,
	`CREATE TABLE history (seq SERIAL, box TEXT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL)`,
	`CREATE INDEX history_box ON history (box, at)`,
	`CREATE TABLE alerts (box TEXT NOT NULL, code TEXT NOT NULL, severity TEXT NOT NULL, text TEXT NOT NULL,
		since BIGINT NOT NULL, PRIMARY KEY (box, code))`,
	`CREATE TABLE commands (id TEXT PRIMARY KEY, target TEXT NOT NULL, name TEXT NOT NULL, args TEXT NOT NULL,
		created BIGINT NOT NULL, expires BIGINT NOT NULL, who TEXT NOT NULL, boxes INTEGER NOT NULL)`,
	`CREATE TABLE command_boxes (id TEXT NOT NULL, box TEXT NOT NULL, status TEXT NOT NULL, code TEXT NOT NULL,
		text TEXT NOT NULL, data BLOBTYPE, at BIGINT NOT NULL, expires BIGINT NOT NULL, sent BIGINT NOT NULL,
		message BLOBTYPE, PRIMARY KEY (box, id))`,
	`CREATE INDEX command_open ON command_boxes (status, expires)`,
	`CREATE INDEX command_id ON command_boxes (id)`,
	`CREATE TABLE audit (seq SERIAL, at BIGINT NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, object TEXT NOT NULL,
		detail TEXT NOT NULL)`,
	`CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, fence BIGINT NOT NULL, until BIGINT NOT NULL)`,
}, {
	// What the dashboard counts, without a look at any row.
	`CREATE INDEX boxes_glance ON boxes (online, grp, software, at_risk, id)`,
	`CREATE INDEX alerts_code ON alerts (code, severity, since)`,
	// Arrivals by minute (since 1970) of each asset in each group; asset and group are empty for all of them together.
	`CREATE TABLE arrivals (asset TEXT NOT NULL, grp TEXT NOT NULL, minute BIGINT NOT NULL, n BIGINT NOT NULL,
		length BIGINT NOT NULL, lan BIGINT NOT NULL, peer BIGINT NOT NULL, origin BIGINT NOT NULL,
		PRIMARY KEY (asset, grp, minute))`,
	`INSERT INTO arrivals SELECT p.asset, COALESCE(b.grp, ''), p.received / 60000, COUNT(*), CAST(SUM(p.length) AS BIGINT),
		CAST(SUM(p.lan) AS BIGINT), CAST(SUM(p.peer) AS BIGINT), CAST(SUM(p.origin) AS BIGINT)
		FROM proofs p LEFT JOIN boxes b ON b.id = p.box WHERE p.kind = 'arrived'
		GROUP BY p.asset, COALESCE(b.grp, ''), p.received / 60000`,
	`INSERT INTO arrivals SELECT '', '', minute, CAST(SUM(n) AS BIGINT), CAST(SUM(length) AS BIGINT), CAST(SUM(lan) AS BIGINT),
		CAST(SUM(peer) AS BIGINT), CAST(SUM(origin) AS BIGINT) FROM arrivals GROUP BY minute`,
}, {
	// Pages of boxes in the order of their ids, however many match.
	`CREATE INDEX boxes_software ON boxes (software, id)`,
	`CREATE INDEX boxes_state ON boxes (online, id)`,
	`CREATE INDEX boxes_risk ON boxes (id) WHERE at_risk > 0`,
}, {
	// Exports of all proofs, page by page.
	`CREATE INDEX proofs_received ON proofs (received, box, evt, epoch)`,
}, {
	// How a campaign stands, and since when boxes are on or off, without a look at any row.
	`DROP INDEX boxes_glance`,
	`CREATE INDEX boxes_glance ON boxes (online, grp, software, at_risk, id, online_since)`,
}}

func (g *Registry) migrate(ctx context.Context) error {
	blob, serial := "BLOB", "INTEGER PRIMARY KEY AUTOINCREMENT"
	if g.pg {
		blob, serial = "BYTEA", "BIGSERIAL PRIMARY KEY"
	}
	return g.update(ctx, false, func(tx *sql.Tx) error {
		if g.pg { // two fleetd that start together
			if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock(7011501)"); err != nil {
				return fmt.Errorf("lock schema: %w", err)
			}
		}
		if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS schema_version (v INTEGER NOT NULL)"); err != nil {
			return fmt.Errorf("schema: %w", err)
		}
		var have int
		if err := tx.QueryRowContext(ctx, "SELECT COALESCE(MAX(v), 0) FROM schema_version").Scan(&have); err != nil {
			return fmt.Errorf("schema: %w", err)
		}
		if have > len(migrations) {
			return fmt.Errorf("the database has schema %d, this fleetd knows up to %d: run the newer one", have, len(migrations))
		}
		for i := have; i < len(migrations); i++ {
			for _, stmt := range migrations[i] {
				stmt = strings.NewReplacer("BLOBTYPE", blob, "SERIAL", serial).Replace(stmt)
				if _, err := tx.ExecContext(ctx, stmt); err != nil {
					return fmt.Errorf("schema %d: %.60s: %w", i+1, stmt, err)
				}
			}
			if _, err := tx.ExecContext(ctx, g.q("INSERT INTO schema_version (v) VALUES (?)"), i+1); err != nil {
				return fmt.Errorf("schema: %w", err)
			}
		}
		return nil
	})
}
