package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"boxd/internal/fleet/ca"
)

// group commits concurrent changes of the ledger together, each within a savepoint of its own, so that one which fails
// undoes only itself. Whoever finds nobody at work does the work for all who wait.
type group struct {
	mu      sync.Mutex // guards the fields below
	waiting []*groupCall
	busy    bool
}

type groupCall struct {
	fn   func(ca.Tx) error
	err  error
	done chan struct{}
}

// maxGroup bounds how many changes one commit holds.
const maxGroup = 256

func (q *group) do(ctx context.Context, g *Registry, fn func(ca.Tx) error) error {
	call := &groupCall{fn: fn, done: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, call)
	lead := !q.busy
	q.busy = true
	q.mu.Unlock()
	if lead {
		q.work(context.WithoutCancel(ctx), g) // the others' changes do not end with this one's context
	}
	<-call.done
	return call.err
}

func (q *group) work(ctx context.Context, g *Registry) {
	for {
		q.mu.Lock()
		n := min(len(q.waiting), maxGroup)
		if n == 0 {
			q.busy = false
			q.mu.Unlock()
			return
		}
		batch := q.waiting[:n:n]
		q.waiting = q.waiting[n:]
		q.mu.Unlock()
		err := g.update(ctx, false, func(tx *sql.Tx) error {
			for _, c := range batch {
				if err := savepoint(ctx, tx, func() error { return c.fn(caTx{ctx, g, tx}) }, &c.err); err != nil {
					return err
				}
			}
			return nil
		})
		for _, c := range batch {
			if err != nil { // nothing was committed
				c.err = err
			}
			close(c.done)
		}
	}
}

// savepoint runs fn and undoes what it did if it fails. The error that it returns is one of the database.
func savepoint(ctx context.Context, tx *sql.Tx, fn func() error, result *error) error {
	if _, err := tx.ExecContext(ctx, "SAVEPOINT one"); err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	if *result = fn(); *result != nil {
		if _, err := tx.ExecContext(ctx, "ROLLBACK TO one"); err != nil {
			return errors.Join(fmt.Errorf("roll back: %w", err), *result)
		}
	}
	if _, err := tx.ExecContext(ctx, "RELEASE one"); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}
