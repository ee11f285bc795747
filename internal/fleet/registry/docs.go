package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"boxd/internal/fleet/ca"
)

// CA returns the certificate authority's ledger within this store.
func (g *Registry) CA() ca.Store { return caStore{g} }

type caStore struct{ g *Registry }

// Update waits for its place in a common transaction when others are at it: a thousand boxes that enrol at once cost a
// few syncs of the disk, not a thousand.
func (s caStore) Update(ctx context.Context, fn func(ca.Tx) error) error {
	if s.g.pg {
		return s.g.update(ctx, true, func(tx *sql.Tx) error { return fn(caTx{ctx, s.g, tx}) })
	}
	return s.g.ledger.do(ctx, s.g, fn)
}

// View reads in the writer's transaction: it must see what an Update just before it did, on any fleetd.
func (s caStore) View(ctx context.Context, fn func(ca.Tx) error) error {
	tx, err := s.g.r.BeginTx(ctx, &sql.TxOptions{ReadOnly: s.g.pg})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	return fn(caTx{ctx, s.g, tx})
}

type caTx struct {
	ctx context.Context //nolint:containedctx // lives as long as the call that made it
	g   *Registry
	tx  *sql.Tx
}

func (t caTx) Get(table, key string) ([]byte, error) {
	var v []byte
	err := t.tx.QueryRowContext(t.ctx, t.g.q("SELECT v FROM kv WHERE tbl = ? AND k = ?"), table, key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", table, key, err)
	}
	return v, nil
}

func (t caTx) Put(table, key string, val []byte) error {
	_, err := t.tx.ExecContext(t.ctx, t.g.q(
		"INSERT INTO kv (tbl, k, v) VALUES (?, ?, ?) ON CONFLICT (tbl, k) DO UPDATE SET v = excluded.v"), table, key, val)
	if err != nil {
		return fmt.Errorf("write %s %s: %w", table, key, err)
	}
	return nil
}

func (t caTx) Delete(table, key string) error {
	if _, err := t.tx.ExecContext(t.ctx, t.g.q("DELETE FROM kv WHERE tbl = ? AND k = ?"), table, key); err != nil {
		return fmt.Errorf("delete %s %s: %w", table, key, err)
	}
	return nil
}

func (t caTx) Each(table, prefix string, fn func(key string, val []byte) error) error {
	rows, err := t.tx.QueryContext(t.ctx, t.g.q("SELECT k, v FROM kv WHERE tbl = ? AND k >= ? ORDER BY k"), table, prefix)
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	defer rows.Close()
	for rows.Next() {
		var k string
		var v []byte
		if err := rows.Scan(&k, &v); err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		if !strings.HasPrefix(k, prefix) {
			if t.g.pg { // it may sort as a language does, where others come in between
				continue
			}
			break
		}
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return rows.Err()
}

// PutDoc stores a small JSON document.
func (g *Registry) PutDoc(ctx context.Context, table, key string, doc any) error {
	data, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", table, key, err)
	}
	return g.update(ctx, false, func(tx *sql.Tx) error { return caTx{ctx, g, tx}.Put(table, key, data) })
}

// PutDocs stores documents by key, all of them or none.
func PutDocs[T any](ctx context.Context, g *Registry, table string, docs map[string]T) error {
	if len(docs) == 0 {
		return nil
	}
	return g.update(ctx, false, func(tx *sql.Tx) error {
		for _, key := range slices.Sorted(maps.Keys(docs)) { // one order for all fleetd: no deadlocks
			data, err := json.Marshal(docs[key])
			if err != nil {
				return fmt.Errorf("encode %s %s: %w", table, key, err)
			}
			if err := (caTx{ctx, g, tx}).Put(table, key, data); err != nil {
				return err
			}
		}
		return nil
	})
}

// EditDoc reads, changes and writes a document in one transaction. edit gets the zero value when there is none.
func EditDoc[T any](ctx context.Context, g *Registry, table, key string, edit func(*T) error) error {
	return g.update(ctx, true, func(tx *sql.Tx) error {
		t := caTx{ctx, g, tx}
		old, err := t.Get(table, key)
		if err != nil {
			return err
		}
		var doc T
		if old != nil {
			if err := json.Unmarshal(old, &doc); err != nil {
				return fmt.Errorf("read %s %s: %w", table, key, err)
			}
		}
		if err := edit(&doc); err != nil {
			return err
		}
		data, err := json.Marshal(doc)
		if err != nil {
			return fmt.Errorf("encode %s %s: %w", table, key, err)
		}
		return t.Put(table, key, data)
	})
}

