package catalog

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"boxd/internal/asset"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// load is Open's part: the last good catalog, verified again from what is on disk. Nothing counts as expired here, as an
// expired catalog still tells what is to be kept and played; Fresh says no.
func (c *Catalog) load() error {
	b, err := c.store.read()
	if err != nil {
		c.log.Warn("stored catalog cannot be read; starting from the firmware's root", "error", err)
		if err := c.store.setAside(); err != nil {
			return err
		}
		b = bundle{}
	}
	if b.Roots, err = chain(c.opt.Root, b.Roots); err != nil {
		c.log.Warn("stored catalog was signed under another root; starting from the firmware's", "error", err)
		b = bundle{Roots: [][]byte{c.opt.Root}}
	}
	c.bundle = b
	if b.Good == nil {
		return nil
	}
	s, err := c.verifyStored(b)
	if err != nil {
		c.log.Warn("stored catalog does not verify; it is fetched again", "error", err)
		c.bundle.Good = nil
		return nil
	}
	c.publish(s)
	c.judge(s, nil)
	return nil
}

// chain links stored roots to the firmware's: a firmware that knows a newer root cuts off what came before.
func chain(firmware []byte, stored [][]byte) ([][]byte, error) {
	if len(stored) == 0 {
		return [][]byte{firmware}, nil
	}
	t, err := newTrust([][]byte{firmware}, time.Time{})
	if err != nil {
		return nil, err
	}
	base := t.tm.Root.Signed.Version
	roots := [][]byte{firmware}
	for _, b := range stored {
		var v int64
		err := guard("stored root", func() error {
			m, err := metadata.Root().FromBytes(b)
			if err == nil {
				v = m.Signed.Version
			}
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case v < base: // the firmware has moved past it
		case v == base:
			if !slices.Equal(b, firmware) {
				return nil, fmt.Errorf("root version %d is not the firmware's", v)
			}
		default:
			if err := t.addRoot(b); err != nil {
				return nil, err
			}
			roots = append(roots, b)
		}
	}
	return roots, nil
}

func (c *Catalog) verifyStored(b bundle) (*Snapshot, error) {
	t, err := newTrust(b.Roots, time.Time{})
	if err != nil {
		return nil, err
	}
	if _, err := t.setTimestamp(b.Good.Timestamp); err != nil {
		return nil, err
	}
	if _, err := t.snapshotRef(); err != nil {
		return nil, err
	}
	if err := t.setSnapshot(b.Good.Snapshot); err != nil {
		return nil, err
	}
	t.getRole = func(role string, _ *metadata.MetaFiles) ([]byte, error) {
		if raw, ok := b.Good.Roles[role]; ok {
			return raw, nil
		}
		return nil, fail(CodeStore, "stored role "+role, errors.New("missing"))
	}
	now, _ := c.opt.Now()
	a := &assembler{
		t: t, groups: b.Good.Groups, boxID: b.Good.BoxID, now: now, prev: c.Snapshot(), sums: map[string]string{},
		getTarget: func(path string, tf *metadata.TargetFiles) ([]byte, error) {
			raw, err := c.store.target(fmt.Sprintf("%x", []byte(tf.Hashes["sha256"])), max(asset.MaxTorrentBytes, MaxFleetBytes))
			if err != nil {
				return nil, fail(CodeStore, "stored target "+path, err)
			}
			return raw, nil
		},
	}
	return a.run()
}
