package ca

import (
	"context"
	"fmt"
)

// pruneStep bounds how long one change of Prune keeps the ledger.
const pruneStep = 500

// Prune forgets certificates that ended so long ago that no box believes them whatever its clock says, with their keys
// and revocations, and returns how many. Boxes and tokens stay: an id is never issued twice.
func (c *CA) Prune(ctx context.Context) (int, error) {
	end := c.opts.Now().Add(-keepRevoked)
	old := map[string]bool{}
	type entry struct{ table, key string }
	var gone []entry
	err := c.opts.Store.View(ctx, func(tx Tx) error {
		clear(old)
		gone = gone[:0]
		var certs []entry
		err := eachJSON(tx, TableCerts, func(r Cert) error {
			if r.Expires.Before(end) {
				old[r.Serial] = true
				certs = append(certs, entry{TableCerts, r.Serial})
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = eachJSON(tx, TableRevoked, func(r Revocation) error {
			if r.Expires.Before(end) {
				gone = append(gone, entry{TableRevoked, r.Serial})
			}
			return nil
		})
		if err != nil || len(old) == 0 {
			return err
		}
		err = tx.Each(TableKeys, "", func(key string, serial []byte) error {
			if old[string(serial)] {
				gone = append(gone, entry{TableKeys, key})
			}
			return nil
		})
		gone = append(gone, certs...) // last: what a cut leaves is found again by its certificate
		return err
	})
	for rest := gone; len(rest) > 0 && err == nil; {
		n := min(len(rest), pruneStep)
		err = c.opts.Store.Update(ctx, func(tx Tx) error {
			for _, e := range rest[:n] {
				if err := tx.Delete(e.table, e.key); err != nil {
					return err
				}
			}
			return nil
		})
		rest = rest[n:]
	}
	if err != nil {
		return 0, fmt.Errorf("prune the ledger: %w", err)
	}
	return len(old), nil
}