// GetDoc reads a document; ErrNotFound when there is none.
func GetDoc[T any](ctx context.Context, g *Registry, table, key string) (T, error) {
	var doc T
	var v []byte
	err := g.r.QueryRowContext(ctx, g.q("SELECT v FROM kv WHERE tbl = ? AND k = ?"), table, key).Scan(&v)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return doc, fmt.Errorf("%s %q: %w", table, key, ErrNotFound)
	case err != nil:
		return doc, fmt.Errorf("read %s %s: %w", table, key, err)
	}
	if err := json.Unmarshal(v, &doc); err != nil {
		return doc, fmt.Errorf("read %s %s: %w", table, key, err)
	}
	return doc, nil
}

// ListDocs reads all documents of a table in the order of their keys.
func ListDocs[T any](ctx context.Context, g *Registry, table string) ([]T, error) {
	rows, err := g.r.QueryContext(ctx, g.q("SELECT v FROM kv WHERE tbl = ? ORDER BY k"), table)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", table, err)
	}
	defer rows.Close()
	list := []T{}
	for rows.Next() {
		var v []byte
		var doc T
		if err := rows.Scan(&v); err != nil {
			return nil, fmt.Errorf("read %s: %w", table, err)
		}
		if err := json.Unmarshal(v, &doc); err != nil {
			return nil, fmt.Errorf("read %s: %w", table, err)
		}
		list = append(list, doc)
	}
	return list, rows.Err()
}

// DeleteDoc removes a document; one that is not there is no error.
func (g *Registry) DeleteDoc(ctx context.Context, table, key string) error {
	return g.update(ctx, false, func(tx *sql.Tx) error { return caTx{ctx, g, tx}.Delete(table, key) })
}

// AuditEntry is one thing that somebody did.
type AuditEntry struct {
	Seq    int64     `json:"seq"`
	At     time.Time `json:"at"`
	Who    string    `json:"who"`
	Action string    `json:"action"`
	Object string    `json:"object"`
	Detail string    `json:"detail,omitempty"`
}

// Audit notes what somebody did. It is append-only: nothing here deletes from it.
func (g *Registry) Audit(ctx context.Context, who, action, object, detail string) error {
	return g.update(ctx, false, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, g.q("INSERT INTO audit (at, who, action, object, detail) VALUES (?, ?, ?, ?, ?)"),
			ms(g.now()), who, action, object, detail)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		return nil
	})
}

// AuditLog returns the newest entries before seq (0 for the end), newest first.
func (g *Registry) AuditLog(ctx context.Context, before int64, limit int) ([]AuditEntry, error) {
	if before <= 0 {
		before = 1 << 62
	}
	rows, err := g.r.QueryContext(ctx, g.q(
		"SELECT seq, at, who, action, object, detail FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?"), before, limit)
	if err != nil {
		return nil, fmt.Errorf("read audit: %w", err)
	}
	defer rows.Close()
	list := []AuditEntry{}
	for rows.Next() {
		var e AuditEntry
		var at int64
		if err := rows.Scan(&e.Seq, &at, &e.Who, &e.Action, &e.Object, &e.Detail); err != nil {
			return nil, fmt.Errorf("read audit: %w", err)
		}
		e.At = fromMS(at)
		list = append(list, e)
	}
	return list, rows.Err()
}

// Lease takes or keeps a lease and returns its fence, which grows with each new holder. ok is false while another
// fleetd holds it. One that ends in a far future was taken by a
// clock that was wrong.
func (g *Registry) Lease(ctx context.Context, name, holder string, ttl time.Duration) (fence int64, ok bool, err error) {
	err = g.update(ctx, true, func(tx *sql.Tx) error {
		now := ms(g.now())
		if g.dbClock {
			err := tx.QueryRowContext(ctx, "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)").Scan(&now)
			if err != nil {
				return fmt.Errorf("lease %s: %w", name, err)
			}
		}
		var who string
		var until int64
		ok = false
		err := tx.QueryRowContext(ctx, g.q("SELECT holder, fence, until FROM leases WHERE name = ?"), name).
			Scan(&who, &fence, &until)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return fmt.Errorf("lease %s: %w", name, err)
		case who != holder && until > now && until < now+10*ttl.Milliseconds():
			return nil
		}
		if who != holder {
			fence++
		}
		ok = true
		_, err = tx.ExecContext(ctx, g.q("INSERT INTO leases (name, holder, fence, until) VALUES (?, ?, ?, ?) "+
			"ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = excluded.fence, until = excluded.until"),
			name, holder, fence, now+ttl.Milliseconds())
		if err != nil {
			return fmt.Errorf("lease %s: %w", name, err)
		}
		return nil
	})
	return fence, ok, err
}
