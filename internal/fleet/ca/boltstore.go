package ca

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

const batchDelay = 2 * time.Millisecond

// BoltStore is a ledger in one file, for a fleet manager on one machine and for tests.
type BoltStore struct{ db *bbolt.DB }

// OpenStore opens the ledger file, or makes it. It fails after 5 s when another process has it.
func OpenStore(path string) (*BoltStore, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range Tables() {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = db.Close() // the first error says it all
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	db.MaxBatchDelay = batchDelay
	return &BoltStore{db}, nil
}

// Close closes the file.
func (s *BoltStore) Close() error { return s.db.Close() }

// Update implements Store. What several goroutines do at once is synced to disk as one.
func (s *BoltStore) Update(ctx context.Context, fn func(Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.Batch(func(tx *bbolt.Tx) error { return fn(boltTx{tx}) })
}

// View implements Store.
func (s *BoltStore) View(ctx context.Context, fn func(Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.View(func(tx *bbolt.Tx) error { return fn(boltTx{tx}) })
}

type boltTx struct{ tx *bbolt.Tx }

func (t boltTx) bucket(table string) (*bbolt.Bucket, error) {
	if b := t.tx.Bucket([]byte(table)); b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("ledger: no table %q", table)
}

func (t boltTx) Get(table, key string) ([]byte, error) {
	b, err := t.bucket(table)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(b.Get([]byte(key))), nil
}

func (t boltTx) Put(table, key string, val []byte) error {
	b, err := t.bucket(table)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), val)
}

func (t boltTx) Delete(table, key string) error {
	b, err := t.bucket(table)
	if err != nil {
		return err
	}
	return b.Delete([]byte(key))
}

func (t boltTx) Each(table, prefix string, fn func(key string, val []byte) error) error {
	b, err := t.bucket(table)
	if err != nil {
		return err
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		if err := fn(string(k), bytes.Clone(v)); err != nil {
			return err
		}
	}
	return nil
}
