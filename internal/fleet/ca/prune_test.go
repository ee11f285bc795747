package ca_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/identity/identitytest"
)

// watched notes from which tables something is deleted, in order.
type watched struct {
	ca.Store
	deleted *[]string
}

func (w watched) Update(ctx context.Context, fn func(ca.Tx) error) error {
	return w.Store.Update(ctx, func(tx ca.Tx) error { return fn(watchedTx{tx, w.deleted}) })
}

type watchedTx struct {
	ca.Tx
	deleted *[]string
}

func (w watchedTx) Delete(table, key string) error {
	*w.deleted = append(*w.deleted, table)
	return w.Tx.Delete(table, key)
}

// A prune that is cut off leaves certificates, by which the next one finds what belongs to them.
func TestCertificatesAreForgottenLast(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	store, err := ca.OpenStore(filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	var deleted []string
	f := identitytest.New(t, func(o *ca.Options) {
		o.Now, o.Store = func() time.Time { return now }, watched{store, &deleted}
	})
	for range 3 {
		if _, err := f.CA.Enroll(t.Context(), f.Token(ca.TokenSpec{Group: "north"}), "", csr(t, newKey(t))); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(10 * 365 * day)
	deleted = nil
	if n, err := f.CA.Prune(t.Context()); err != nil || n != 3 {
		t.Fatal(n, err)
	}
	first := slices.Index(deleted, ca.TableCerts)
	if len(deleted) != 6 || first != 3 {
		t.Errorf("deleted in the order %v", deleted)
	}
}
