package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"boxd/internal/asset"
)

// Reader reads one file of an asset. Read, Seek and SendN are for one goroutine at a time; Close may come from any.
type Reader struct {
	a    *Asset
	ctx  context.Context //nolint:containedctx // a Reader is one request: an io.Reader has no other way to be cancelled
	path string
	base int64 // of the file in the asset
	size int64
	stop chan struct{}

	once sync.Once
	raw  *os.File // for sendfile; opened at need

	// guarded by entry.mu
	pos    int64
	from   int64 // where it began, or went last
	read   int64 // since then
	closed bool
	active time.Time // of the last read

	full     bool // as much is here ahead of it as is wanted
	followed bool // the next is known
	follow   []asset.File

	lacks int // the piece that was last told to be lacking, plus 1; of the goroutine that reads
}

// OpenFile opens a file of the asset for a player. Reads wait for pieces that are missing, until ctx ends, and make
// Demand ask for them; space for what lies beyond the reservation is reserved when it is first wanted. Until the Reader
// is closed the asset is not evicted.
func (a *Asset) OpenFile(ctx context.Context, path string) (*Reader, error) {
	f, ok := a.info.File(path)
	if !ok {
		return nil, fmt.Errorf("open %s %q: %w", a.e.id.Short(), path, fs.ErrNotExist)
	}
	c := a.e.c
	c.mu.Lock()
	now := c.tick()
	c.mu.Unlock()
	r := &Reader{a: a, ctx: ctx, path: path, base: f.Offset, size: f.Length, stop: make(chan struct{}), active: time.Now()}
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	if a.e.gone {
		return nil, ErrGone
	}
	if a.e.readers == nil {
		a.e.readers = map[*Reader]bool{}
	}
	a.e.readers[r] = true
	a.e.begun(path, r.active)
	a.e.lastUse = now
	c.stats.readers.Add(1)
	return r, nil
}

// Size is the length of the file in bytes.
func (r *Reader) Size() int64 { return r.size }

// Seek sets where the next Read begins; it waits for nothing.
func (r *Reader) Seek(off int64, whence int) (int64, error) {
	e := r.a.e
	e.mu.Lock()
	defer e.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		off += r.pos
	case io.SeekEnd:
		off += r.size
	}
	if off < 0 {
		return 0, fmt.Errorf("seek to %d in %s: %w", off, e.id.Short(), fs.ErrInvalid)
	}
	if off != r.pos {
		r.pos, r.from, r.read = off, off, 0
	}
	return off, nil
}

// Read waits for the first byte and returns as much as is verified behind it.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var failed time.Time
	for {
		off, n, err := r.next(int64(len(p)))
		if err != nil {
			return 0, err
		}
		k, err := r.a.ReadVerifiedAt(p[:n], off)
		switch {
		case err == nil || errors.Is(err, io.EOF):
			r.advance(int64(k))
			return k, nil
		case !errors.Is(err, ErrNotVerified):
			return 0, err
		}
		// Lost under the read: wait for its repair, but not for ever.
		if failed.IsZero() {
			failed = time.Now()
			continue
		}
		if time.Since(failed) > r.a.e.c.o.RepairWait {
			return 0, err
		}
	}
}

func (r *Reader) advance(n int64) {
	e := r.a.e
	e.mu.Lock()
	r.pos += n
	r.read += n
	e.pace.add(n, time.Now())
	e.mu.Unlock()
}

// next waits until the byte at the position is verified and returns where it is in the asset and how many bytes from
// there, at most limit, are verified and in the file.
func (r *Reader) next(limit int64) (off, n int64, err error) {
	e := r.a.e
	var lost <-chan time.Time
	for {
		e.mu.Lock()
		switch {
		case r.closed:
			err = fs.ErrClosed
		case e.gone:
			err = ErrGone
		case r.pos >= r.size:
			err = io.EOF
		case r.ctx.Err() != nil:
			err = r.ctx.Err()
		}
		if err != nil {
			e.mu.Unlock()
			return 0, 0, err
		}
		off = r.base + r.pos
		i := int(off / e.pieceLen)
		r.active = time.Now()
		if end := e.have.next(i, false); end > i {
			n = min(limit, r.size-r.pos, int64(end)*e.pieceLen-off)
			e.mu.Unlock()
			return off, n, nil
		}
		changed, short, broken := e.wait(), i >= e.allocPieces(), e.broken[i]
		e.mu.Unlock()
		if short {
			if err := r.a.Grow(e.length); err != nil {
				return 0, 0, err
			}
			continue
		}
		if lost == nil && broken {
			lost = time.After(e.c.o.RepairWait)
		}
		r.announce(r.lacks != i+1)
		r.lacks = i + 1
		select {
		case <-changed:
		case <-r.stop:
		case <-r.ctx.Done():
		case <-lost:
			return 0, 0, fmt.Errorf("read %s at %d: not repaired in time: %w", e.id.Short(), off, ErrNotVerified)
		}
	}
}

// Ask tells whoever fetches that this reader waits at its position, without waiting itself.
func (r *Reader) Ask() { r.announce(true) }

// announce tells whoever fetches or re-hashes that this reader waits, and whether it is for something new.
func (r *Reader) announce(anew bool) {
	c := r.a.e.c
	c.poke(c.check)
	c.mu.Lock()
	c.wake()
	if anew {
		close(c.waiting)
		c.waiting = make(chan struct{})
	}
	c.mu.Unlock()
}

// Close lets the asset be evicted again and ends a Read that waits.
func (r *Reader) Close() error {
	r.once.Do(func() {
		e := r.a.e
		close(r.stop)
		e.c.mu.Lock()
		now := e.c.tick()
		e.c.mu.Unlock()
		e.mu.Lock()
		r.closed = true
		delete(e.readers, r)
		if r.pos >= r.size && r.through() && len(r.a.info.Files) > 1 {
			e.ended(r, time.Now())
		}
		e.lastUse = now
		e.notify()
		raw := r.raw
		e.mu.Unlock()
		e.c.stats.readers.Add(-1)
		e.c.mark(e) // the time of use goes with the next commit
		if raw != nil {
			_ = raw.Close() // opened for reading: nothing to lose
		}
	})
	return nil
}
