// Package registry is the fleet manager's store that can be queried: boxes, what they report and prove, commands,
// alerts, audit, and small documents. SQLite by default, PostgreSQL when several fleetd share it.
//
// Invariants: what Ingest returned acknowledgements for is committed durably; a proof is counted once per (box, epoch,
// outbox number) and once per (box, asset, kind, time), however often it is delivered; an older message never
// overwrites a newer one of the same epoch; one box writes a bounded number of proofs and lines of history in a day. All state of
// fleetd that matters is here, in NATS or in static files.
package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the PostgreSQL driver
	_ "modernc.org/sqlite"             // the SQLite driver, in pure Go

	"boxd/internal/mqttwire"
)

// Options configures a Registry.
type Options struct {
	Path string // of the SQLite file
	URL  string // postgres://…; used instead of Path when set
	Now  func() time.Time
	Log  *slog.Logger

	DBClock bool // leases go by PostgreSQL's clock: those of the machines that share it may differ
}

// Registry is the store. Its methods may be called from any goroutine.
type Registry struct {
	w    *sql.DB // one connection for SQLite, since it has one writer
	r    *sql.DB
	pg   bool
	file string // SQLite's, with its pragmas
	now  func() time.Time
	log  *slog.Logger

	dbClock bool

	spent spent // by boxes
	judge atomic.Pointer[func(*mqttwire.Event) bool]

	ledger group // concurrent changes of the certificate authority's ledger; SQLite only
}

// ErrNotFound is returned for what is not there.
var ErrNotFound = errors.New("not found")

// Open opens or makes the store and brings its schema up to date.
func Open(ctx context.Context, o Options) (*Registry, error) {
	reg := &Registry{now: o.Now, log: o.Log, pg: o.URL != "", dbClock: o.DBClock && o.URL != ""}
	if reg.now == nil {
		reg.now = time.Now
	}
	if reg.log == nil {
		reg.log = slog.New(slog.DiscardHandler)
	}
	if err := reg.connect(o); err != nil {
		return nil, err
	}
	if err := reg.migrate(ctx); err != nil {
		_ = reg.Close()
		return nil, err
	}
	return reg, nil
}

func (g *Registry) connect(o Options) error {
	if g.pg {
		db, err := sql.Open("pgx", o.URL)
		if err != nil {
			return fmt.Errorf("open database: %w", err)
		}
		db.SetMaxOpenConns(16)
		db.SetMaxIdleConns(8)
		db.SetConnMaxLifetime(30 * time.Minute)
		g.w, g.r = db, db
		return nil
	}
	// synchronous FULL: an acknowledged proof survives the machine's power loss.
	pragmas := "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(0)&_pragma=cache_size(-32768)&_pragma=wal_autocheckpoint(4000)"
	path := "file:" + filepath.ToSlash(o.Path) + pragmas
	g.file = path
	w, err := sql.Open("sqlite", path+"&_txlock=immediate")
	if err != nil {
		return fmt.Errorf("open %s: %w", o.Path, err)
	}
	w.SetMaxOpenConns(1)
	r, err := sql.Open("sqlite", path+"&_pragma=query_only(1)")
	if err != nil {
		_ = w.Close()
		return fmt.Errorf("open %s: %w", o.Path, err)
	}
	r.SetMaxOpenConns(4)
	g.w, g.r = w, r
	return nil
}

// Close closes the store.
func (g *Registry) Close() error {
	err := g.w.Close()
	if g.r != g.w {
		err = errors.Join(err, g.r.Close())
	}
	return err
}

// Judge makes Ingest ask before it believes a proof: judge corrects what a box says of an asset, and reports whether
// it knows it. It must not block.
func (g *Registry) Judge(judge func(*mqttwire.Event) (known bool)) { g.judge.Store(&judge) }

// Postgres reports whether the store is PostgreSQL.
func (g *Registry) Postgres() bool { return g.pg }

// Ping reports whether the store answers.
func (g *Registry) Ping(ctx context.Context) error {
	var one int
	if err := g.r.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}

// q turns the ? of a query into PostgreSQL's $1, $2, … where needed. Queries here have no ? in literals.
func (g *Registry) q(query string) string {
	if !g.pg {
		return query
	}
	var b strings.Builder
	n := 0
	for _, c := range []byte(query) {
		if c == '?' {
			n++
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// update runs fn in one transaction, again when it met a conflict with another fleetd.
func (g *Registry) update(ctx context.Context, serializable bool, fn func(*sql.Tx) error) error {
	opts := &sql.TxOptions{}
	if serializable && g.pg {
		opts.Isolation = sql.LevelSerializable
	}
	for attempt := 0; ; attempt++ {
		err := g.once(ctx, opts, fn)
		if err == nil || attempt >= 8 || !conflict(err) || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Duration(attempt+1) * 5 * time.Millisecond)
	}
}

func (g *Registry) once(ctx context.Context, opts *sql.TxOptions, fn func(*sql.Tx) error) error {
	tx, err := g.w.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// conflict reports serialisation failures and deadlocks (PostgreSQL, appendix A, class 40) and a unique key that two
// transactions made at once.
func conflict(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (pe.Code == "40001" || pe.Code == "40P01" || pe.Code == "23505")
}

// dataFault reports that the database refuses a value whenever it comes (PostgreSQL, appendix A, classes 21, 22, 23 and
// 54), or that the driver cannot write it in the column's type.
func dataFault(err error) bool {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return len(pe.Code) == 5 && pe.Code != "23505" && slices.Contains([]string{"21", "22", "23", "54"}, pe.Code[:2])
	}
	return err != nil && strings.Contains(err.Error(), "failed to encode args")
}

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMS(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}

func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

// Snapshot writes a consistent copy of an SQLite store while it is in use.
func (g *Registry) Snapshot(ctx context.Context, path string) error {
	if g.pg {
		return errors.New("snapshot: only for SQLite")
	}
	// On a connection of its own: it reads for as long as it takes, and nobody waits to write meanwhile.
	db, err := sql.Open("sqlite", g.file)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if _, err = db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		err = fmt.Errorf("snapshot: %w", err)
	}
	return errors.Join(err, db.Close())
}
