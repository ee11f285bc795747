package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"boxd/internal/asset"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxTorrentsBytes bounds the .torrent files of one box together.
const maxTorrentsBytes = 64 << 20

// signedAt is the key of timestamp.json that says when it was signed.
const signedAt = "boxd_signed_at"

// assembler reads a Snapshot out of verified metadata.
type assembler struct {
	t      *trust
	groups []string
	boxID  string
	now    time.Time // publishers whose role has expired by now are left out
	prev   *Snapshot // to reuse assets that have not changed
	// getTarget returns bytes that have the length and hash of tf.
	getTarget func(path string, tf *metadata.TargetFiles) ([]byte, error)
	sums      map[string]string // path → SHA-256 of the targets that were read
	torrents  int64
}

func (a *assembler) run() (*Snapshot, error) {
	s := &Snapshot{Groups: a.groups, Assets: map[asset.ID]*Asset{}}
	tm := a.t.tm
	s.Version = tm.Timestamp.Signed.Version
	if _, err := a.t.load(metadata.TARGETS, metadata.ROOT); err != nil {
		return nil, err
	}
	if err := a.fleet(s); err != nil {
		return nil, err
	}
	for _, g := range a.groups {
		if err := a.group(s, g); err != nil {
			return nil, err
		}
	}
	for i := range s.Campaigns {
		c := &s.Campaigns[i]
		c.Assets = slices.DeleteFunc(c.Assets, func(r AssetRef) bool { return slices.Contains(s.Withdrawn, r.ID) })
		for _, ref := range c.Assets {
			if err := a.asset(s, ref); err != nil {
				return nil, err
			}
		}
	}
	a.times(s)
	return s, nil
}

// file reads one target; nil without an error if nobody has signed it.
func (a *assembler) file(path string, limit int64) ([]byte, error) {
	tf, expires, err := a.t.lookup(path)
	if err != nil || tf == nil {
		return nil, err
	}
	if strings.HasPrefix(path, "assets/") && a.now.After(expires) {
		return nil, &beliefError{fail(CodeExpired, "target "+path, fmt.Errorf("its publisher's role expired on %s", expires))}
	}
	if tf.Length > limit {
		return nil, fail(CodeInvalid, "target "+path, fmt.Errorf("%d bytes, more than %d", tf.Length, limit))
	}
	b, err := a.getTarget(path, tf)
	if err != nil {
		return nil, err
	}
	if err := guard("target "+path, func() error { return tf.VerifyLengthHashes(b) }); err != nil {
		return nil, err
	}
	a.sums[path] = sumHex(b)
	return b, nil
}

// fleet reads what concerns every box.
func (a *assembler) fleet(s *Snapshot) error {
	parts := []struct {
		path  string
		parse func([]byte) error
	}{
		{RevocationsPath, func(b []byte) error {
			f, err := ParseRevocations(b)
			if err == nil {
				s.Revoked = f.Serials
			}
			return err
		}},
		{OperationsPath, func(b []byte) (err error) {
			s.OperationsKeys, err = ParseOperations(b)
			return err
		}},
		{WithdrawnPath, func(b []byte) (err error) {
			s.Withdrawn, err = ParseWithdrawn(b)
			return err
		}},
	}
	for _, p := range parts {
		b, err := a.file(p.path, MaxFleetBytes)
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		if err := p.parse(b); err != nil {
			return fail(CodeInvalid, "target "+p.path, err)
		}
	}
	return nil
}

func (a *assembler) group(s *Snapshot, group string) error {
	if !ValidName(group) {
		return nil // a certificate may name a group that no campaign can
	}
	path := GroupPath(group)
	b, err := a.file(path, MaxGroupBytes)
	if err != nil || b == nil {
		return err
	}
	g, err := ParseGroup(b)
	if err == nil && g.Group != group {
		err = fmt.Errorf("it is for group %s", g.Group)
	}
	if err != nil {
		return fail(CodeInvalid, "target "+path, err)
	}
	for _, id := range g.Newer {
		s.Rejected = append(s.Rejected, Rejected{
			Path: path, Reason: fmt.Sprintf("campaign %.60q is in a later format than this boxd reads; update boxd", id),
		})
	}
	for _, c := range g.Campaigns {
		if a.boxID == "" || c.Includes(a.boxID, a.groups) {
			s.Campaigns = append(s.Campaigns, c)
		}
	}
	return nil
}

// asset adds one asset. What is wrong with the asset or its publisher alone is written to Rejected; what means that the
// repository is not whole is an error.
func (a *assembler) asset(s *Snapshot, ref AssetRef) error {
	if have := s.Assets[ref.ID]; have != nil {
		return nil
	}
	reject := func(err error) error {
		s.Rejected = append(s.Rejected, Rejected{ID: ref.ID, Path: ref.Path, Reason: err.Error()})
		return nil
	}
	b, err := a.file(ref.Path, asset.MaxTorrentBytes)
	if isBelief(err) {
		return reject(err)
	}
	if err != nil {
		return err
	}
	if b == nil {
		return reject(errors.New("no publisher has signed it"))
	}
	if old := a.prev.Assets[ref.ID]; old != nil && old.Path == ref.Path && old.sum == a.sums[ref.Path] {
		s.Assets[ref.ID] = old
		return nil
	}
	if a.torrents += int64(len(b)); a.torrents > maxTorrentsBytes {
		return reject(fmt.Errorf("the .torrent files of this box's campaigns have more than %d bytes", maxTorrentsBytes))
	}
	as, err := newAsset(ref, b)
	if err != nil {
		return reject(err)
	}
	as.sum = a.sums[ref.Path]
	s.Assets[ref.ID] = as
	return nil
}

func newAsset(ref AssetRef, torrent []byte) (*Asset, error) {
	in, err := asset.ParseTorrent(torrent)
	if err != nil {
		return nil, err
	}
	if in.ID != ref.ID {
		return nil, fmt.Errorf("the .torrent's infohash is %s, not what was signed", in.ID)
	}
	x, err := asset.ParseExtra(torrent)
	if err != nil {
		return nil, err
	}
	as := &Asset{
		Info: in, Torrent: torrent, Path: ref.Path, Name: x.Title, Version: x.Version,
		Publisher: ref.Publisher(), Types: x.Types, SHA256: x.SHA256,
	}
	if as.Name == "" {
		as.Name = in.Name
	}
	return as, nil
}

// times finds when the snapshot expires and when it was signed.
func (a *assembler) times(s *Snapshot) {
	tm := a.t.tm
	s.Expires = tm.Root.Signed.Expires
	earlier := func(t time.Time) {
		if t.Before(s.Expires) {
			s.Expires = t
		}
	}
	earlier(tm.Timestamp.Signed.Expires)
	earlier(tm.Snapshot.Signed.Expires)
	for _, role := range []string{metadata.TARGETS, "campaigns", "revocations"} {
		if m := tm.Targets[role]; m != nil {
			earlier(m.Signed.Expires)
		}
	}
	if v, ok := tm.Timestamp.Signed.UnrecognizedFields[signedAt].(string); ok {
		// Not later than any role's expiry: a stolen timestamp key cannot drive the floor beyond what the root allows.
		if at, err := time.Parse(time.RFC3339, v); err == nil && !at.After(s.Expires) {
			s.SignedAt = at
		}
	}
}
