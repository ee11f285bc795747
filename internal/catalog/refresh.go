package catalog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// rootEvery is how often a newer root is asked for while the timestamp does not change.
const rootEvery = 24 * time.Hour

// maxFailedStores is after how many failed refreshes the targets that they stored are removed.
const maxFailedStores = 8

// Refresh fetches the catalog once. When it returns nil, Snapshot is the newest that the server has. When it returns an
// error, which is an *Error unless ctx ended, the last good one stays and a health warning says why.
func (c *Catalog) Refresh(ctx context.Context) error {
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	before := c.Snapshot()
	s, err := c.refresh(ctx)
	c.mu.Lock()
	c.stats.Refreshes++
	if err != nil {
		c.stats.Failures++
	}
	c.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.failures++
	} else {
		c.failures = 0
	}
	c.report(err)
	if s != nil && s != before {
		c.publish(s)
		c.log.Info("catalog is new", "version", s.Version, "campaigns", len(s.Campaigns), "assets", len(s.Assets),
			"expires", s.Expires)
		if c.opt.OnTime != nil && !s.SignedAt.IsZero() {
			c.opt.OnTime(s.SignedAt)
		}
	}
	c.judge(c.Snapshot(), err)
	return err
}

func (c *Catalog) report(err error) {
	code := ""
	if err != nil {
		code = CodeOf(err)
		raise(c.opt.Health, code, "The catalog could not be renewed: "+err.Error())
	}
	for _, other := range refreshCodes {
		if other != code {
			c.opt.Health.Clear(other)
		}
	}
}

// judge raises or clears the warnings that depend on the snapshot itself; err is how the last refresh ended.
func (c *Catalog) judge(s *Snapshot, err error) {
	now, _ := c.opt.Now()
	switch {
	case s.Version > 0 && !s.Fresh(now):
		raise(c.opt.Health, CodeExpired, fmt.Sprintf("The catalog expired on %s.", s.Expires.Format(time.RFC3339)))
	case err == nil || CodeOf(err) != CodeExpired: // else report has said so
		c.opt.Health.Clear(CodeExpired)
	}
	if len(s.Rejected) > 0 {
		r := s.Rejected[0]
		raise(c.opt.Health, CodeAsset, fmt.Sprintf("%d assets or campaigns were left out. The first is of %s: %s.",
			len(s.Rejected), r.Path, r.Reason))
	} else {
		c.opt.Health.Clear(CodeAsset)
	}
}

// refresh walks the client workflow. It returns the present snapshot if nothing is new.
func (c *Catalog) refresh(ctx context.Context) (*Snapshot, error) {
	groups, boxID := slices.Clone(c.opt.Groups()), c.opt.BoxID()
	slices.Sort(groups)
	groups = slices.Compact(groups)
	now, _ := c.opt.Now()
	g := c.bundle.Good
	etag := c.etag
	if g == nil || !g.sameReader(groups, boxID) || now.Sub(c.rootAsked) >= rootEvery || !c.Snapshot().Fresh(now) {
		etag = ""
	}
	stamp, newTag, err := c.get(ctx, "metadata/timestamp.json", maxTimestampBytes, etag)
	if err != nil {
		return nil, err
	}
	if stamp == nil {
		return c.Snapshot(), nil // the server has nothing new
	}
	t, next, err := c.fetchTop(ctx, stamp, now)
	if err != nil {
		c.remember(next)
		return nil, err
	}
	cached := &sources{c: c, ctx: ctx, sums: map[string]string{}}
	t.getRole = cached.role
	if c.failures%maxFailedStores == maxFailedStores-1 {
		// Targets that were stored for catalogs that then failed must not pile up.
		if err := c.store.collect(g); err != nil {
			return nil, fail(CodeStore, "remove old targets", err)
		}
	}
	a := &assembler{
		t: t, groups: groups, boxID: boxID, now: now, prev: c.Snapshot(), sums: cached.sums, getTarget: cached.target,
	}
	s, err := a.run()
	if err != nil {
		c.remember(next)
		return nil, err
	}
	next.Good = &good{
		Timestamp: next.Timestamp, Snapshot: next.Snapshot, Roles: t.raw, Targets: a.sums, Groups: groups, BoxID: boxID,
	}
	if err := c.store.write(next); err != nil {
		return nil, fail(CodeStore, "store the catalog", err)
	}
	c.bundle, c.etag = next, newTag
	if err := c.store.collect(next.Good); err != nil {
		c.log.Warn("old targets could not be removed", "error", err)
	}
	if p := c.Snapshot(); p.Version == s.Version && g != nil && g.sameReader(groups, boxID) && len(p.Rejected) == len(s.Rejected) {
		return p, nil // asked again after a root check or a restart: nothing has changed
	}
	return s, nil
}

