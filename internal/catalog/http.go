package catalog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// patience is how long one file may take: a base, and more for long files at the slowest rate that is put up with.
func patience(limit int64) time.Duration {
	const slowest = 16 << 10 // bytes per second
	return 30*time.Second + time.Duration(limit/slowest)*time.Second
}

// get fetches URL/name, of at most limit bytes. With an etag it returns nil bytes if the server has nothing else.
func (c *Catalog) get(ctx context.Context, name string, limit int64, etag string) (b []byte, newTag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience(limit))
	defer cancel()
	op := "get " + name
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.opt.URL+"/"+escape(name), nil)
	if err != nil {
		return nil, "", fail(CodeUnreachable, op, err)
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := c.opt.Client.Do(req)
	c.count(1, 0)
	if err != nil {
		return nil, "", fail(CodeUnreachable, op, err)
	}
	defer func() { _ = resp.Body.Close() }() // read to the end or given up
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return nil, etag, nil
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
		return nil, "", fail(CodeIncomplete, op, errNotFound)
	case resp.StatusCode != http.StatusOK:
		return nil, "", fail(CodeUnreachable, op, fmt.Errorf("HTTP status %d", resp.StatusCode))
	}
	b, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	c.count(0, int64(len(b)))
	if err != nil {
		return nil, "", fail(CodeUnreachable, op, err)
	}
	if int64(len(b)) > limit {
		return nil, "", fail(CodeIncomplete, op, fmt.Errorf("it is longer than %d bytes", limit))
	}
	return b, strongTag(resp.Header.Get("ETag")), nil
}

// must is get for a file whose exact length is signed.
func (c *Catalog) must(ctx context.Context, name string, length, most int64) ([]byte, error) {
	if length > most {
		return nil, fail(CodeInvalid, "get "+name, fmt.Errorf("%d bytes are signed, more than %d", length, most))
	}
	b, _, err := c.get(ctx, name, length, "")
	if err == nil && int64(len(b)) != length {
		err = fail(CodeIncomplete, "get "+name, fmt.Errorf("%d of %d bytes", len(b), length))
	}
	return b, err
}

func (c *Catalog) count(requests, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Requests += requests
	c.stats.Bytes += bytes
}

// strongTag drops weak tags: only equal bytes are equal here.
func strongTag(tag string) string {
	if strings.HasPrefix(tag, `"`) {
		return tag
	}
	return ""
}

func escape(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// sources gives one refresh its files: from disk if they are there, else from the server, which are then kept.
type sources struct {
	c    *Catalog
	ctx  context.Context //nolint:containedctx // lives for one refresh
	sums map[string]string
}

func (s *sources) role(role string, ref *metadata.MetaFiles) ([]byte, error) {
	if g := s.c.bundle.Good; g != nil {
		if raw, ok := g.Roles[role]; ok && ref.VerifyLengthHashes(raw) == nil {
			return raw, nil
		}
	}
	name := "metadata/" + strconv.FormatInt(ref.Version, 10) + "." + role + ".json"
	return s.c.must(s.ctx, name, ref.Length, maxRoleBytes)
}

func (s *sources) target(path string, tf *metadata.TargetFiles) ([]byte, error) {
	sum := hex.EncodeToString(tf.Hashes["sha256"])
	if raw, err := s.c.store.target(sum, tf.Length); err == nil && int64(len(raw)) == tf.Length {
		return raw, nil
	}
	raw, err := s.c.must(s.ctx, "targets/"+urlName(path, sum), tf.Length, tf.Length)
	if err != nil {
		return nil, err
	}
	if got := sumHex(raw); got != sum {
		return nil, fail(CodeIncomplete, "target "+path, errors.New("its SHA-256 is not what was signed"))
	}
	if err := s.c.store.putTarget(sum, raw); err != nil {
		return nil, fail(CodeStore, "store target "+path, err)
	}
	return raw, nil
}
