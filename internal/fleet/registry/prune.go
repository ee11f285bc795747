package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// pruneStep bounds how long a transaction of Prune keeps the writer.
const pruneStep = 2000

// Keep says since when each kind of record is kept. A zero time keeps all of it.
type Keep struct {
	History  time.Time // lines of boxes' histories
	Commands time.Time // commands that expired before then, with their answers
	Minutes  time.Time // arrivals by the minute; older ones are kept by the hour
}

// Prune forgets what is older than is to be kept. Proofs and the audit log stay.
func (g *Registry) Prune(ctx context.Context, k Keep) error {
	// In the order of their numbers, which is that of their times: there is no index by time to be kept up with each line.
	// What lies far ahead is passed over: either a clock was wrong then, or it is wrong now, and then those lines are right.
	err := g.steps(ctx, k.History, "DELETE FROM history WHERE at < ? AND seq IN (SELECT seq FROM history WHERE at <= "+
		strconv.FormatInt(ms(g.now())+farAhead, 10)+" ORDER BY seq LIMIT ?)")
	if err != nil {
		return fmt.Errorf("prune history: %w", err)
	}
	if err := g.steps(ctx, k.Commands, "DELETE FROM command_boxes WHERE (box, id) IN "+
		"(SELECT b.box, b.id FROM command_boxes b JOIN commands c ON c.id = b.id WHERE c.expires < ? LIMIT ?)"); err != nil {
		return fmt.Errorf("prune answers: %w", err)
	}
	if err := g.steps(ctx, k.Commands, "DELETE FROM commands WHERE id IN (SELECT id FROM commands WHERE expires < ? LIMIT ?)"); err != nil {
		return fmt.Errorf("prune commands: %w", err)
	}
	return g.foldArrivals(ctx, k.Minutes)
}

// steps runs a statement that takes a time and a limit until it finds nothing more.
func (g *Registry) steps(ctx context.Context, before time.Time, query string) error {
	if before.IsZero() {
		return nil
	}
	for {
		var n int64
		err := g.update(ctx, false, func(tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, g.q(query), ms(before), pruneStep)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if err != nil || n == 0 {
			return err
		}
	}
}

// foldArrivals adds the minutes of each hour that is older together.
func (g *Registry) foldArrivals(ctx context.Context, before time.Time) error {
	if before.IsZero() {
		return nil
	}
	until := ms(before) / 60_000 / 60 * 60 // whole hours only
	for {
		var hour int64
		err := g.r.QueryRowContext(ctx, g.q("SELECT minute FROM arrivals WHERE minute < ? AND minute % 60 <> 0 LIMIT 1"), until).
			Scan(&hour)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fold arrivals: %w", err)
		}
		hour = hour / 60 * 60
		// Of two at once one begins again: what the first has folded must not be added again.
		err = g.update(ctx, true, func(tx *sql.Tx) error {
			counts := []string{"n", "length", "lan", "peer", "origin"}
			_, err := tx.ExecContext(ctx, g.q("INSERT INTO arrivals (asset, grp, minute, n, length, lan, peer, origin) "+
				"SELECT asset, grp, CAST(? AS BIGINT), "+g.sums(counts...)+" FROM arrivals WHERE minute > ? AND minute < ? GROUP BY asset, grp "+
				"ON CONFLICT (asset, grp, minute) DO UPDATE SET "+g.addUp("arrivals", counts...)),
				hour, hour, hour+60)
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, g.q("DELETE FROM arrivals WHERE minute > ? AND minute < ?"), hour, hour+60)
			return err
		})
		if err != nil {
			return fmt.Errorf("fold arrivals: %w", err)
		}
	}
}