// fetchTop brings root, timestamp and snapshot up to date. The bundle that it returns is what to remember even if the rest
// fails.
func (c *Catalog) fetchTop(ctx context.Context, stamp []byte, now time.Time) (*trust, bundle, error) {
	next := c.bundle
	t, err := newTrust(next.Roots, now)
	if err != nil {
		return nil, next, err
	}
	if next.Roots, err = c.fetchRoots(ctx, t, next.Roots); err != nil {
		return nil, next, err
	}
	if next.Good != nil { // should the newer one be damaged
		t.recallTimestamp(next.Good.Timestamp)
	}
	if len(next.Timestamp) > 0 {
		t.recallTimestamp(next.Timestamp)
	}
	newer, err := t.setTimestamp(stamp)
	if newer {
		next.Timestamp = stamp
	}
	if err != nil {
		return nil, next, err
	}
	ref, err := t.snapshotRef()
	if err != nil {
		return nil, next, err
	}
	if len(next.Snapshot) > 0 {
		t.recallSnapshot(next.Snapshot)
	}
	raw := next.Snapshot
	if len(raw) == 0 || ref.VerifyLengthHashes(raw) != nil {
		name := "metadata/" + strconv.FormatInt(ref.Version, 10) + ".snapshot.json"
		if raw, err = c.must(ctx, name, ref.Length, maxSnapshotBytes); err != nil {
			return nil, next, err
		}
	}
	if err := t.setSnapshot(raw); err != nil {
		return nil, next, err
	}
	next.Snapshot = raw
	return t, next, nil
}

func (c *Catalog) fetchRoots(ctx context.Context, t *trust, roots [][]byte) ([][]byte, error) {
	roots = slices.Clip(roots)
	for range maxRootSteps {
		name := "metadata/" + strconv.FormatInt(t.tm.Root.Signed.Version+1, 10) + ".root.json"
		b, _, err := c.get(ctx, name, maxRootBytes, "")
		if isNotFound(err) {
			c.rootAsked, _ = c.opt.Now()
			return roots, nil
		}
		if err != nil {
			return roots, err
		}
		if err := t.addRoot(b); err != nil {
			return roots, err
		}
		c.log.Info("new root", "version", t.tm.Root.Signed.Version)
		roots = append(roots, b)
	}
	return roots, nil
}

// remember stores newer roots, timestamp and snapshot after a refresh that failed further on: what was verified once must
// not be rolled back, though it is not whole yet.
func (c *Catalog) remember(next bundle) {
	b := &c.bundle
	if len(next.Roots) == len(b.Roots) && slices.Equal(next.Timestamp, b.Timestamp) && slices.Equal(next.Snapshot, b.Snapshot) {
		return
	}
	next.Good = b.Good
	if err := c.store.write(next); err != nil {
		c.log.Warn("newest catalog version could not be remembered", "error", err)
		return
	}
	c.bundle = next
}

var errNotFound = &Error{Code: CodeIncomplete, Op: "get", Err: fmt.Errorf("HTTP status %d", http.StatusNotFound)}

func isNotFound(err error) bool { return errors.Is(err, errNotFound) }
