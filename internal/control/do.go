package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
)

// commandTimeout bounds a command that nobody waits for any more; a verify of 100 GiB at 30 MB/s takes an hour.
const commandTimeout = time.Hour

// answers remembers the results of recent commands by id, so that a repeated one is not run again.
type answers struct {
	mu    sync.Mutex // guards the fields below
	byID  map[string]*answer
	order []string
}

type answer struct {
	done   chan struct{}
	result Result
}

const maxAnswers = 128

// once runs f for a new id; for a known one it waits for the first run's result.
func (a *answers) once(ctx context.Context, id string, f func() Result) Result {
	if id == "" {
		return f()
	}
	a.mu.Lock()
	known, ok := a.byID[id]
	if !ok {
		if a.byID == nil {
			a.byID = map[string]*answer{}
		}
		known = &answer{done: make(chan struct{})}
		a.byID[id] = known
		a.order = append(a.order, id)
		if len(a.order) > maxAnswers {
			delete(a.byID, a.order[0])
			a.order = slices.Delete(a.order, 0, 1)
		}
	}
	a.mu.Unlock()
	if !ok {
		known.result = f()
		close(known.done)
		return known.result
	}
	select {
	case <-known.done:
		return known.result
	case <-ctx.Done():
		return failed(CodeTimeout, "the command is still running")
	}
}

// Do runs a command. It always answers.
func (b *Box) Do(ctx context.Context, cmd Command) Result {
	return b.answers.once(ctx, cmd.ID, func() Result {
		ctx, cancel := context.WithTimeout(ctx, commandTimeout)
		defer cancel()
		res := b.do(ctx, cmd)
		b.log.Info("command", "name", cmd.Name, "id", cmd.ID, "status", string(res.Status), "code", res.Code)
		b.wake()
		return res
	})
}

func (b *Box) do(ctx context.Context, cmd Command) Result {
	switch cmd.Name {
	case "refresh":
		return b.refresh(ctx)
	case "pin", "unpin", "evict", "verify":
		return b.onAsset(ctx, cmd)
	case "pause", "resume":
		return b.pause(cmd.Name == "pause")
	case "log-tail":
		return b.logTail(cmd.Args)
	case "diagnose":
		return done("Checked.", Diagnose(ctx, b.doctor()))
	case "set-limits":
		return b.doLimits(cmd.Args)
	case "renew-certificate":
		if err := b.o.Identity.Renew(ctx); err != nil {
			return failure(err)
		}
		return done("The certificate was renewed.", nil)
	}
	return failed(CodeUnknown, "no command is called %.40q", cmd.Name)
}

// failure is the result of an error of a service.
func failure(err error) Result {
	code := CodeFailed
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code = CodeTimeout
	case errors.Is(err, cache.ErrInUse):
		code = CodeInUse
	case errors.Is(err, cache.ErrPinned):
		code = CodePinned
	case errors.Is(err, cache.ErrNotFound):
		code = CodeNoAsset
	}
	return failed(code, "%v", err)
}

// decode reads arguments strictly; none are an empty object.
func decode(raw json.RawMessage, v any) error {
	if len(bytes.TrimSpace(raw)) == 0 || string(raw) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("arguments: more than one JSON value")
	}
	return nil
}

func (b *Box) refresh(ctx context.Context) Result {
	before := b.o.Catalog.Snapshot().Version
	if err := b.o.Catalog.Refresh(ctx); err != nil {
		return failure(err)
	}
	after := b.o.Catalog.Snapshot().Version
	text := fmt.Sprintf("Catalog version %d is the newest.", after)
	if after != before {
		text = fmt.Sprintf("Catalog version %d replaces %d.", after, before)
	}
	return done(text, map[string]int64{"version": after})
}

func (b *Box) onAsset(ctx context.Context, cmd Command) Result {
	var args AssetArgs
	if err := decode(cmd.Args, &args); err != nil {
		return failed(CodeBadArgs, "%v", err)
	}
	a, err := b.Snapshot().Choose(args.Asset)
	if err != nil {
		return failed(CodeNoAsset, "%v", err)
	}
	switch cmd.Name {
	case "pin", "unpin":
		if err := b.o.Cache.Pin(a.ID, cmd.Name == "pin"); err != nil {
			return failure(err)
		}
		if cmd.Name == "pin" {
			return done(a.Name+" is kept until it is unpinned.", nil)
		}
		return done(a.Name+" is kept as long as policy says.", nil)
	case "evict":
		return b.evict(a)
	default:
		return b.verify(ctx, a)
	}
}

func (b *Box) evict(a Asset) Result {
	if err := b.o.Cache.Remove(a.ID, "operator"); err != nil {
		return failure(err)
	}
	return done(a.Name+" was removed from the cache.", nil)
}

func (b *Box) verify(ctx context.Context, a Asset) Result {
	res, err := b.o.Cache.Verify(ctx, a.ID)
	if err != nil {
		return failure(err)
	}
	text := fmt.Sprintf("%s: %d pieces, %d bytes, all right.", a.Name, res.Pieces, res.Bytes)
	if n := len(res.Bad); n > 0 {
		text = fmt.Sprintf("%s: %d of %d pieces were damaged and are fetched again.", a.Name, n, res.Pieces)
	}
	return done(text, res)
}

func (b *Box) pause(paused bool) Result {
	if err := b.setPaused(paused); err != nil {
		return failure(err)
	}
	if paused {
		return done("Fetching is paused; what is here plays and is shared in the home.", nil)
	}
	return done("Fetching goes on.", nil)
}

func (b *Box) logTail(raw json.RawMessage) Result {
	var args LogArgs
	if err := decode(raw, &args); err != nil {
		return failed(CodeBadArgs, "%v", err)
	}
	if args.Lines <= 0 {
		args.Lines = 100
	}
	lines := []string{}
	if b.o.LogRing != nil {
		lines = append(lines, b.o.LogRing.Tail(min(args.Lines, maxTail))...)
	}
	return done(fmt.Sprintf("%d lines.", len(lines)), map[string][]string{"lines": lines})
}

// maxTail bounds the lines of log-tail.
const maxTail = 2000

func (b *Box) doLimits(raw json.RawMessage) Result {
	var args LimitArgs
	if err := decode(raw, &args); err != nil {
		return failed(CodeBadArgs, "%v", err)
	}
	if args.WANDown != nil && *args.WANDown < 0 || args.WANUp != nil && *args.WANUp < 0 {
		return failed(CodeBadArgs, "limits are bytes a second and not negative")
	}
	if err := b.setLimits(Limits(args)); err != nil {
		return failure(err)
	}
	b.mu.Lock()
	eff := b.limits.effective()
	b.mu.Unlock()
	return done("The limits are set.", eff)
}

// AssetFiles is an asset with all its files.
func (b *Box) AssetFiles(id asset.ID) (Asset, bool) {
	var fs FetchState
	if b.o.Fetch != nil {
		fs = b.o.Fetch.State()
	}
	for _, a := range b.assets(b.o.Catalog.Snapshot(), fs, asset.MaxFiles) {
		if a.ID == id {
			return a, true
		}
	}
	return Asset{}, false
}
